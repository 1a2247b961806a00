# SPDX-License-Identifier: MIT
"""A bench per unit: random, never constant stimuli with random stalls, compared with the golden functions.

Each runs in Amaranth's simulator (tests/test_hw_units.py) and, verilated, in cocotb (sim/test_units.py).
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from host.policy_image import pack
from hw.bank import NeuronBank
from hw.embed import Embedding
from hw.head import Head
from hw.lanes import LaneArray
from hw.lif import LifNeuron
from hw.memory_map import PASSES, memory_map
from hw.passes import UNIT_OF, Kind
from hw.registers import ROW_UNITS, UNITS
from model import golden
from model.geometry import Geometry
from model.random_policy import random_policy, random_tokens
from sim.ports import Bench, Ports
from sim.register_bench import registers
from sim.units import drain_cycles


def varied(values: Iterable[int]) -> None:
    """Check that stimuli or results are not all the same."""
    assert len(set(np.asarray(list(values)).ravel().tolist())) > 1, "constant data proves nothing"


def integers(rng: np.random.Generator, bits: int, size: tuple[int, ...]) -> np.ndarray:
    """Draw signed integers of that width, the extremes often."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    drawn = rng.integers(low, high, size, endpoint=True)
    extreme = rng.random(size) < 0.1
    return np.where(extreme, rng.choice([low, high], size), drawn)


def sparse(rng: np.random.Generator, g: Geometry, groups: int) -> np.ndarray:
    """Draw spikes [groups, group], a channel's steps in one integer: groups without a spike, full ones, in between."""
    share = rng.choice([0.0, 0.1, 0.5, 1.0], (groups, 1))
    spikes = rng.integers(1, 1 << g.steps, (groups, g.group)) if g.steps > 1 else np.ones((groups, g.group), int)
    return np.where(rng.random((groups, g.group)) < share, spikes, 0)


def bits_of(words: np.ndarray, steps: int) -> np.ndarray:
    """Spread spikes [channels], a channel's steps in one integer -> bool [steps, channels]."""
    return (np.asarray(words)[None] >> np.arange(steps)[:, None] & 1).astype(bool)


async def load(unit: Ports, port: str, words: np.ndarray, first: int = 0) -> None:
    """Store words through a memory's load port."""
    unit.set(f"{port}.write", 1)
    for address, word in enumerate(words.tolist(), start=first):
        unit.set(f"{port}.address", address)
        unit.set(f"{port}.data", word)
        await unit.tick()
    unit.set(f"{port}.write", 0)


async def read(unit: Ports, port: str, count: int) -> list[int]:
    """Read words back through a memory's load port."""
    words = []
    for address in range(count):
        unit.set(f"{port}.address", address)
        await unit.tick()
        words.append(unit.get(f"{port}.read_data"))
    return words


async def lif(unit: Ports, g: Geometry, rng: np.random.Generator, stall: float) -> int:
    """A new neuron state every cycle; spikes come `latency` cycles later."""
    count, threshold_bits = 150, max(g.threshold_bits, g.membrane_bits - 1)
    currents = integers(rng, g.current_bits, (count, g.steps))
    thresholds = rng.integers(0, 1 << threshold_bits, count) >> rng.integers(0, threshold_bits, count)
    # near the threshold, where a wrong last bit shows
    near = rng.random(count) < 0.5
    currents[near, 0] = np.minimum(thresholds[near] + rng.integers(-1, 2, near.sum()), 2 ** (g.current_bits - 1) - 1)
    expected = golden.lif(currents.T, thresholds)[0].T
    latency, found = LifNeuron.latency(g), []
    for cycle in range(count + latency):
        if cycle < count:
            unit.set("currents", currents[cycle].tolist())
            unit.set("threshold", int(thresholds[cycle]))
        await unit.settle()
        if cycle >= latency:
            found.append(unit.get("spikes"))
        await unit.tick()
    np.testing.assert_array_equal([bits_of([word], g.steps)[:, 0] for word in found], expected)
    varied(found)
    return expected.size


async def walker(unit: Ports, g: Geometry, rng: np.random.Generator, stall: float) -> int:
    """Each active input is fetched once, with its row and spikes; a pass ends once; few cycles are wasted."""
    passes = []
    for _ in range(30):
        count = int(rng.integers(1, 1 + max(2, g.groups)))
        first = g.group * int(rng.integers(0, g.weight_rows // g.group - count + 1))
        kind = Kind(int(rng.integers(1, 8)))
        passes.append((first, kind, int(rng.integers(0, g.layers)), sparse(rng, g, count)))
    passes[3][3][:] = 0
    feed = [
        {
            "spikes": spikes[index].tolist(),
            "row": first + index * g.group,
            "last": int(index == len(spikes) - 1),
            "info": {"kind": kind, "layer": layer},
        }
        for first, kind, layer, spikes in passes
        for index in range(len(spikes))
    ]
    fetched: list[list[tuple[int, int]]] = [[]]
    ends, fetch_cycles, valid, cycles = [], [0], False, 0
    unit.set("groups.valid", 0)
    while len(ends) < len(passes):
        if not valid and feed and rng.random() >= stall:
            unit.set("groups.payload", feed[0])
            valid = True
        unit.set("groups.valid", int(valid))
        await unit.settle()
        taken = valid and unit.get("groups.ready")
        await unit.tick()
        cycles += 1
        if taken:
            feed.pop(0)
            valid = False
        if not unit.get("fetch_valid"):
            continue
        fetch = unit.get("fetch")
        slots = [slot for slot in fetch.slots if slot.valid]
        if g.rows_per_cycle == 4:
            assert all(slot.row % 2 == port // 2 for port, slot in enumerate(fetch.slots) if slot.valid)
        fetched[-1] += [(slot.row, slot.spikes) for slot in slots]
        fetch_cycles[-1] += 1
        _, kind, layer, _ = passes[len(ends)]
        assert (fetch.info.kind, fetch.info.layer) == (kind, layer)
        assert slots or fetch.last
        if fetch.last:
            ends.append(cycles)
            fetched.append([])
            fetch_cycles.append(0)
    assert not feed
    unit.set("groups.valid", 0)
    await unit.tick(3)
    assert unit.get("idle") == 1
    assert not unit.get("fetch_valid")
    assert min(np.diff(ends)) >= drain_cycles(g)
    bound = spent = 0
    for (first, _, _, spikes), found, used in zip(passes, fetched, fetch_cycles, strict=False):
        words = spikes.ravel()
        expected = [(first + int(i), int(words[i])) for i in np.flatnonzero(words)]
        assert sorted(found) == expected
        lower = -(-len(expected) // g.rows_per_cycle)
        assert lower <= used <= len(expected) + 1
        bound, spent = bound + lower, spent + used
    varied(row for found in fetched for row, _ in found)
    if not stall and g.rows_per_cycle < 4:
        assert spent <= bound + 2 * len(passes), "the walker wastes fetches"
    return sum(len(found) for found in fetched)


async def lanes(unit: Ports, g: Geometry, rng: np.random.Generator, stall: float) -> int:
    """Sums of random rows, of the longest pass at its extremes too, with gaps between the fetches."""
    section = memory_map(g)["weights"]
    known = min(section.rows, 24)
    words = rng.integers(0, 1 << 32, known * section.stride)
    words[: section.words] = int.from_bytes(b"\x88\x88\x88\x88", "little") if g.weight_bits == 4 else 0xFFFF_FFFF
    unit.set("fetch_valid", 0)
    unit.set("busy", 0)
    await load(unit, "load", words)
    masks = np.clip(section.row_bits - 32 * np.arange(section.stride), 0, 32)
    weights = np.zeros((known, g.d_model), np.int64)
    for row in range(known):
        parts = words[row * section.stride :][: section.words]
        whole = sum((int(w) & ((1 << int(b)) - 1)) << (32 * i) for i, (w, b) in enumerate(zip(parts, masks)))  # noqa: B905
        fields = [whole >> (c * g.weight_bits) & ((1 << g.weight_bits) - 1) for c in range(g.d_model)]
        weights[row] = [f - (1 << g.weight_bits) if f >> (g.weight_bits - 1) else f for f in fields]
    varied(weights.ravel())
    unit.set("busy", 1)
    unit.set("clear", 1)
    await unit.tick()
    unit.set("clear", 0)

    compared, spacing = 0, drain_cycles(g)
    lengths = [g.d_mlp, 0, 1, *rng.integers(0, min(60, g.d_mlp) + 1, 5).tolist()]
    expected: list[tuple[int, np.ndarray]] = []
    outputs: list[tuple[int, int, int, int, np.ndarray]] = []
    last_at = []

    async def tick() -> None:
        await unit.tick()
        if unit.get("o_valid"):
            values = np.array([list(channel) for channel in unit.get("o")])
            info = unit.get("o_info")
            outputs.append((unit.cycle, unit.get("o_group"), unit.get("o_last"), info.number, values))

    for number, length in enumerate(lengths):
        if number == 0:  # the longest pass, all of one row in all steps: the extreme sum
            rows, spikes = np.zeros(length, np.int64), np.full(length, (1 << g.steps) - 1)
        else:
            rows = rng.integers(0, known, length)
            spikes = rng.integers(0 if g.steps == 1 else 1, 1 << g.steps, length)
        gates = bits_of(spikes, g.steps)  # [steps, length]
        expected.append((number, gates.astype(np.int64) @ weights[rows] if length else np.zeros((g.steps, g.d_model))))
        pending = list(zip(rows.tolist(), spikes.tolist(), strict=True))
        since = 0
        while True:
            slots = [{"valid": 0, "row": 0, "spikes": 0} for _ in range(g.rows_per_cycle)]
            for port in range(g.rows_per_cycle):
                if pending and rng.random() >= stall / 2:
                    if g.rows_per_cycle == 4 and pending[0][0] % 2 != port // 2:
                        continue
                    row, gate = pending.pop(0)
                    slots[port] = {"valid": 1, "row": row, "spikes": gate}
            ends = not pending and (not last_at or unit.cycle + 1 - last_at[-1] >= spacing)
            valid = ends or any(slot["valid"] for slot in slots)
            unit.set("fetch", {"slots": slots, "last": int(ends), "info": {"number": number}})
            unit.set("fetch_valid", int(valid))
            await tick()
            since += 1
            if ends:
                last_at.append(unit.cycle)
                break
    unit.set("fetch_valid", 0)
    for _ in range(LaneArray.LATENCY + g.groups + 2):
        await tick()
    assert len(outputs) == len(lengths) * g.groups
    for position, (cycle, group, last, number, values) in enumerate(outputs):
        index, at = divmod(position, g.groups)
        assert (group, last, number) == (at, int(at == g.groups - 1), index)
        # the fetch is on the ports in the cycle before `last_at`
        assert cycle == last_at[index] + LaneArray.LATENCY + at - 1
        sums = expected[index][1][:, at * g.group : (at + 1) * g.group].T
        np.testing.assert_array_equal(values, sums)
        compared += values.size
    varied(np.concatenate([values.ravel() for *_, values in outputs]))
    unit.set("busy", 0)
    return compared


async def _memory(unit: Ports, section, ports: int, rng: np.random.Generator, stall: float, banked: bool) -> int:
    known = min(section.rows, 20)
    words = rng.integers(0, 1 << 32, known * section.stride)
    unit.set("busy", 0)
    unit.set("enable", 0)
    await load(unit, "load", words)
    bits = np.clip(section.row_bits - 32 * np.arange(section.stride), 0, 32)
    exists = (np.arange(known * section.stride) % section.stride) < section.words
    found = np.array(await read(unit, "load", known * section.stride))
    np.testing.assert_array_equal(found[exists], words[exists])
    rows = [
        sum((int(w) & ((1 << int(b)) - 1)) << (32 * i) for i, (w, b) in enumerate(zip(part, bits, strict=True)))
        for part in words.reshape(known, section.stride)
    ]
    varied(words)

    unit.set("busy", 1)
    unit.set("load.write", 1)  # refused while busy
    unit.set("load.data", 0)
    unit.set("load.address", 0)
    held: list[int | None] = [None] * ports
    compared = 0
    for _ in range(80):
        wanted = rng.integers(0, known, ports)
        if banked:
            wanted = np.minimum(wanted | 1, known - 1 - known % 2)
            wanted -= np.array([1, 1, 0, 0])
        enable = rng.random(ports) >= stall
        unit.set("rows", wanted.tolist())
        unit.set("enable", int(sum(int(e) << p for p, e in enumerate(enable))))
        await unit.tick()
        data = list(unit.get("row_data"))
        for port in range(ports):
            if enable[port]:
                held[port] = rows[wanted[port]]
            if held[port] is not None:
                assert data[port] == held[port]
                compared += 1
    unit.set("load.write", 0)
    unit.set("busy", 0)
    again = np.array(await read(unit, "load", known * section.stride))
    np.testing.assert_array_equal(again[exists], words[exists])
    return compared + 2 * int(exists.sum())


async def rows(unit: Ports, g: Geometry, rng: np.random.Generator, stall: float) -> int:
    """The weight memory: as a policy memory, with as many ports as rows a cycle."""
    return await _memory(unit, memory_map(g)["weights"], g.rows_per_cycle, rng, stall, g.rows_per_cycle == 4)


async def memory(unit: Ports, g: Geometry, rng: np.random.Generator, stall: float) -> int:
    """A policy memory: loaded, read back, read by rows, held while not enabled, closed while busy."""
    return await _memory(unit, memory_map(g)["channels"], 2, rng, stall, False)


async def window(unit: Ports, g: Geometry, rng: np.random.Generator, stall: float) -> int:
    """Decisions over several episodes; the ring is read back after each."""
    policy = random_policy(g, int(rng.integers(1 << 30)))
    taps = [policy.tensors[f"layer{layer}.window.weight"].astype(np.int64) for layer in range(g.layers)]
    unit.set("busy", 0)
    await load(unit, "load_taps", pack(policy).sections["taps"])
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
            began = unit.cycle
            for layer in range(g.layers):
                key, value, query = (rng.integers(0, 1 << g.steps, g.d_model) for _ in range(3))
                history[layer] = [bits_of(key & value, g.steps), *history[layer]][: g.window]
                sums = golden.window_sum(np.stack(history[layer]), taps[layer]) * bits_of(query, g.steps)
                await send(Kind.KEY, layer, key)
                await unit.until("ready")
                if layer == 0 and not stall:
                    assert unit.cycle - began <= g.groups * (g.window - 1) + 2 + g.groups
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
                        assert info.number == 1 + layer * g.passes_per_layer + PASSES.index("window")
                        assert unit.get("o_last") == (group == g.groups - 1)
                        received.append(group)
                        found = np.array([list(channel) for channel in unit.get("o")]).T
                        np.testing.assert_array_equal(found, sums[:, group * g.group : (group + 1) * g.group])
                        compared += found.size
                        outputs.append(found)
                unit.set("i_valid", 0)
                assert received == list(range(g.groups))
            unit.set("advance", 1)
            await unit.tick()
            unit.set("advance", 0)
            unit.set("busy", 0)
            section = memory_map(g)["ring"]
            words = np.array(await read(unit, "probe", section.rows * section.stride), np.uint64)
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
        for name in PASSES:
            for part in range(g.mlp_ratio if name == "fc1" else 1):
                order.append((Kind[name.upper()], layer, part, number))
                number += 1
    for kind, layer, part, number in order:
        at, hidden = f"layer{layer}.{kind.name.lower()}", slice(part * g.d_model, (part + 1) * g.d_model)
        final = int(kind == Kind.FC2 and layer == g.layers - 1)
        bits = g.window_bits if kind == Kind.WINDOW else g.accumulator_bits
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
                unit.set("i", sums[:, here].T.tolist())
                unit.set("i_embed", embedded[here].tolist())
                entered.append(unit.cycle)
                group += 1
            await unit.tick()
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


async def embed(unit: Ports, g: Geometry, rng: np.random.Generator, stall: float) -> int:
    """Products of whole and of short tokens; a group every `count` cycles."""
    compared, results = 0, []
    for turn in range(3):
        policy = random_policy(g, int(rng.integers(1 << 30)))
        unit.set("busy", 0)
        await load(unit, "load", pack(policy).sections["embed"])
        unit.set("busy", 1)
        weight = policy.tensors["embed.weight"].astype(np.int64)
        lowest = np.full(g.input_size, -(1 << (g.input_bits - 1)))
        for number, token in enumerate((*random_tokens(policy, 4, turn), lowest)):
            count = (g.input_size, 1, 2, int(rng.integers(1, g.input_size + 1)), g.input_size)[number]
            unit.set("token", token.tolist())  # components beyond the count do not count
            unit.set("count", count)
            unit.set("start", 1)
            await unit.tick()
            unit.set("start", 0)
            began = unit.cycle
            for group in range(g.groups):
                await unit.until("o_valid")
                assert unit.cycle - began == Embedding.LATENCY + (group + 1) * Embedding.interval(count) - 1
                assert unit.get("o_group") == group
                assert unit.get("o_last") == (group == g.groups - 1)
                expected = weight[group * g.group : (group + 1) * g.group, :count] @ token[:count]
                np.testing.assert_array_equal(unit.get("o"), expected)
                results.append(expected)
                compared += len(expected)
                await unit.tick()
            await unit.tick(int(rng.integers(1, 4)))
            assert not unit.get("o_valid")
    varied(np.concatenate(results))
    return compared


async def head(unit: Ports, g: Geometry, rng: np.random.Generator, stall: float) -> int:
    """Actions of random membranes, all actions and fewer."""
    compared, results = 0, []
    for turn in range(4):
        actions = None if turn % 2 else int(rng.integers(1, g.action_size + 1))
        policy = random_policy(g, int(rng.integers(1 << 30)), None, actions)
        sections = pack(policy).sections
        t = {name: tensor.astype(np.int64) for name, tensor in policy.tensors.items() if name.startswith("head")}
        unit.set("busy", 0)
        for port, name in (("load_weights", "head"), ("load_table", "table")):
            await load(unit, port, sections[name])
        unit.set("busy", 1)
        unit.set("count", policy.action_size)
        for _ in range(4):
            spread = int(rng.integers(2, g.membrane_bits + 1))
            membrane = integers(rng, spread, (g.steps, g.d_model))
            # bias to the edges between two entries, where a wrong last bit shows
            entry = rng.integers(-(1 << (g.table_log2 - 1)), 1 << (g.table_log2 - 1), policy.action_size)
            edge = (entry << t["head.shift"]) - rng.integers(0, 2, policy.action_size)
            edge -= t["head.weight"] @ membrane.sum(axis=0)
            limit = (1 << (g.head_bits - 2)) - 1
            bias = np.where(rng.random(policy.action_size) < 0.7, np.clip(edge, -limit, limit), t["head.bias"])
            unit.set("busy", 0)
            await load(
                unit,
                "load_bias",
                pack(replace(policy, tensors=policy.tensors | {"head.bias": bias})).sections["head_bias"],
            )
            unit.set("busy", 1)
            expected = golden.head(membrane, t["head.weight"], t["head.shift"], bias, t["head.table"])
            unit.set("clear", 1)
            await unit.tick()
            unit.set("clear", 0)
            assert not any(unit.get("actions"))
            await unit.tick(int(rng.integers(0, 5)) if rng.random() < stall else 0)
            first = unit.cycle
            for group in range(g.groups):
                unit.set("i_valid", 1)
                unit.set("i_group", group)
                unit.set("i", membrane[:, group * g.group : (group + 1) * g.group].T.tolist())
                await unit.tick()
            unit.set("i_valid", 0)
            await unit.until("done")
            assert unit.cycle - first == Head.LATENCY + policy.action_size * g.groups
            found = list(unit.get("actions"))
            assert found == [*expected.tolist(), *[0] * (g.action_size - policy.action_size)]
            await unit.tick()
            assert not unit.get("done")
            compared += len(found)
            results.append(expected)
    varied(np.concatenate(results))
    return compared


async def sequencer(unit: Ports, g: Geometry, rng: np.random.Generator, stall: float) -> int:
    """Decisions with a model of what comes back: each pass's spikes return late and with gaps."""
    compared = 0
    for _ in range(2):
        entries = [rng.integers(0, 1 << g.steps, (g.groups, g.group)) for _ in range(1 + 2 * g.layers)]
        attention = [rng.integers(0, 1 << g.steps, (g.groups, g.group)) for _ in range(g.layers)]
        hidden = [rng.integers(0, 1 << g.steps, (g.mlp_ratio, g.groups, g.group)) for _ in range(g.layers)]
        expected = []  # (kind, layer, part, number, spikes, last, row)
        row, returns = 0, {}
        for layer in range(g.layers):
            number = 1 + layer * g.passes_per_layer
            for name in PASSES:
                kind = Kind[name.upper()]
                if name == "window":
                    number += 1
                    continue
                for part in range(g.mlp_ratio if name == "fc1" else 1):
                    source = {
                        Kind.PROJ: attention[layer],
                        Kind.FC1: entries[1 + 2 * layer],
                        Kind.FC2: hidden[layer].reshape(-1, g.group),
                    }.get(kind, entries[2 * layer])
                    for index, spikes in enumerate(source):
                        expected.append((kind, layer, part, number, spikes, index == len(source) - 1, row))
                        row += g.group
                    number += 1
                    # what this pass's last group brings back
                    returns[(kind, layer, part)] = {
                        Kind.QUERY: (Kind.WINDOW, attention[layer]),
                        Kind.PROJ: (Kind.PROJ, entries[1 + 2 * layer]),
                        Kind.FC1: (Kind.FC1, hidden[layer][part]),
                        Kind.FC2: (Kind.FC2, entries[2 + 2 * layer]),
                    }.get(kind, (kind, rng.integers(0, 1 << g.steps, (g.groups, g.group))))
        assert row == g.weight_rows
        unit.set("start", 1)
        unit.set("window_ready", 0)
        await unit.tick()
        unit.set("start", 0)
        assert not unit.get("started")
        assert not unit.get("exhausted")
        arriving = [(unit.cycle + 3, (Kind.EMBED, 0, 0, group, spikes)) for group, spikes in enumerate(entries[0])]
        position = 0
        while position < len(expected):
            unit.set("i_valid", 0)
            if arriving and arriving[0][0] <= unit.cycle and rng.random() >= stall:
                kind, layer, part, group, spikes = arriving.pop(0)[1]
                unit.set("i_valid", 1)
                unit.set("i_group", group)
                unit.set("i_info", {"kind": kind, "layer": layer, "part": part})
                unit.set("i", spikes.tolist())
            unit.set("window_ready", int(rng.random() >= stall))
            ready = int(rng.random() >= stall)
            unit.set("groups.ready", ready)
            await unit.settle()
            taken = ready and unit.get("groups.valid")
            payload = unit.get("groups.payload")
            if taken:
                kind, layer, part, number, spikes, last, row = expected[position]
                info = payload.info
                assert (info.kind, info.layer, info.part, info.number) == (kind, layer, part, number)
                assert info.final == (layer == g.layers - 1 and kind == Kind.FC2)
                assert payload.row == row
                assert payload.last == last
                np.testing.assert_array_equal(list(payload.spikes), spikes)
                compared += g.group
                position += 1
                if last:
                    back, groups = returns[(kind, layer, part)]
                    due = unit.cycle + int(rng.integers(4, 12))
                    arriving += [(due, (back, layer, part, group, words)) for group, words in enumerate(groups)]
            await unit.tick()
        unit.set("i_valid", 0)
        assert unit.get("exhausted")
        assert unit.get("started")
        await unit.tick(3)
        assert not unit.get("groups.valid")
    varied(np.concatenate([spikes for *_, spikes, _, _ in expected]))
    return compared


async def counters(unit: Ports, g: Geometry, rng: np.random.Generator, stall: float) -> int:
    """Counts of random cycles, booked as the register table says."""
    compared = 0
    for _ in range(3):
        unit.set("running", 0)
        unit.set("fetch_valid", 0)
        unit.set("clear", 1)
        await unit.tick()
        unit.set("clear", 0)
        cycles = stalls = 0
        unit_cycles, unit_rows = dict.fromkeys(UNITS, 0), dict.fromkeys(ROW_UNITS, 0)
        layer_rows = [0] * g.layers
        for _ in range(150):
            running, waiting, fetching = (rng.random(3) >= (stall / 2, 0.5, stall)).tolist()
            embedding, finishing = (rng.random(2) < 0.15).tolist()
            kind, at, layer = Kind(int(rng.integers(0, 8))), Kind(int(rng.integers(1, 8))), int(rng.integers(g.layers))
            valid = (rng.random(g.rows_per_cycle) < 0.7).astype(int).tolist()
            for name, value in (("running", running), ("waiting", waiting), ("fetch_valid", fetching)):
                unit.set(name, int(value))
            unit.set("embedding", int(embedding))
            unit.set("finishing", int(finishing))
            unit.set("kind", kind)
            slots = [{"valid": bit, "row": 0, "spikes": 0} for bit in valid]
            unit.set("fetch", {"slots": slots, "last": 0, "info": {"kind": at, "layer": layer}})
            await unit.tick()
            if running:
                cycles += 1
                stalls += waiting and not embedding and not finishing
                waits = waiting and kind == Kind.PROJ
                name = "EMBED" if embedding else "HEAD" if finishing else "WINDOW" if waits else UNIT_OF[kind]
                unit_cycles[name] += 1
            if fetching:
                layer_rows[layer] += sum(valid)
                if UNIT_OF[at] in unit_rows:
                    unit_rows[UNIT_OF[at]] += sum(valid)
        unit.set("running", 0)
        unit.set("fetch_valid", 0)
        assert (unit.get("cycles"), unit.get("stalls")) == (cycles, stalls)
        assert list(unit.get("unit_cycles")) == list(unit_cycles.values())
        assert list(unit.get("unit_rows")) == list(unit_rows.values())
        assert list(unit.get("layer_rows")) == layer_rows
        assert sum(unit_cycles.values()) == cycles
        varied(unit_cycles.values())
        compared += 150 * 4
    return compared


BENCHES: dict[str, Bench] = {
    "lif": lif,
    "walker": walker,
    "lanes": lanes,
    "rows": rows,
    "memory": memory,
    "window": window,
    "bank": bank,
    "embed": embed,
    "head": head,
    "sequencer": sequencer,
    "counters": counters,
    "registers": registers,
}
"""Name in `sim.units.UNITS` -> its bench."""
