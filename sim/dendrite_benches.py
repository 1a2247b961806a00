# SPDX-License-Identifier: MIT
"""Benches of LRF-Dyn: the dendrites ahead of their token, and the unit around them."""

import numpy as np

from host.dendrite_rows import unpack_state
from host.policy_image import pack, unpack_rows
from hw.bank import NeuronBank
from hw.dendrites import Dendrites
from hw.dynamics import LrfDynamics
from hw.memory_map import memory_map, passes
from hw.passes import Kind
from model.deployed import golden_attention
from model.deployed.geometry import Geometry
from model.deployed.golden_attention import Dynamics, readout, saturate, window_sum
from model.deployed.random_policy import random_policy
from sim.ports import Ports
from sim.stimulus import integers, load, read, varied


async def dendrites(unit: Ports, g: Geometry, rng: np.random.Generator, stall: float) -> int:
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
        after = golden_attention.dendrites(x, np.full((g.steps, count), spike), p)
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
        if (c := cycle - Dendrites.LATENCY) >= 0:
            o = unit.get("o")
            for name, key in (("silent", (False, False)), ("value", (True, False)), ("both", (True, True))):
                np.testing.assert_array_equal(list(o[name]), currents[key][:, c], name)
            np.testing.assert_array_equal(list(o.more_clipped), (clips[1] - clips[0])[:, c])
            found += 3 * g.steps
        await unit.tick()
    # of a few channels all may have leaked away, or none be clipped
    varied(np.concatenate([x.ravel(), *(state.ravel() for state in states)]))
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


async def dynamics(unit: Ports, g: Geometry, rng: np.random.Generator, stall: float) -> int:
    """Decisions over several episodes, spikes as early as they may come or late; the state is read after each."""
    policy = random_policy(g, int(rng.integers(1 << 30)))
    for layer in range(g.layers):  # a quarter of the channels grow with every token until they saturate
        for name, value in (("decay", (1 << g.dendrite_shift_bits) - 1), ("upper", 1), ("lower", 1)):
            policy.tensors[f"layer{layer}.dynamics.{name}"][layer % 4 :: 4] = value
    tensors = {name: tensor.astype(np.int64) for name, tensor in policy.tensors.items()}
    unit.set("busy", 0)
    await load(unit, "dendrites", pack(policy).sections["dendrites"])
    latency, compared, outputs, clippings = NeuronBank.latency(g), 0, [], []
    received: list[tuple[int, int, np.ndarray]] = []
    first = drained = 0

    async def tick() -> None:
        nonlocal first
        await unit.tick()
        if unit.get("o_valid"):
            group, info = unit.get("o_group"), unit.get("o_info")
            first = first if received else unit.cycle
            assert (info.kind, info.number) == (
                Kind.WINDOW,
                1 + info.layer * g.passes_per_layer + passes(g).index("window"),
            )
            assert unit.get("o_last") == (group == g.groups - 1)
            received.append((info.layer, group, np.array([list(channel) for channel in unit.get("o")]).T))

    async def send(kind: Kind, layer: int, spikes: np.ndarray, last: bool) -> None:
        """Send spikes [steps, d_model]: they enter the bank in cycles 0 .. groups-1 and leave it `latency` later."""
        nonlocal drained
        for cycle in range(g.groups + latency):
            unit.set("drained", int(last and cycle == g.groups - 1))
            drained = unit.cycle if cycle == g.groups - 1 else drained
            unit.set("i_valid", int(cycle >= latency))
            if cycle >= latency:
                group = spikes[:, (cycle - latency) * g.group :][:, : g.group]
                unit.set("i_group", cycle - latency)
                unit.set("i_info", {"kind": kind, "layer": layer})
                unit.set("i", [sum(int(bit) << t for t, bit in enumerate(channel)) for channel in group.T])
            await tick()
        unit.set("i_valid", 0)
        unit.set("drained", 0)

    for _ in range(2):
        unit.set("new_episode", 1)
        await unit.tick()
        unit.set("new_episode", 0)
        own = [f"layer{layer}." for layer in range(g.layers)]
        golden = [Dynamics(g, {n.removeprefix(at): t for n, t in tensors.items() if n.startswith(at)}) for at in own]
        spiking = rng.uniform(0.3, 0.9)
        for token in range(g.reach + 3):
            assert unit.get("tokens") == min(token, g.reach + 1)
            unit.set("busy", 1)
            unit.set("start", 1)
            await unit.tick()
            unit.set("start", 0)
            began, clipped = unit.cycle - 1, 0
            for layer in range(g.layers):
                spikes = {name: rng.random((g.steps, g.d_model)) < spiking for name in g.projections}
                expected, more = golden[layer].advance(*spikes.values())
                clipped += more
                for name, each in spikes.items():
                    await unit.until("ready")
                    for _ in range(int(rng.integers(0, 2 * g.d_model)) if rng.random() < stall else 1):
                        await tick()
                    await send(Kind[name.upper()], layer, each, name == g.projections[-1])
                while len(received) < g.groups:
                    await tick()
                ahead = layer if token == 0 else layer - 1  # sweeps of this decision before the layer's
                earliest = began + LrfDynamics.lead(g) + ahead * g.d_model if ahead >= 0 else 0
                assert first == max(earliest, drained + max(1, latency + 2 - g.groups))
                await tick()
                assert [(at, group) for at, group, _ in received] == [(layer, group) for group in range(g.groups)]
                found = np.concatenate([values for _, _, values in received], axis=1)
                np.testing.assert_array_equal(found, expected)
                received.clear()
                outputs.append(found)
                compared += found.size
            await unit.until("settled")
            assert not received
            assert unit.get("saturations") == clipped
            clippings.append(clipped)
            unit.set("advance", 1)
            await unit.tick()
            unit.set("advance", 0)
            if token and rng.random() < 0.5:  # the next decision begins at once
                continue
            unit.set("busy", 0)
            section = memory_map(g)["state"]
            words = np.array(await read(unit, "state", section.rows * section.stride), np.uint32)
            x, values = unpack_state(g, unpack_rows(words, 1, section, signed=False))
            for layer in range(g.layers):
                np.testing.assert_array_equal(x[layer], golden[layer].x)
                seen = golden[layer].values[: g.reach]
                np.testing.assert_array_equal(values[layer, : len(seen)], seen)
                assert not values[layer, len(seen) :].any()
                compared += x[layer].size
    varied(np.concatenate([found.ravel() for found in outputs]))
    if g.d_model >= 8:
        varied(clippings)
    return compared
