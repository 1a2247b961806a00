# SPDX-License-Identifier: MIT
"""A board's own sensors, from trees of files that look like its kernel's: rails by hwmon and pynq, temperature."""

import sys
import types

import pytest

from host.board import rails as rails_module
from host.board.power import read_power
from host.board.rails import MeterError, open_rails
from host.board.temperature import read_temperature

ZCU104 = b"xlnx,zynqmp-zcu104-revC\0xlnx,zynqmp\0"


def hwmon(root, number, name, address, files):
    """Make a monitor's folder, with its I2C device behind a link as in sysfs."""
    entry = root / f"sys/class/hwmon/hwmon{number}"
    device = root / f"sys/devices/i2c-{number + 3}/{number + 3}-{address}"
    device.mkdir(parents=True)
    entry.mkdir(parents=True)
    (entry / "device").symlink_to(device)
    for file, text in {"name": name, **files}.items():
        (entry / file).write_text(f"{text}\n")
    return entry


def pmbus(outputs, inputs=1):
    """Return a PMBus device's files, with labels; kernels count one input or one per output before the outputs.

    outputs : output -> (millivolts, milliamperes).
    """
    files = {}
    for kind, side in (("in", "vin"), ("curr", "iin")):
        for n in range(1, inputs + 1):
            files |= {f"{kind}{n}_label": f"{side}{n if inputs > 1 else ''}", f"{kind}{n}_input": 11560}
    for place, (output, (millivolts, milliamperes)) in enumerate(outputs.items(), inputs + 1):
        files |= {f"in{place}_label": f"vout{output}", f"in{place}_input": millivolts}
        files |= {f"curr{place}_label": f"iout{output}", f"curr{place}_input": milliamperes}
        files |= {f"power{place}_label": f"pout{output}", f"power{place}_input": 3_500_000}
    return files


def zcu104(root, inputs=1):
    (root / "proc/device-tree").mkdir(parents=True)
    (root / "proc/device-tree/compatible").write_bytes(ZCU104)
    hwmon(root, 0, "acpitz", "0010", {"curr1_input": 1, "in1_input": 1})
    first = {1: (851, 4375), 2: (1800, 500), 3: (1200, 250), 5: (906, 125)}
    hwmon(root, 1, "irps5401", "0043", pmbus(first, inputs))
    hwmon(root, 2, "irps5401", "0044", pmbus({1: (3300, 62), 5: (850, 1000)}, inputs))
    return hwmon(root, 7, "ina226", "0040", {"curr1_input": 1159, "in0_input": 5, "in1_input": 12110})


@pytest.mark.parametrize("inputs", [1, 4])
def test_a_zcu104_s_rails_have_their_names_and_power_is_computed(tmp_path, inputs):
    assert read_power(tmp_path) == []
    zcu104(tmp_path, inputs)
    found = {rail["rail"]: rail for rail in read_power(tmp_path)}
    assert list(found) == ["INT", "1V8", "1V2", "MGTA", "3V3", "MGTRA", "12V"]
    assert found["INT"] == {"sensor": "irps5401", "rail": "INT", "v": 0.851, "a": 4.375, "mw": 3723.125}
    assert found["12V"] == {"sensor": "ina226", "rail": "12V", "v": 12.11, "a": 1.159, "mw": 14035.49}
    assert found["MGTRA"]["mw"] == 850.0


def test_on_another_board_rails_go_by_their_place(tmp_path):
    zcu104(tmp_path)
    (tmp_path / "proc/device-tree/compatible").write_bytes(b"xlnx,zynqmp-zcu102\0")
    assert [rail["rail"] for rail in read_power(tmp_path)][::6] == ["irps5401-0043/1", "ina226-0040/1"]


@pytest.mark.parametrize("text", ["junk", "", "1.5"])
def test_a_rail_that_does_not_answer_is_left_out(tmp_path, text):
    entry = zcu104(tmp_path)
    (entry / "curr1_input").write_text(text)
    assert "12V" not in [rail["rail"] for rail in read_power(tmp_path)]
    (entry / "curr1_input").unlink()
    assert "12V" not in [rail["rail"] for rail in read_power(tmp_path)]
    (entry / "curr1_input").write_text("-20\n")  # a current may flow back
    assert read_power(tmp_path)[-1]["mw"] == -242.2


# Which sensors are read


def with_pynq(monkeypatch, **rails):
    """Put a pynq with these rails in place, volts and amperes of each."""

    def sensor(value):
        return None if value is None else types.SimpleNamespace(value=value)

    module = types.ModuleType("pynq")
    module.get_rails = lambda: {
        name: types.SimpleNamespace(name=name, voltage=sensor(v), current=sensor(a), power=sensor(3.5))
        for name, (v, a) in rails.items()
    }
    monkeypatch.setitem(sys.modules, "pynq", module)


def test_pynq_s_rails_are_voltage_times_current(monkeypatch, tmp_path):
    with_pynq(monkeypatch, INT=(0.851, 4.375), PSTEMP=(None, 1.0))
    opened = open_rails("pynq", tmp_path)
    assert (opened.source, opened.reason) == ("pynq", "as --meter says: INT")
    assert opened.read() == [{"sensor": "pynq", "rail": "INT", "v": 0.851, "a": 4.375, "mw": 3723.125}]


def test_auto_prefers_the_kernel_then_pynq_then_none(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pynq", None)  # importing it fails
    assert open_rails("auto", tmp_path).source == "none"
    assert open_rails("auto", tmp_path).read() == []
    with_pynq(monkeypatch, INT=(0.851, 4.375))
    opened = open_rails("auto", tmp_path)
    assert (opened.source, opened.reason) == ("pynq", "hwmon shows no known sensor, pynq does: INT")
    entry = zcu104(tmp_path)
    opened = open_rails("auto", tmp_path)
    assert opened.source == "hwmon"
    assert opened.reason.startswith("the kernel shows sensors: INT, 1V8")
    before = opened.read()[-1]["mw"]
    (entry / "curr1_input").write_text("2000\n")
    assert (before, opened.read()[-1]["mw"]) == (14035.49, 24220.0)
    assert open_rails("none", tmp_path).source == "none"


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [("hwmon", "no power monitor in .*hwmon answers"), ("pynq", "pynq shows no power rails .import of pynq halted")],
)
def test_sensors_that_are_asked_for_and_not_there(monkeypatch, tmp_path, kind, sentence):
    monkeypatch.setitem(sys.modules, "pynq", None)
    with pytest.raises(MeterError, match=sentence):
        open_rails(kind, tmp_path)
    assert rails_module.RAIL_SOURCES == ("auto", "hwmon", "pynq", "none")


@pytest.mark.parametrize("module", [types.ModuleType("pynq"), types.SimpleNamespace(get_rails=dict)])
def test_a_pynq_without_rails_stands_in_nobody_s_way(monkeypatch, tmp_path, module):
    monkeypatch.setitem(sys.modules, "pynq", module)
    assert open_rails("auto", tmp_path).source == "none"
    with pytest.raises(MeterError, match=r"pynq shows no power rails \((it has none|module 'pynq' has no attribute)"):
        open_rails("pynq", tmp_path)


# Temperature


def iio(root, name, **files):
    device = root / "sys/bus/iio/devices/iio:device0"
    device.mkdir(parents=True)
    for file, text in {"name": name, **files}.items():
        (device / file).write_text(f"{text}\n")


def test_the_xadc_of_a_zynq_7000(tmp_path):
    assert read_temperature(tmp_path) is None
    iio(tmp_path, "xadc", in_temp0_raw=2573, in_temp0_offset=-2219, in_temp0_scale="123.040771484")
    # 12 bits of 503.975 kelvin over zero at 273.15
    assert read_temperature(tmp_path) == pytest.approx(2573 * 503.975 / 4096 - 273.15, abs=0.2)


def test_the_hottest_of_a_zynqmp_s_three(tmp_path):
    files = {}
    for place, raw in (("temp0_ps_temp", 40000), ("temp2_pl_temp", 41000), ("temp1_remote_temp", 39000)):
        files |= {f"in_{place}_raw": raw, f"in_{place}_offset": -36058, f"in_{place}_scale": "7.771514892"}
    iio(tmp_path, "ams", **files, in_voltage0_raw=1)
    assert read_temperature(tmp_path) == round((41000 - 36058) * 7.771514892 / 1000, 2)


def test_hwmon_tells_where_iio_does_not(tmp_path):
    iio(tmp_path, "other", in_temp0_raw=1, in_temp0_offset=0, in_temp0_scale=1)
    hwmon(tmp_path, 0, "irps5401", "0043", {"temp1_input": 99000})  # a regulator's, not the die's
    assert read_temperature(tmp_path) is None
    hwmon(tmp_path, 1, "iio_hwmon", "0000", {"temp1_input": 43210})
    assert read_temperature(tmp_path) == 43.21
