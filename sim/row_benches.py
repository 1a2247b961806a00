# SPDX-License-Identifier: MIT
"""Benches of the units between spikes and sums: sequencer, row walker, weight rows, lane array."""

import numpy as np

from hw.lanes import LaneArray
from hw.memory_map import memory_map, passes
from hw.passes import Kind
from model.deployed.geometry import Geometry
from sim.ports import Ports
from sim.stimulus import bits_of, load, read, sparse, varied
from sim.units import drain_cycles


async def sequencer(unit: Ports, g: Geometry, rng: np.random.Generator, stall: float) -> int:
    """Decisions with a model of what comes back: each pass's spikes return late and with gaps, some groups silent."""
    compared = 0

    def spiking(*groups: int) -> np.ndarray:
        return rng.integers(0, 1 << g.steps, (*groups, g.group)) * (rng.random((*groups, 1)) < 0.6)

    for _ in range(2):
        entries = [spiking(g.groups) for _ in range(1 + 2 * g.layers)]
        attention = [spiking(g.groups) for _ in range(g.layers)]
        hidden = [spiking(g.mlp_ratio, g.groups) for _ in range(g.layers)]
        expected = []  # (kind, layer, part, number, spikes, last, row, what it waits for: list, sub-block, group)
        row, returns = 0, {}
        for layer in range(g.layers):
            number = 1 + layer * g.passes_per_layer
            for name in passes(g):
                kind = Kind[name.upper()]
                if name == "window":
                    number += 1
                    continue
                for part in range(g.mlp_ratio if name == "fc1" else 1):
                    source, place = {
                        Kind.PROJ: (attention[layer], ("attention", layer)),
                        Kind.FC1: (entries[1 + 2 * layer], ("entry", 1 + 2 * layer)),
                        Kind.FC2: (hidden[layer].reshape(-1, g.group), ("hidden", layer)),
                    }.get(kind, (entries[2 * layer], ("entry", 2 * layer)))
                    for index, spikes in enumerate(source):
                        last = index == len(source) - 1
                        if spikes.any() or last:
                            expected.append((kind, layer, part, number, spikes, last, row, (*place, index)))
                        row += g.group
                    number += 1
                    # what this pass's last group brings back
                    returns[(kind, layer, part)] = {
                        Kind[g.projections[-1].upper()]: (Kind.WINDOW, attention[layer], ("attention", layer)),
                        Kind.PROJ: (Kind.PROJ, entries[1 + 2 * layer], ("entry", 1 + 2 * layer)),
                        Kind.FC1: (Kind.FC1, hidden[layer][part], ("hidden", layer)),
                        Kind.FC2: (Kind.FC2, entries[2 + 2 * layer], ("entry", 2 + 2 * layer)),
                    }.get(kind, (kind, spiking(g.groups), ("nowhere", 0)))
        assert row == g.weight_rows
        unit.set("start", 1)
        unit.set("window_ready", 0)
        await unit.tick()
        unit.set("start", 0)
        assert not unit.get("started")
        assert not unit.get("exhausted")
        arriving = [
            (unit.cycle + 3, (Kind.EMBED, 0, 0, group, spikes, ("entry", 0))) for group, spikes in enumerate(entries[0])
        ]
        position, arrived = 0, set()
        while position < len(expected):
            unit.set("i_valid", 0)
            if arriving and arriving[0][0] <= unit.cycle and rng.random() >= stall:
                kind, layer, part, group, spikes, place = arriving.pop(0)[1]
                arrived.add((*place, part * g.groups + group))
                unit.set("i_valid", 1)
                unit.set("i_group", group)
                unit.set("i_info", {"kind": kind, "layer": layer, "part": part})
                unit.set("i", spikes.tolist())
            window_ready = int(rng.random() >= stall)
            unit.set("window_ready", window_ready)
            ready = int(rng.random() >= stall)
            unit.set("groups.ready", ready)
            await unit.settle()
            # nothing waits for more than its spikes, not even for the next cycle
            begun = position > 0 and expected[position - 1][:3] == expected[position][:3]
            may = expected[position][0] != Kind.VALUE or window_ready or begun
            assert unit.get("groups.valid") == (may and expected[position][-1] in arrived)
            taken = ready and unit.get("groups.valid")
            payload = unit.get("groups.payload")
            if taken:
                kind, layer, part, number, spikes, last, row, _ = expected[position]
                info = payload.info
                assert (info.kind, info.layer, info.part, info.number) == (kind, layer, part, number)
                assert info.final == (layer == g.layers - 1 and kind == Kind.FC2)
                assert payload.row == row
                assert payload.last == last
                np.testing.assert_array_equal(list(payload.spikes), spikes)
                compared += g.group
                position += 1
                if last:
                    back, groups, place = returns[(kind, layer, part)]
                    due = unit.cycle + int(rng.integers(4, 12))
                    arriving += [(due, (back, layer, part, group, words, place)) for group, words in enumerate(groups)]
            await unit.tick()
        unit.set("i_valid", 0)
        assert unit.get("exhausted")
        assert unit.get("started")
        await unit.tick(3)
        assert not unit.get("groups.valid")
    varied(np.concatenate([spikes for *_, spikes, _, _, _ in expected]))
    return compared


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

    announced: list[tuple[int, int, int, int]] = []

    async def tick() -> None:
        await unit.tick()
        await unit.settle()
        if announced:  # the cycle before
            outputs.append((*announced.pop(), np.array([list(channel) for channel in unit.get("o")])))
        if unit.get("o_valid"):
            announced.append((unit.cycle, unit.get("o_group"), unit.get("o_last"), unit.get("o_info").number))

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
