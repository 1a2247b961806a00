# SPDX-License-Identifier: MIT
"""cocotb side of test_units: one bench of sim.benches on one unit among `AllUnits`."""

from typing import Any

import cocotb
import numpy as np
from amaranth.lib import wiring
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge, Timer

from model.deployed.geometry import Geometry
from sim.benches import BENCHES
from sim.build import parameter
from sim.ports import Ports
from sim.units import UNITS


class CocotbPorts(Ports):
    """A unit of `AllUnits` in a cocotb simulation; its benches act at the falling edges."""

    def __init__(self, component: wiring.Component, dut: Any, prefix: str) -> None:
        super().__init__(component)
        self._dut = dut
        self._handles = {}
        for name, (_, count) in self.ports.items():
            flat = "__".join((prefix, *name.split(".")))
            if flat.endswith("__payload") and not hasattr(dut, flat):
                flat = flat[: -len("payload")] + "p"
            self._handles[name] = [getattr(dut, f"{flat}__{i}") for i in range(count)] or getattr(dut, flat)

    def _handle(self, name: str, index: int | None) -> Any:
        return self._handles[name] if index is None else self._handles[name][index]

    def _put(self, name: str, index: int | None, raw: int) -> None:
        handle = self._handle(name, index)
        handle.value = raw & ((1 << len(handle)) - 1)

    def rest(self) -> None:
        """Put zero on the inputs. On the inputs alone: an output that is constant would keep what is put on it."""
        for name in self.inputs:
            for index in range(self.ports[name][1]) or (None,):
                self._put(name, index, 0)

    def _take(self, name: str, index: int | None) -> int:
        return int(self._handle(name, index).value)

    async def _edge(self) -> None:
        await FallingEdge(self._dut.clk)

    async def settle(self) -> None:
        await Timer(1, "ns")


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def unit(dut):
    """Run the bench that was asked for, as often as asked, without stalls first."""
    name, g = parameter("unit"), Geometry.from_json(parameter("geometry"))
    Clock(dut.clk, 10, "ns").start()
    dut.rst.value = 1
    ports = CocotbPorts(UNITS[name](g), dut, name)
    ports.rest()
    compared = 0
    for seed in range(int(parameter("runs"))):
        dut.rst.value = 1
        await ClockCycles(dut.clk, 4)
        await FallingEdge(dut.clk)
        dut.rst.value = 0
        ports.cycle = 0
        compared += await BENCHES[name](ports, g, np.random.default_rng(seed), (0.0, 0.3, 0.7)[seed % 3])
    dut._log.info(f"compared {compared} values of {name} in {ports.cycle} cycles of the last run")
