# SPDX-License-Identifier: MIT
"""Benches of embedding, head and counters."""

from dataclasses import replace

import numpy as np

from host.policy_image import pack
from hw.embed import Embedding
from hw.head import Head
from hw.passes import UNIT_OF, Kind
from hw.registers import ROW_UNITS, UNITS
from model.deployed import golden
from model.deployed.geometry import Geometry
from model.deployed.random_policy import random_policy, random_tokens
from sim.ports import Ports
from sim.stimulus import integers, load, varied


async def embed(unit: Ports, g: Geometry, rng: np.random.Generator, stall: float) -> int:
    """Products of whole and of short tokens; a group every `interval` cycles."""
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
                assert unit.cycle - began == Embedding.LATENCY + (group + 1) * Embedding.interval(g, count) - 1
                assert unit.get("o_group") == group
                assert unit.get("o_last") == (group == g.groups - 1)
                expected = weight[group * g.group : (group + 1) * g.group, :count] @ token[:count]
                await unit.tick()
                np.testing.assert_array_equal(unit.get("o"), expected)
                results.append(expected)
                compared += len(expected)
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
            assert unit.cycle - first == Head.latency(g, policy.action_size)
            found = list(unit.get("actions"))
            assert found == [*expected.tolist(), *[0] * (g.action_size - policy.action_size)]
            await unit.tick()
            assert not unit.get("done")
            compared += len(found)
            results.append(expected)
    varied(np.concatenate(results))
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
