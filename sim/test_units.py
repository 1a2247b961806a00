# SPDX-License-Identifier: MIT
"""Every unit, verilated, against the golden functions, under cocotb."""

import dataclasses
import re

import pytest

from model.deployed.geometry import HOPPER_Z2, HOPPER_Z2_LRF, ODD, TINY, Geometry
from sim.build import component_verilog, run_bench, simulation
from sim.units import AllUnits, units_of

GEOMETRIES = {
    "TINY": TINY,
    "ODD": ODD,
    "HOPPER_Z2": HOPPER_Z2,
    "TINY LRF-Dyn": TINY.with_attention("lrf-dyn"),
    "ODD LRF-Dyn, ungated": dataclasses.replace(ODD.with_attention("lrf-dyn"), dendrites=3, gate=False),
    "HOPPER_Z2_LRF": HOPPER_Z2_LRF,
}


def built(geometry: Geometry) -> list[str]:
    """Return the units that a geometry's simulation has: of another attention than PSSA, those that are new."""
    return units_of(geometry) if geometry.attention == "pssa" else ["attention", "dendrites", "sequencer", "bank"]


def units(name: str, geometry: Geometry):
    text = component_verilog(geometry.to_json(), lambda: AllUnits(geometry, built(geometry)), "units")
    return simulation(f"units {name}", text, "units")


@pytest.mark.parametrize(("name", "unit"), [(name, unit) for name, g in GEOMETRIES.items() for unit in built(g)])
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
