# SPDX-License-Identifier: MIT
"""Every unit, verilated, against the golden functions, under cocotb."""

import re

import pytest

from model.deployed.geometry import HOPPER_Z2, ODD, TINY, Geometry
from sim.build import component_verilog, run_bench, simulation
from sim.units import UNITS, AllUnits

GEOMETRIES = {"TINY": TINY, "ODD": ODD, "HOPPER_Z2": HOPPER_Z2}


def units(name: str, geometry: Geometry):
    text = component_verilog(geometry.to_json(), lambda: AllUnits(geometry), "units")
    return simulation(f"units {name}", text, "units")


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_unit(name, unit):
    geometry = GEOMETRIES[name]
    log = run_bench(
        *(units(name, geometry), "units", "sim.bench_units", r"\.unit$", 1),
        geometry=geometry.to_json(),
        unit=unit,
        runs="6",
    )
    compared = re.search(rf"compared (\d+) values of {unit} ", log)
    assert compared, log
    assert int(compared[1]) > 100
