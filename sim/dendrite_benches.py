# SPDX-License-Identifier: MIT
"""Benches of LRF-Dyn: the dendrites ahead of their token, and the unit around them."""

import numpy as np

from host.policy_image import pack
#from hw.bank import NeuronBank
from hw.dendrites import Dendrites
#from hw.dynamics import LrfDynamics
from hw.memory_map import memory_map, passes
from hw.passes import Kind
from model.deployed.geometry import Geometry
from model.deployed.golden_attention import Dynamics, dendrites, readout, saturate, window_sum
from model.deployed.random_policy import random_policy
from sim.ports import Ports
from sim.stimulus import bits_of, integers, load, read, varied


async def ahead(unit: Ports, g: Geometry, rng: np.random.Generator, stall: float) -> int:
    """A channel every cycle, its states near the limits often: both outcomes of its state, all of its current."""
    policy = random_policy(g, int(rng.integers(1 << 30)))
    p = {
        name.removeprefix("layer0.dynamics."): tensor.astype(np.int64)
        for name, tensor in policy.tensors.items()
        if name.startswith("layer0.dynamics.")
    }
    channels = np.arange(60) % g.d_model
    p = {name: tensor[channels] for name, tensor in p.items()}
    count = len(channels)
    x = integers(rng, g.dendrite_bits, (g.steps, count, g.dendrites)) >> rng.integers(0, 6, (1, count, 1))
    history = rng.random((max(g.local_distances), g.steps, count)) < 0.5
    states, currents, clips = [], {}, []
    for spike in (False, True):
        after = dendrites(x, np.full((g.steps, count), spike), p)
        state, _ = saturate(after, g.dendrite_bits)
        states.append(state)
        clips.append(np.count_nonzero(state != after, axis=-1))
        for value in (False, True):
            values = np.concatenate([np.full((1, g.steps, count), value), history])
            local = window_sum(values[list(g.local_distances)], p["local"]) << g.local_shift
            currents[value, spike] = readout(state, p["readout"], g.least_readout_shift) + local
    found = 0
    for cycle in range(count + Dendrites.LATENCY):
        if cycle < count:
            unit.set("x", x[:, cycle].tolist())
            unit.set("history", [sum(int(bit) << t for t, bit in enumerate(token)) for token in history[:, :, cycle]])
            unit.set("parameters", _parameters(g, p, cycle))
        await unit.settle()
        if 0 <= (c := cycle - Dendrites.STATE_LATENCY) < count:
            for name, state in zip(("silent_x", "both_x"), states, strict=True):
                np.testing.assert_array_equal([list(step) for step in unit.get(name)], state[:, c])
            assert unit.get("silent_clipped") == clips[0][:, c].sum()
            found += 2 * x[:, c].size
        if 0 <= (c := cycle - Dendrites.LATENCY):
            o = unit.get("o")
            for name, key in (("silent", (False, False)), ("value", (True, False)), ("both", (True, True))):
                np.testing.assert_array_equal(list(o[name]), currents[key][:, c], name)
            np.testing.assert_array_equal(list(o.more_clipped), (clips[1] - clips[0])[:, c])
            found += 3 * g.steps
        await unit.tick()
    varied(clips[0].ravel())
    varied(currents[True, True].ravel())
    return found


def _parameters(g: Geometry, p: dict[str, np.ndarray], c: int) -> dict[str, list]:
    """Return a channel's parameters as `parameters_layout` takes them."""
    fields = {
        "decay": p["decay"][c],
        "upper": [*p["upper"][c], 0],
        "lower": [0, *p["lower"][c]],
        "readout": p["readout"][c],
        "gain": p["gain"][c],
    }
    each = [{name: int(values[i]) for name, values in fields.items()} for i in range(g.dendrites)]
    return {"dendrites": each, "local": p["local"][c].tolist()}
