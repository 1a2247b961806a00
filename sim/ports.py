# SPDX-License-Identifier: MIT
"""A unit's ports by the names and shapes of its signature, in Amaranth's simulator or in cocotb's, so that a bench is
written once for both."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator
from enum import Enum
from typing import Any

import numpy as np
from amaranth.hdl import Module, Shape, ShapeCastable, Signal
from amaranth.lib import wiring
from amaranth.sim import Simulator

from model.deployed.geometry import Geometry

Bench = Callable[["Ports", Geometry, np.random.Generator, float], Coroutine[Any, Any, int]]
"""A bench gets the unit, its geometry, a source of chance and the share of cycles to stall; it returns how many
values it compared."""

MOST_CYCLES = 200_000
"""The watchdog: no bench takes as many cycles."""


def leaves(signature: wiring.Signature, path: tuple[str, ...] = ()) -> Iterator[tuple[str, wiring.Flow, Any, int]]:
    """Yield (dotted name, flow, shape, ports side by side or 0) of a signature's ports."""
    for name, member in signature.members.items():
        if member.is_signature:
            yield from leaves(member.signature, (*path, name))
        else:
            yield ".".join((*path, name)), member.flow, member.shape, member.dimensions[0] if member.dimensions else 0


class Ports(ABC):
    """Inputs are set and outputs read between two clock edges. Combinational outputs follow after `settle`."""

    def __init__(self, component: wiring.Component) -> None:
        ports = list(leaves(component.signature))
        self.ports = {name: (shape, count) for name, _, shape, count in ports}
        self.inputs = [name for name, flow, _, _ in ports if flow == wiring.In]
        self.cycle = 0

    def set(self, name: str, value: Any) -> None:
        """Set an input; a list for ports side by side, what the shape takes for one."""
        shape, count = self.ports[name]
        for index, one in enumerate(value) if count else ((None, value),):
            if isinstance(one, Enum):
                one = one.value
            elif isinstance(shape, ShapeCastable):
                one = shape.const(one).as_bits()
            self._put(name, index, int(one))

    def get(self, name: str) -> Any:
        """Return an output: integers, `data.Const` for layouts, a list for ports side by side."""
        shape, count = self.ports[name]
        values = []
        for index in range(count) if count else (None,):
            raw = self._take(name, index)
            if isinstance(shape, ShapeCastable):
                raw = shape.from_bits(raw)
            elif (width := Shape.cast(shape)).signed and raw >> (width.width - 1) & 1:
                raw -= 1 << width.width
            values.append(raw)
        return values if count else values[0]

    async def tick(self, cycles: int = 1) -> None:
        """Pass clock edges."""
        for _ in range(cycles):
            self.cycle += 1
            assert self.cycle < MOST_CYCLES, "the unit hangs"
            await self._edge()

    async def until(self, name: str, most: int = 2_000) -> None:
        """Pass clock edges until an output is set."""
        for _ in range(most):
            if self.get(name):
                return
            await self.tick()
        raise AssertionError(f"{name} did not come in {most} cycles")

    @abstractmethod
    def _put(self, name: str, index: int | None, raw: int) -> None: ...

    @abstractmethod
    def _take(self, name: str, index: int | None) -> int: ...

    @abstractmethod
    async def _edge(self) -> None: ...

    @abstractmethod
    async def settle(self) -> None:
        """Let combinational outputs follow the inputs."""


class AmaranthPorts(Ports):
    """A component in Amaranth's simulator."""

    def __init__(self, component: wiring.Component, ctx: Any) -> None:
        super().__init__(component)
        self._ctx = ctx
        self._signals = {}
        for name in self.ports:
            value: Any = component
            for part in name.split("."):
                value = getattr(value, part)
            self._signals[name] = value

    def _signal(self, name: str, index: int | None) -> Any:
        value = self._signals[name]
        value = value if index is None else value[index]
        return value.as_value() if hasattr(value, "as_value") else value

    def _put(self, name: str, index: int | None, raw: int) -> None:
        self._ctx.set(self._signal(name, index), raw)

    def _take(self, name: str, index: int | None) -> int:
        signal = self._signal(name, index)
        return self._ctx.get(signal) & ((1 << len(signal)) - 1)

    async def _edge(self) -> None:
        await self._ctx.tick()

    async def settle(self) -> None:
        pass


def simulate(component: wiring.Component, bench: Bench, geometry: Geometry, seed: int, stall: float) -> int:
    """Run a bench on a component in Amaranth's simulator; return how many values it compared."""
    compared = 0

    async def testbench(ctx: Any) -> None:
        nonlocal compared
        compared = await bench(AmaranthPorts(component, ctx), geometry, np.random.default_rng(seed), stall)

    m = Module()
    m.submodules.unit = component
    m.d.sync += Signal().eq(0)  # a unit without registers has no clock of its own
    simulator = Simulator(m)
    simulator.add_clock(1e-8)
    simulator.add_testbench(testbench)
    simulator.run()
    assert compared > 0
    return compared
