# SPDX-License-Identifier: MIT
"""The whole decision core in Amaranth's simulator against the golden network, over geometries."""

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from host.golden_device import layer_rows
from host.policy_image import pack, unpack_head
from hw.core import DecisionCore
from hw.memory_map import memory_map
from hw.registers import ROW_UNITS, UNITS
from model.deployed.geometry import Geometry
from model.deployed.golden import GoldenNetwork
from model.deployed.golden_plasticity import PlasticNetwork
from model.deployed.presets import ODD, TINY
from model.deployed.random_policy import random_policy, random_tokens
from model.deployed.sizes import Plasticity
from sim.ports import Ports, simulate
from sim.stimulus import load, read
from tests.test_hw_units import geometries

MOST_WAIT = 6000


async def decide(core: Ports, token: np.ndarray, g: Geometry) -> None:
    core.set("token", [*token.tolist(), *[0] * (g.input_size - len(token))])
    core.set("start", 1)
    await core.tick()
    core.set("start", 0)
    assert core.get("busy")
    await core.until("done", MOST_WAIT)
    await core.tick()
    assert not core.get("busy")


async def learn(core: Ports, network: PlasticNetwork, factor: int, frozen: bool) -> None:
    """Change the head of both, compare its weights, and freeze what follows or not."""
    core.set("factor", factor)
    core.set("learn", 1)
    await core.tick()
    core.set("learn", 0)
    await core.until("learned", MOST_WAIT)
    network.learn(factor)
    section = memory_map(network.geometry)["head"]
    found = np.array(await read(core, "head", section.rows * section.stride), np.uint32)
    np.testing.assert_array_equal(unpack_head(network.geometry, found, len(network.weight)), network.weight)
    core.set("frozen", int(frozen))
    network.frozen = frozen


def flight(observations: int | None, actions: int | None, episodes: int, length: int):
    """Return a bench that flies random episodes with a random policy."""

    async def bench(core: Ports, g: Geometry, rng: np.random.Generator, stall: float) -> int:
        policy = random_policy(g, int(rng.integers(1 << 30)), observations, actions)
        network = (PlasticNetwork if g.plasticity else GoldenNetwork)(policy)
        for name, words in pack(policy).sections.items():
            await load(core, name, words)
            section, count = memory_map(g)[name], min(len(words), 8)
            exists = np.arange(count) % section.stride < section.words
            found = np.array(await read(core, name, count))
            np.testing.assert_array_equal(found[exists], words[:count][exists])
        core.set("input_count", policy.input_size)
        core.set("action_count", policy.action_size)
        core.set("entry_threshold", int(policy.tensors["entry.threshold"][0]))
        compared, signatures = 0, set()
        for episode in range(episodes):
            core.set("new_episode", 1)
            await core.tick()
            core.set("new_episode", 0)
            network.reset()
            for number, token in enumerate(random_tokens(policy, length, int(rng.integers(1 << 30)))):
                assert core.get("tokens") == min(number, g.reach + 1)
                await decide(core, token, g)
                trace = network.decide(token)
                unused = [0] * (g.action_size - policy.action_size)
                assert list(core.get("actions")) == [*trace.action.tolist(), *unused], episode
                assert list(core.get("signatures")) == trace.signatures
                assert core.get("saturations") == trace.saturations
                rows = [layer_rows(g, trace, layer) for layer in range(g.layers)]
                assert list(core.get("layer_rows")) == [sum(units.values()) for units in rows]
                by_unit = dict(zip(ROW_UNITS, core.get("unit_rows"), strict=True))
                assert by_unit == {unit: sum(units[unit] for units in rows) for unit in ROW_UNITS}
                cycles = dict(zip(UNITS, core.get("unit_cycles"), strict=True))
                assert sum(cycles.values()) == core.get("cycles")
                if isinstance(network, PlasticNetwork):
                    limit = 1 << (network.rule.factor_bits - 1)
                    await learn(core, network, int(rng.integers(-limit, limit)), rng.random() < 0.2)
                compared += len(trace.action) + trace.membranes[-1].size
                signatures.add(trace.signatures[-1])
                await core.tick(int(rng.integers(0, 4)))
        assert len(signatures) > 1
        return compared

    return bench


@settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=25, database=None, phases=[Phase.generate]
)
@given(geometry=geometries(), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_decides_as_golden(geometry, seed, data):
    observations = data.draw(st.integers(1, geometry.observation_size))
    actions = data.draw(st.integers(1, geometry.action_size))
    simulate(DecisionCore(geometry), flight(observations, actions, 2, 4), geometry, seed, 0.0)


@pytest.mark.parametrize(
    "geometry",
    [
        ODD,
        dataclasses.replace(ODD, rows_per_cycle=4, steps=5, group=4),
        dataclasses.replace(TINY, rows_per_cycle=2, group=16, steps=1),
        dataclasses.replace(TINY, d_model=32, group=16, action_size=7, rows_per_cycle=4),
        dataclasses.replace(ODD, adaptive=True),
        dataclasses.replace(ODD, adaptive=True, layers=1, steps=8),
        dataclasses.replace(
            TINY, d_model=24, group=4, layers=1, window=16, mlp_ratio=1, action_size=1, rows_per_cycle=4
        ),
        dataclasses.replace(TINY, d_model=24, group=8, action_size=7, plasticity=Plasticity(8, 2, 2, 6, 9)),
        dataclasses.replace(ODD, group=20, action_size=1, plasticity=Plasticity(rate_shift=4)),
        dataclasses.replace(ODD, heads=5, phase="query"),
        dataclasses.replace(ODD.with_attention("tssa"), heads=4, phase="query", phase_over="tokens", period=3),
        dataclasses.replace(TINY.with_attention("lrf-dyn"), heads=1, phase="query", phase_over="tokens", period=1),
    ],
    ids=[
        "ODD",
        "four rows, five steps",
        "one group, one step",
        "more actions than the head sums at a time",
        "step gates",
        "a step gate of eight steps and one layer",
        "a window that takes longer than the rest",
        "a head that learns, more actions than it sums at a time",
        "a head of one action and one group that learns",
        "a phase over steps, a head across groups",
        "a phase over tokens",
        "a phase that is always the same",
    ],
)
def test_presets_and_corners_decide_as_golden(geometry):
    assert simulate(DecisionCore(geometry), flight(None, None, 2, geometry.window + 1), geometry, 3, 0.0) > 150
