# SPDX-License-Identifier: MIT
"""Bench of the phase unit."""

import numpy as np

from host.policy_image import pack
from hw.passes import Kind
from model.deployed.geometry import Geometry
from model.deployed.golden import phase_bits
from model.deployed.random_policy import random_policy
from sim.ports import Ports
from sim.stimulus import bits_of, load, sparse, varied


async def phase(unit: Ports, g: Geometry, rng: np.random.Generator, stall: float) -> int:
    """Episodes of random spikes: those of queries pass where their head's bit is set, those of other passes always."""
    policy = random_policy(g, int(rng.integers(1 << 30)))
    unit.set("busy", 0)
    await load(unit, "phase", pack(policy).sections["phase"])
    unit.set("busy", 1)
    compared, seen = 0, []

    async def group(kind: Kind, layer: int, number: int, spikes: np.ndarray, expected: np.ndarray) -> None:
        """Send a group of spikes [group], a channel's steps in one integer, and compare what comes out."""
        nonlocal compared
        unit.set("i_group", number)
        unit.set("i_info", {"kind": kind, "layer": layer, "final": 0})
        unit.set("i", spikes.tolist())
        await unit.settle()
        found = [int(channel) for channel in unit.get("o")]
        np.testing.assert_array_equal(bits_of(np.array(found), g.steps), expected)
        compared += expected.size
        seen.extend(found)

    for _ in range(2):
        unit.set("new_episode", 1)
        await unit.tick()
        unit.set("new_episode", 0)
        for time in range(2 * g.phase_times + 1):
            for layer in range(g.layers):
                codes = policy.tensors[f"layer{layer}.phase.bits"].astype(np.int64)
                bits = np.broadcast_to(phase_bits(codes, g, np.array(time)), (g.steps, g.d_model)).astype(bool)
                for kind in (Kind.KEY, Kind.QUERY):
                    # a layer's bits are looked up with each sum that enters, and leave with the spikes
                    unit.set("entering", 1)
                    unit.set("entering_info", {"kind": kind, "layer": layer, "final": 0})
                    await unit.tick()
                    unit.set("entering", 0)
                    while rng.random() < stall:
                        await unit.tick()
                    for number, spikes in enumerate(sparse(rng, g, g.groups)):
                        own = slice(number * g.group, (number + 1) * g.group)
                        fired = bits_of(spikes, g.steps)
                        await group(kind, layer, number, spikes, fired & bits[:, own] if kind == Kind.QUERY else fired)
                        await unit.tick()
            unit.set("advance", 1)
            await unit.tick()
            unit.set("advance", 0)
    varied(seen)
    return compared
