# SPDX-License-Identifier: MIT
"""Bench of the head's plasticity."""

import numpy as np

from hw.memory_map import head_actions, memory_map
from hw.plasticity import HeadPlasticity
from model.deployed.geometry import Geometry
from model.deployed.golden_plasticity import changed, decayed
from sim.ports import Ports
from sim.stimulus import integers, varied


class Weights:
    """The head's weight memory, played by the bench: a row a cycle after its address."""

    def __init__(self, unit: Ports, g: Geometry, rng: np.random.Generator) -> None:
        self._unit, self._g = unit, g
        section = memory_map(g)["head"]
        fields = section.row_bits // g.dense_weight_bits
        self.rows = integers(rng, g.dense_weight_bits, (section.rows, fields))
        self._bits = g.dense_weight_bits

    def of(self, actions: int) -> np.ndarray:
        """Return the weights [actions, d_model]."""
        g, together = self._g, head_actions(self._g)
        return self.rows.reshape(-1, g.groups, together, g.group).swapaxes(1, 2).reshape(-1, g.d_model)[:actions]

    async def tick(self) -> None:
        """Pass a clock edge, at which a row is stored or the addressed one looked up."""
        unit, mask = self._unit, (1 << self._bits) - 1
        store, row, use = unit.get("weights.store"), unit.get("weights.row"), unit.get("weights.use")
        new = unit.get("weights.new_row") if store else 0
        await unit.tick()
        if store:
            assert use
            fields = [new >> at * self._bits & mask for at in range(self.rows.shape[1])]
            self.rows[row] = [field - (field >> (self._bits - 1) << self._bits) for field in fields]
        unit.set("weights.data", sum((int(field) & mask) << at * self._bits for at, field in enumerate(self.rows[row])))


async def plasticity(unit: Ports, g: Geometry, rng: np.random.Generator, stall: float) -> int:
    """Episodes of decisions with signs that come late, changes between them, frozen in some; traces read back."""
    rule, limit = g.require_plasticity(), 1 << (g.require_plasticity().factor_bits - 1)
    compared, seen = 0, []
    for _ in range(3):
        actions = int(rng.integers(1, g.action_size + 1))
        weights, traces = Weights(unit, g, rng), np.zeros((actions, g.d_model), np.int64)
        threshold = int(rng.integers(0, 1 << (g.membrane_bits - 2)))
        unit.set("count", actions)
        unit.set("entry_threshold", threshold)
        for decision in range(12):
            if decision % 5 == 0:
                unit.set("new_episode", 1)
                await weights.tick()
                unit.set("new_episode", 0)
                traces[:] = 0
                assert not any(await read_traces(unit, g))
            frozen = rng.random() < 0.2
            unit.set("frozen", int(frozen))
            traces = await decide(unit, g, rng, stall, weights, traces, threshold, frozen)
            found = np.array(await read_traces(unit, g)).reshape(g.action_size, -1)
            np.testing.assert_array_equal(found[:actions], traces)
            assert not found[actions:].any()
            if rng.random() < 0.5:
                factor = int(integers(rng, rule.factor_bits, (1,))[0]) if rng.random() < 0.8 else limit - 1
                before = weights.of(actions)
                expected = before if frozen else changed(before, traces, factor, rule, g.dense_weight_bits)
                untouched = weights.of(g.action_size)[actions:].copy()
                await learn(unit, g, weights, factor, 0 if frozen else actions)
                np.testing.assert_array_equal(weights.of(actions), expected)
                np.testing.assert_array_equal(weights.of(g.action_size)[actions:], untouched)
                compared += expected.size
            compared += traces.size
            seen += traces.ravel().tolist()
    varied(seen)
    return compared


async def decide(
    unit: Ports,
    g: Geometry,
    rng: np.random.Generator,
    stall: float,
    weights: Weights,
    traces: np.ndarray,
    threshold: int,
    frozen: bool,
) -> np.ndarray:
    """Play a decision; return the traces [actions, d_model] that follow."""
    rule = g.require_plasticity()
    membrane = integers(rng, int(rng.integers(3, g.membrane_bits + 1)), (g.steps, g.d_model))
    edge = rng.random(membrane.shape) < 0.1
    membrane = np.where(edge, threshold + rng.integers(0, 2, membrane.shape), membrane)
    post = rng.integers(-1, 2, len(traces))
    unit.set("start", 1)
    await weights.tick()
    unit.set("start", 0)
    unit.set("busy", 1)
    for group in range(g.groups):
        unit.set("i_valid", 1)
        unit.set("i_group", group)
        unit.set("i", membrane[:, group * g.group : (group + 1) * g.group].T.tolist())
        await weights.tick()
    unit.set("i_valid", 0)
    await weights.tick()
    for action, sign in enumerate(post.tolist()):
        while rng.random() < stall:
            await weights.tick()
        unit.set("post_valid", 1)
        unit.set("post_action", action)
        unit.set("post", sign)
        assert unit.get("settled") == frozen
        await weights.tick()
        unit.set("post_valid", 0)
    told = unit.cycle
    while not unit.get("settled"):
        await weights.tick()
    if frozen:
        assert unit.cycle == told
    elif len(traces) == 1:
        assert unit.cycle - told == g.groups + 2
    else:
        assert unit.cycle - told <= g.groups * len(traces) + 2
    unit.set("advance", 1)
    await weights.tick()
    unit.set("advance", 0)
    unit.set("busy", 0)
    return traces if frozen else decayed(traces, (membrane > threshold).sum(axis=0), post, rule)


async def learn(unit: Ports, g: Geometry, weights: Weights, factor: int, actions: int) -> None:
    """Give a third factor and wait for the change, which takes its time."""
    unit.set("factor", factor)
    unit.set("learn", 1)
    await weights.tick()
    unit.set("learn", 0)
    began = unit.cycle
    while not unit.get("learned"):
        unit.set("busy", unit.get("learning"))
        await weights.tick()
    unit.set("busy", 0)
    assert unit.cycle - began == HeadPlasticity.CHANGE_CYCLES * g.groups * actions
    assert not unit.get("learning")
    await weights.tick()
    assert not unit.get("learned")


async def read_traces(unit: Ports, g: Geometry) -> list[int]:
    """Read all traces through the page."""
    rule, section = g.require_plasticity(), memory_map(g)["traces"]
    values = []
    for row in range(section.rows):
        packed = 0
        for word in range(section.words):
            unit.set("traces.address", row * section.stride + word)
            await unit.tick()
            packed |= unit.get("traces.read_data") << 32 * word
        for channel in range(g.group):
            value = packed >> channel * rule.trace_bits & ((1 << rule.trace_bits) - 1)
            values.append(value - (value >> (rule.trace_bits - 1) << rule.trace_bits))
    return values
