# SPDX-License-Identifier: MIT
"""The accelerator, verilated, driven through AXI4-Lite by the shipped driver: integer for integer PyTorch's."""

import re

import pytest

from hw.generate import TOP, verilog
from model.geometry import HOPPER_Z2, ODD, TINY, Geometry
from sim.build import kept_text, run_bench, simulation

NAMES = {TINY: "TINY", ODD: "ODD", HOPPER_Z2: "HOPPER_Z2"}


def accelerator(geometry: Geometry):
    text = kept_text(f"accelerator|{geometry.to_json()}", lambda: verilog(geometry))
    return simulation(f"accelerator {NAMES[geometry]}", text, TOP, visible={f"{TOP}.accelerator.core": "busy"})


def fly(geometry: Geometry, policies: int, lengths: tuple[int, ...], deep: bool) -> None:
    log = run_bench(
        accelerator(geometry),
        TOP,
        "sim.bench_accelerator",
        r"\.episodes$",
        1,
        geometry=geometry.to_json(),
        policies=str(policies),
        lengths=",".join(map(str, lengths)),
        deep=str(int(deep)),
    )
    compared = re.search(r"compared (\d+) decisions", log)
    assert compared, log
    assert int(compared[1]) == policies * sum(lengths)


@pytest.mark.parametrize(
    ("geometry", "policies", "lengths", "deep"),
    [(HOPPER_Z2, 1, (24, 8), False), (TINY, 10, (30, 16, 4), True), (ODD, 10, (30, 16, 4), True)],
    ids=["HOPPER_Z2", "TINY", "ODD"],
)
def test_equals_pytorch(geometry, policies, lengths, deep):
    fly(geometry, policies, lengths, deep)
