# SPDX-License-Identifier: MIT
"""Bench of the match unit."""

import numpy as np

from hw.match import MatchWindow
from hw.memory_map import memory_map, passes
from hw.passes import Kind
from model.deployed.geometry import Geometry
from model.deployed.golden_attention import ATTENTIONS
from sim.ports import Ports
from sim.stimulus import bits_of, read, sparse, varied


async def match(unit: Ports, g: Geometry, rng: np.random.Generator, stall: float) -> int:
    """Decisions over several episodes, the sparsest and the densest included; the rings are read back after each."""
    compared, outputs = 0, []

    async def rings() -> np.ndarray:
        """Read keys and values back [layers, slots, key or value, steps, channels]."""
        section = memory_map(g)["ring"]
        words = np.array(await read(unit, "ring", section.rows * section.stride), np.uint64)
        rows = words.reshape(section.rows, section.stride)[:, : section.words]
        whole = [sum(int(word) << (32 * i) for i, word in enumerate(row)) for row in rows]
        bits = np.array([[word >> i & 1 for i in range(section.row_bits)] for word in whole], bool)
        # [layers, slots, groups, key or value, group, steps] -> [layers, slots, key or value, steps, groups, group]
        bits = bits.reshape(g.layers, g.window, g.groups, 2, g.group, g.steps).transpose(0, 1, 3, 5, 2, 4)
        return bits.reshape(g.layers, g.window, 2, g.steps, g.d_model)

    async def send(kind: Kind, layer: int, spikes: np.ndarray) -> None:
        """Send a pass in its order, idle in between."""
        for group in range(g.groups):
            if rng.random() < stall:
                unit.set("i_valid", 0)
                unit.set("i", rng.integers(0, 1 << g.steps, g.group).tolist())
                await unit.tick(int(rng.integers(1, 4)))
            unit.set("i_valid", 1)
            unit.set("i_group", group)
            unit.set("i_info", {"kind": kind, "layer": layer})
            unit.set("i", spikes[group * g.group : (group + 1) * g.group].tolist())
            await unit.tick()
        # passes that are no attention's change nothing
        unit.set("i_valid", int(rng.random() < 0.5))
        unit.set("i_info", {"kind": Kind.FC1, "layer": layer})
        await unit.tick()
        unit.set("i_valid", 0)

    def spikes() -> np.ndarray:
        """Draw a pass's spikes [channels]: all of them now and then, which counts the most there is."""
        if rng.random() < 0.4:
            return np.full(g.d_model, (1 << g.steps) - 1)
        return sparse(rng, g, g.groups).ravel()

    held = await rings()  # what they must show: a reset leaves them as they are
    for length in (g.window + 3, max(1, g.window - 2)):
        unit.set("new_episode", 1)
        await unit.tick()
        unit.set("new_episode", 0)
        golden = [ATTENTIONS[g.attention](g, {}) for _ in range(g.layers)]
        for token in range(length):
            assert unit.get("tokens") == min(token, g.window)
            unit.set("busy", 1)
            unit.set("start", 1)
            await unit.tick()
            unit.set("start", 0)
            for layer in range(g.layers):
                key, value, query = spikes(), spikes(), spikes()
                shown = [bits_of(each, g.steps) for each in (key, value, query)]
                sums, _ = golden[layer].advance(*shown)
                held[layer, token % g.window] = shown[:2]
                await send(Kind.KEY, layer, key)
                assert unit.get("ready")
                await send(Kind.VALUE, layer, value)
                await send(Kind.QUERY, layer, query)
                entered = unit.cycle - 2  # of the last group; `send` idles for a cycle after it
                for group in range(g.groups):
                    await unit.until("o_valid", 40)
                    # some of the slots a cycle: the first sums behind all counts, the others at the adders' pace
                    cycles = -(-g.window // -(-g.window // 2))
                    assert unit.cycle - entered == MatchWindow.LATENCY + cycles * (group + 1)
                    info = unit.get("o_info")
                    assert (info.kind, info.layer) == (Kind.WINDOW, layer)
                    assert info.number == 1 + layer * g.passes_per_layer + passes(g).index("window")
                    assert unit.get("o_group") == group
                    assert unit.get("o_last") == (group == g.groups - 1)
                    found = np.array([list(channel) for channel in unit.get("o")]).T
                    np.testing.assert_array_equal(found, sums[:, group * g.group : (group + 1) * g.group])
                    compared += found.size
                    outputs.append(found)
                    await unit.tick()
                assert not unit.get("o_valid")
            unit.set("advance", 1)
            await unit.tick()
            unit.set("advance", 0)
            unit.set("busy", 0)
            found = await rings()
            np.testing.assert_array_equal(found, held)
            compared += found.size
    varied(np.concatenate([found.ravel() for found in outputs]))
    return compared
