# SPDX-License-Identifier: MIT
"""A board's sensors."""

import pytest

from host.board.power import read_power


def test_rails_are_found_by_the_sensor_s_name_and_power_is_computed(tmp_path):
    assert read_power(tmp_path) == []
    for number, (name, files) in enumerate(
        {
            "acpitz": {"curr1_input": "1", "in1_input": "1"},
            "irps5401": {
                **{"curr1_input": "4375", "in1_input": "851", "curr1_label": "iout1", "power1_input": "3500000"},
                **{"curr2_input": "junk", "in2_input": "1800"},
            },
            "ina226": {"curr1_input": "-1159", "in0_input": "5", "in1_input": "12110"},
        }.items()
    ):
        entry = tmp_path / f"sys/class/hwmon/hwmon{number}"
        entry.mkdir(parents=True)
        for file, text in {"name": name, **files}.items():
            (entry / file).write_text(text + "\n")
    assert read_power(tmp_path) == [
        {"sensor": "irps5401", "rail": "iout1", "v": 0.851, "a": 4.375, "mw": pytest.approx(3723.125)},
        {"sensor": "ina226", "rail": "hwmon2/1", "v": 12.11, "a": -1.159, "mw": pytest.approx(-14035.49)},
    ]
