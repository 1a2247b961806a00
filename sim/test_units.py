# SPDX-License-Identifier: MIT
"""Every unit, verilated, against the golden functions, under cocotb."""

import dataclasses
import re
from collections.abc import Sequence

import pytest

from model.deployed.geometry import Geometry
from model.deployed.presets import HOPPER_Z2, HOPPER_Z2_LRF, HOPPER_Z2_PLASTIC, HOPPER_Z2_SSSA, ODD, TINY
from model.deployed.sizes import Plasticity
from sim.build import component_verilog, run_bench, simulation
from sim.units import AllUnits, units_of

GEOMETRIES = {"TINY": TINY, "ODD": ODD, "HOPPER_Z2": HOPPER_Z2}

MATCHING = {
    "HOPPER_Z2_SSSA": HOPPER_Z2_SSSA,
    "TINY TSSA": TINY.with_attention("tssa"),
    "TINY SSSA, 2 heads": dataclasses.replace(TINY.with_attention("sssa"), heads=2),
    "TINY TSSA, 8 heads": dataclasses.replace(TINY.with_attention("tssa"), heads=8),
    "ODD SSSA, 4 heads": dataclasses.replace(ODD.with_attention("sssa"), heads=4),
    "ODD TSSA, 2 heads": dataclasses.replace(ODD.with_attention("tssa"), heads=2),
}
"""One head, a head a group, heads that share one; windows that two cycles halve and such that they do not."""


DENDRITIC = {
    "HOPPER_Z2_LRF": HOPPER_Z2_LRF,
    "TINY LRF-Dyn": TINY.with_attention("lrf-dyn"),
    "ODD LRF-Dyn, ungated": dataclasses.replace(ODD.with_attention("lrf-dyn"), dendrites=3, gate=False),
}


GATED = {
    name: dataclasses.replace(g, adaptive=True) for name, g in (("HOPPER_Z2", HOPPER_Z2), ("TINY", TINY), ("ODD", ODD))
}


PLASTIC = {
    "HOPPER_Z2_PLASTIC": HOPPER_Z2_PLASTIC,
    "ODD": dataclasses.replace(ODD, plasticity=Plasticity(6, 2, 0, factor_bits=6, most_change=5)),
}


CODED = {
    "HOPPER_Z2, phase over tokens": dataclasses.replace(
        HOPPER_Z2, heads=4, phase="query", phase_over="tokens", period=16
    ),
    "ODD, phase over steps": dataclasses.replace(ODD, heads=5, phase="query"),
}
"""Heads of several groups, heads across groups."""


def units(name: str, geometry: Geometry, names: Sequence[str]):
    text = component_verilog(f"{geometry.to_json()}|{names}", lambda: AllUnits(geometry, names), "units")
    return simulation(f"units {name}", text, "units")


@pytest.mark.parametrize("unit", units_of(HOPPER_Z2))
@pytest.mark.parametrize("name", GEOMETRIES)
def test_unit(name, unit):
    check(name, GEOMETRIES[name], unit, units_of(HOPPER_Z2))


@pytest.mark.parametrize("name", MATCHING)
def test_match_unit(name):
    check(name, MATCHING[name], "attention", ["attention"])


@pytest.mark.parametrize("unit", ["attention", "dendrites", "bank", "sequencer"])
@pytest.mark.parametrize("name", DENDRITIC)
def test_dendritic_unit(name, unit):
    check(name, DENDRITIC[name], unit, ["attention", "dendrites", "bank", "sequencer"])


@pytest.mark.parametrize("name", GATED)
def test_step_gate(name):
    check(f"{name}, step gates", GATED[name], "gate", ["gate"])


@pytest.mark.parametrize("name", CODED)
def test_phase(name):
    check(name, CODED[name], "phase", ["phase"])


@pytest.mark.parametrize("name", PLASTIC)
def test_plasticity(name):
    check(f"{name}, plasticity", PLASTIC[name], "plasticity", ["plasticity"])


def check(name: str, geometry: Geometry, unit: str, built: Sequence[str]) -> None:
    """Run a unit's bench, the unit among those that are built together."""
    log = run_bench(
        *(units(name, geometry, built), "units", "sim.bench_units", r"\.unit$", 1),
        geometry=geometry.to_json(),
        unit=unit,
        runs="6",
    )
    compared = re.search(rf"compared (\d+) values of {unit} ", log)
    assert compared, log
    assert int(compared[1]) > 100
