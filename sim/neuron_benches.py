# SPDX-License-Identifier: MIT
"""Benches of the units between sums and spikes: neuron, window, bank with residual store."""

import numpy as np

from host.policy_image import pack
from hw.bank import NeuronBank
from hw.lif import LifNeuron
from hw.memory_map import memory_map, passes
from hw.passes import Kind
from model.deployed import golden
from model.deployed.geometry import Geometry
from model.deployed.golden_attention import window_sum
from model.deployed.random_policy import random_policy
from sim.ports import Ports
from sim.stimulus import bits_of, integers, load, read, varied


async def lif(unit: Ports, g: Geometry, rng: np.random.Generator, stall: float) -> int:
    """A new neuron state in most cycles; spikes come `latency` cycles later."""
    count, threshold_bits = 150, max(g.threshold_bits, g.membrane_bits - 1)
    currents = integers(rng, g.current_bits, (count, g.steps))
    thresholds = rng.integers(0, 1 << threshold_bits, count) >> rng.integers(0, threshold_bits, count)
    # near the threshold, where a wrong last bit shows
    near = rng.random(count) < 0.5
    currents[near, 0] = np.minimum(thresholds[near] + rng.integers(-1, 2, near.sum()), 2 ** (g.current_bits - 1) - 1)
    expected = golden.lif(currents.T, thresholds)[0].T
    inside, found, sent = [False] * (LifNeuron.latency(g) + 1), [], 0
    while len(found) < count:
        come = sent < count and rng.random() >= stall
        inside = [come, *inside[:-1]]
        if come:
            unit.set("currents", currents[sent].tolist())
            unit.set("threshold", int(thresholds[sent]))
            sent += 1
        unit.set("valid", sum(token << stage for stage, token in enumerate(inside[:-1])))
        await unit.settle()
        if inside[-1]:
            found.append(unit.get("spikes"))
        await unit.tick()
    np.testing.assert_array_equal([bits_of([word], g.steps)[:, 0] for word in found], expected)
    varied(found)
    return expected.size


async def window(unit: Ports, g: Geometry, rng: np.random.Generator, stall: float) -> int:
    """Decisions over several episodes; the ring is read back after each."""
    policy = random_policy(g, int(rng.integers(1 << 30)))
    taps = [policy.tensors[f"layer{layer}.window.weight"].astype(np.int64) for layer in range(g.layers)]
    unit.set("busy", 0)
    await load(unit, "taps", pack(policy).sections["taps"])
    latency, compared, outputs = NeuronBank.latency(g), 0, []

    async def send(kind: Kind, layer: int, spikes: np.ndarray) -> None:
        for group in range(g.groups):
            unit.set("i_valid", 1)
            unit.set("i_group", group)
            unit.set("i_info", {"kind": kind, "layer": layer})
            unit.set("i", spikes.reshape(g.groups, g.group)[group].tolist())
            await unit.tick()
        unit.set("i_valid", 0)

    for _ in range(2):
        unit.set("new_episode", 1)
        await unit.tick()
        unit.set("new_episode", 0)
        history: list[list[np.ndarray]] = [[] for _ in range(g.layers)]
        for token in range(g.window + 2):
            assert unit.get("tokens") == min(token, g.window)
            unit.set("busy", 1)
            unit.set("start", 1)
            await unit.tick()
            unit.set("start", 0)
            for layer in range(g.layers):
                began = unit.cycle
                key, value, query = (rng.integers(0, 1 << g.steps, g.d_model) for _ in range(3))
                history[layer] = [bits_of(key & value, g.steps), *history[layer]][: g.window]
                sums = window_sum(np.stack(history[layer]), taps[layer]) * bits_of(query, g.steps)
                await send(Kind.KEY, layer, key)
                await unit.until("ready")
                if not stall:  # of the first layer they are summed in the decision before
                    assert unit.cycle - began <= (g.groups * (g.window - 1) + 1 if layer else 0) + g.groups
                await unit.tick(int(rng.integers(0, 5)) if rng.random() < stall else 0)
                await send(Kind.VALUE, layer, value)
                await unit.tick(int(rng.integers(0, 5)) if rng.random() < stall else 1)
                # queries enter the bank in cycles 0 .. groups-1 and leave it `latency` later, the sums follow
                received = []
                for cycle in range(2 * g.groups + latency + 4):
                    arriving = cycle - latency
                    unit.set("drained", int(cycle == g.groups - 1))
                    unit.set("i_valid", int(0 <= arriving < g.groups))
                    if 0 <= arriving < g.groups:
                        unit.set("i_group", arriving)
                        unit.set("i_info", {"kind": Kind.QUERY, "layer": layer})
                        unit.set("i", query.reshape(g.groups, g.group)[arriving].tolist())
                    await unit.tick()
                    if unit.get("o_valid"):
                        group, info = unit.get("o_group"), unit.get("o_info")
                        assert (info.kind, info.layer) == (Kind.WINDOW, layer)
                        assert info.number == 1 + layer * g.passes_per_layer + passes(g).index("window")
                        assert unit.get("o_last") == (group == g.groups - 1)
                        received.append(group)
                        found = np.array([list(channel) for channel in unit.get("o")]).T
                        np.testing.assert_array_equal(found, sums[:, group * g.group : (group + 1) * g.group])
                        compared += found.size
                        outputs.append(found)
                unit.set("i_valid", 0)
                assert received == list(range(g.groups))
            await unit.until("settled")
            unit.set("advance", 1)
            await unit.tick()
            unit.set("advance", 0)
            unit.set("busy", 0)
            section = memory_map(g)["ring"]
            words = np.array(await read(unit, "ring", section.rows * section.stride), np.uint64)
            rows = words.reshape(section.rows, section.stride)[:, : section.words]
            for layer in range(g.layers):
                slot = token % g.window
                at = (layer * g.window + slot) * g.groups
                for group in range(g.groups):
                    whole = sum(int(word) << (32 * i) for i, word in enumerate(rows[at + group]))
                    both = [whole >> (c * g.steps) & ((1 << g.steps) - 1) for c in range(g.group)]
                    expected = history[layer][0][:, group * g.group : (group + 1) * g.group]
                    np.testing.assert_array_equal(bits_of(np.array(both), g.steps), expected)
                    compared += expected.size
    varied(np.concatenate([found.ravel() for found in outputs]))
    return compared


async def bank(unit: Ports, g: Geometry, rng: np.random.Generator, stall: float) -> int:
    """Neuron bank on its residual store: every kind of pass, spikes and membranes, saturation, signature, probe."""
    policy = random_policy(g, int(rng.integers(1 << 30)))
    t = {name: tensor.astype(np.int64) for name, tensor in policy.tensors.items()}
    entry = int(t["entry.threshold"][0])
    unit.set("busy", 0)
    await load(unit, "channels", pack(policy).sections["channels"])
    unit.set("busy", 1)
    unit.set("entry_threshold", entry)
    unit.set("clear", 1)
    await unit.tick()
    unit.set("clear", 0)
    latency, compared, clipped = NeuronBank.latency(g), 0, 0
    x = np.zeros((g.steps, g.d_model), np.int64)
    running, spikes_seen, sent = 0, [], []

    order = [(Kind.EMBED, 0, 0, 0)]
    for layer in range(g.layers):
        number = 1 + layer * g.passes_per_layer
        for name in passes(g):
            for part in range(g.mlp_ratio if name == "fc1" else 1):
                order.append((Kind[name.upper()], layer, part, number))
                number += 1
    for kind, layer, part, number in order:
        at, hidden = f"layer{layer}.{kind.name.lower()}", slice(part * g.d_model, (part + 1) * g.d_model)
        final = int(kind == Kind.FC2 and layer == g.layers - 1)
        bits = g.attention_bits if kind == Kind.WINDOW else g.pass_bits
        sums = integers(rng, bits, (g.steps, g.d_model)) >> rng.integers(0, bits)
        embedded = integers(rng, g.embed_bits, (g.d_model,))
        if kind == Kind.EMBED:
            x, count = golden.saturate(
                np.tile((embedded >> t["embed.shift"]) + t["embed.bias"], (g.steps, 1)), g.membrane_bits
            )
        elif kind in (Kind.PROJ, Kind.FC2):
            x, count = golden.saturate(x + (sums << t[f"{at}.shift"]) + t[f"{at}.bias"], g.membrane_bits)
        else:
            bias = 0 if kind == Kind.WINDOW else t[f"{at}.bias"][hidden]
            expected = golden.lif(sums + bias, t[f"{at}.threshold"][hidden])[0]
            count = None
        if count is not None:
            expected = golden.lif(x, np.array(entry))[0]
            clipped += count
            running = golden.signature(running, x, g.membrane_bits, g.group)
        info = {"kind": kind, "layer": layer, "part": part, "number": number, "final": final}
        outputs, membranes, entered = [], [], []
        group = 0
        while len(outputs) < g.groups:
            sending = group < g.groups and rng.random() >= stall
            unit.set("i_valid", int(sending))
            if sending:
                here = slice(group * g.group, (group + 1) * g.group)
                unit.set("i_group", group)
                unit.set("i_last", int(group == g.groups - 1))
                unit.set("i_info", info)
                entered.append(unit.cycle)
                group += 1
            await unit.tick()
            if sending:  # the sums follow
                unit.set("i", sums[:, here].T.tolist())
                unit.set("i_embed", embedded[here].tolist())
            await unit.settle()
            if unit.get("membrane_valid"):
                membranes.append((unit.get("membrane_group"), [list(channel) for channel in unit.get("membrane")]))
            if unit.get("o_valid"):
                assert unit.cycle - entered[len(outputs)] == latency
                tag = unit.get("o_info")
                assert (tag.kind, tag.layer, tag.part, tag.final) == (kind, layer, part, final)
                assert unit.get("o_group") == len(outputs)
                assert unit.get("o_last") == (len(outputs) == g.groups - 1)
                outputs.append(list(unit.get("o")))
        unit.set("i_valid", 0)
        await unit.tick(2)
        found = bits_of(np.array(outputs).ravel(), g.steps)
        np.testing.assert_array_equal(found, expected)
        compared += expected.size
        spikes_seen.append(expected)
        sent.append(sums)
        assert len(membranes) == (g.groups if final else 0)
        for number, values in membranes:
            np.testing.assert_array_equal(np.array(values).T, x[:, number * g.group : (number + 1) * g.group])
            compared += g.group * g.steps
        assert unit.get("running_signature") == running
        assert unit.get("saturations") == clipped
    varied(np.concatenate([s.ravel() for s in spikes_seen]))
    assert clipped > 0 or g.d_model < 16
    unit.set("busy", 0)
    section = memory_map(g)["residual"]
    words = np.array(await read(unit, "probe", section.rows * section.stride)).reshape(section.rows, section.stride)
    for group in range(g.groups):
        whole = sum(int(word) << (32 * i) for i, word in enumerate(words[group, : section.words]))
        fields = x[:, group * g.group : (group + 1) * g.group].T.ravel() & ((1 << g.membrane_bits) - 1)
        assert whole == sum(int(field) << (g.membrane_bits * i) for i, field in enumerate(fields))
    return compared
