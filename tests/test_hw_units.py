# SPDX-License-Identifier: MIT
"""Every unit in Amaranth's simulator, over geometries and stalls, against the golden functions."""

import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hw.memory import ULTRA_ROWS
from hw.memory_map import memory_map
from model.deployed.geometry import CIRCUITS, PHASE_CLOCKS, Geometry, GeometryError
from model.deployed.presets import ODD, TINY
from model.deployed.sizes import Plasticity
from sim.benches import BENCHES
from sim.ports import simulate
from sim.units import UNITS

SMALL = Geometry(observation_size=2, action_size=1, d_model=4, layers=1, steps=1, window=2, mlp_ratio=1, group=2)


@st.composite
def geometries(draw: st.DrawFn, attentions: Sequence[str] = CIRCUITS, wanted: str = "") -> Geometry:
    """Draw small geometries: odd sizes, one step to five, one group to three, every number of rows a cycle; every
    attention that has a circuit, with heads that share a group and such that span groups; with step gates, phase
    codes and plasticity and without; with the module whose unit is `wanted` always."""
    rows = draw(st.sampled_from([1, 2, 4]))
    group = draw(st.sampled_from([2, 4, 6] if rows == 4 else [2, 3, 4, 5]))
    d_model = group * draw(st.integers(1, 3))
    attention = draw(st.sampled_from(attentions))
    dendritic = attention == "lrf-dyn"
    adaptive = wanted == "gate" or draw(st.booleans())
    dense_bits = draw(st.integers(2, 8))
    rule = Plasticity(
        trace_bits=draw(st.integers(4, 20)),
        trace_shift=draw(st.integers(1, 8)),
        rate_shift=draw(st.integers(0, 12)),
        factor_bits=draw(st.integers(2, 10)),
        most_change=draw(st.integers(1, (1 << (dense_bits - 1)) - 1)),
    )
    shares = [s for s in range(1, d_model + 1) if d_model % s == 0 and (s % group == 0 or group % s == 0)]
    gate = draw(st.booleans()) if dendritic else True
    coded = wanted == "phase" or (gate and draw(st.booleans()))
    choices = {"phase": "query", "phase_over": draw(st.sampled_from(PHASE_CLOCKS))}
    if choices["phase_over"] == "tokens":
        choices["period"] = draw(st.integers(1, 5))
    heads = d_model // draw(st.sampled_from(shares))
    return dataclasses.replace(
        SMALL,
        observation_size=draw(st.integers(1, 6)),
        action_size=draw(st.integers(1, 3)),
        group=group,
        d_model=d_model,
        layers=draw(st.integers(1, 3)),
        steps=draw(st.integers(3 if adaptive else 1, 5)),
        window=SMALL.with_attention(attention).window if dendritic else draw(st.integers(2, 5)),
        dendrites=draw(st.integers(2, 5)) if dendritic else SMALL.dendrites,
        gate=gate or coded,
        mlp_ratio=draw(st.integers(1, 3)),
        weight_bits=draw(st.integers(2, 6)),
        dense_weight_bits=dense_bits,
        input_bits=draw(st.integers(2, 8)),
        membrane_bits=draw(st.integers(6, 12)),
        table_log2=draw(st.integers(4, 6)),
        rows_per_cycle=rows,
        attention=attention,
        adaptive=adaptive,
        plasticity=rule if wanted == "plasticity" or draw(st.booleans()) else None,
        heads=heads if coded or attention in ("sssa", "tssa") else 1,
        **(choices if coded else {}),
    )


stalls = st.sampled_from([0.0, 0.2, 0.7])
seeds = st.integers(0, 2**32 - 1)

EXAMPLES = {"lif": 40, "walker": 40, "lanes": 40, "rows": 20, "memory": 20, "attention": 60, "registers": 6}


@pytest.mark.parametrize("unit", UNITS)
def test_unit(unit):
    checked = 0
    attentions = ("lrf-dyn",) if unit == "dendrites" else CIRCUITS

    # a seed does not shrink
    @settings(
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        max_examples=EXAMPLES.get(unit, 20),
        database=None,
        phases=[Phase.generate],
    )
    @given(geometry=geometries(attentions, unit), stall=stalls, seed=seeds)
    def check(geometry, stall, seed):
        nonlocal checked
        checked += simulate(UNITS[unit](geometry), BENCHES[unit], geometry, seed, stall)

    check()
    assert checked > 100


def test_four_rows_a_cycle_need_even_groups():
    # rows of odd groups change their parity from group to group: they would be read from the wrong bank
    with pytest.raises(GeometryError, match="group must be even"):
        dataclasses.replace(SMALL, d_model=10, group=5, rows_per_cycle=4)


@pytest.mark.parametrize("geometry", [TINY, ODD], ids=["TINY", "ODD"])
@pytest.mark.parametrize("unit", ["lif", "walker", "memory", "counters"])
def test_unit_of_a_preset(unit, geometry):
    assert simulate(UNITS[unit](geometry), BENCHES[unit], geometry, 1, 0.3) > 100


@pytest.mark.parametrize("ports", [1, 2])
def test_a_memory_as_deep_as_an_ultraram(ports):
    geometry = dataclasses.replace(TINY, d_model=8, mlp_ratio=128, rows_per_cycle=ports)
    assert memory_map(geometry)["weights"].rows >= ULTRA_ROWS
    assert simulate(UNITS["rows"](geometry), BENCHES["rows"], geometry, 1, 0.3) > 100
