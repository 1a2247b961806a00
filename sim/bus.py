# SPDX-License-Identifier: MIT
"""The accelerator in a cocotb simulation behind the host's `Bus`: AXI4-Lite by cocotbext-axi, stalls at random."""

import logging
import random
from collections.abc import Callable, Iterator

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.task import bridge, resume
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiMaster, AxiResp

from host.bus import Bus, BusTimeout, Words

MOST_US = 10
"""A word's transfer may take, of simulated time: a thousand cycles."""

POLL_CYCLES = 60
"""Simulated between two reads of a poll, at most."""


def pauses(seed: int, share: float) -> Iterator[bool]:
    """Yield, cycle by cycle and for ever, whether to pause, in that share of cycles."""
    draws = random.Random(seed)
    while True:
        yield draws.random() < share


class CocotbBus(Bus):
    """Blocking access for code that runs inside `driven`. Every answer must be OKAY.

    clock : of the circuit. busy : the core's signal. base : where the window lies on the master's bus.
    busy_cycles : cycles in which the circuit's core was busy, counted beside it.
    """

    def __init__(self, clock, master: AxiLiteMaster | AxiMaster, busy, seed: int, base: int = 0) -> None:
        self.master = master
        self.busy_cycles = 0
        self.transfers = 0
        self._random = random.Random(seed)
        self._clock, self._busy, self._base = clock, busy, base
        write, read = master.write_if, master.read_if
        self._channels = (write.aw_channel, write.w_channel, write.b_channel, read.ar_channel, read.r_channel)

    def stall(self, share: float) -> None:
        """Pause every channel in that share of cycles, at random."""

        for channel in self._channels:
            if share:
                channel.set_pause_generator(pauses(self._random.getrandbits(32), share))
            else:
                channel.clear_pause_generator()
                channel.pause = False

    @resume
    async def _read(self, address: int, count: int) -> Words:
        return await self._reading(address, count)

    async def _reading(self, address: int, count: int) -> Words:
        self.transfers += count
        answer = await with_timeout(self.master.read(self._base + address, 4 * count), MOST_US * count, "us")
        assert answer.resp == AxiResp.OKAY, f"reading 0x{address:04x}: {answer.resp}"
        return np.frombuffer(answer.data, "<u4").copy()

    @resume
    async def write_bytes(self, address: int, octets: bytes) -> None:
        """Write octets; a word that they do not cover wholly is written with partial strobes."""
        await self._writing(address, octets)

    async def _writing(self, address: int, octets: bytes) -> None:
        words = -(-len(octets) // 4)
        self.transfers += words
        answer = await with_timeout(self.master.write(self._base + address, octets), MOST_US * words, "us")
        assert answer.resp == AxiResp.OKAY, f"writing 0x{address:04x}: {answer.resp}"

    @resume
    async def read_while_writing(self, read_from: int, write_to: int, word: int) -> int:
        """Issue a read and a write at the same time; return what was read."""
        reading = cocotb.start_soon(self._reading(read_from, 1))
        await self._writing(write_to, word.to_bytes(4, "little"))
        return int((await reading)[0])

    @resume
    async def wait(self, cycles: int) -> None:
        """Let cycles pass."""
        await ClockCycles(self._clock, cycles)

    def read32(self, address: int) -> int:
        return int(self._read(address, 1)[0])

    def write32(self, address: int, word: int) -> None:
        self.write_bytes(address, int(word).to_bytes(4, "little"))

    def read_block(self, address: int, count: int) -> Words:
        return self._read(address, count)

    def write_block(self, address: int, words: Words) -> None:
        self.write_bytes(address, np.ascontiguousarray(words, "<u4").tobytes())

    def poll(self, address: int, mask: int, value: int, timeout_s: float) -> None:
        """Read now and then; simulated time, not the clock on the wall, decides on giving up."""
        for _ in range(5000):
            if (last := self.read32(address)) & mask == value:
                return
            self.wait(self._random.randint(1, POLL_CYCLES))
        raise BusTimeout(address, mask, value, last, timeout_s)

    async def count_busy(self) -> None:
        """Count the core's busy cycles, for ever."""
        while True:
            await RisingEdge(self._clock)
            self.busy_cycles += bool(self._busy.value)


def quiet() -> None:
    """Keep cocotbext-axi from reporting every transfer."""
    logging.getLogger("cocotb").setLevel(logging.WARNING)


async def driven(dut, seed: int, work: Callable[[CocotbBus], None]) -> None:
    """Start clock and reset, then run the blocking `work` on the circuit."""
    quiet()
    Clock(dut.clk, 10, "ns").start()
    dut.rst.value = 1
    master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil_"), dut.clk, dut.rst)
    await released(CocotbBus(dut.clk, master, dut.accelerator.core.busy, seed), dut.clk, dut.rst, 0, work)


async def released(bus: CocotbBus, clock, reset, level: int, work: Callable[[CocotbBus], None]) -> None:
    """Let go of the reset by giving it a level, then run the blocking `work` on the circuit."""
    counting = cocotb.start_soon(bus.count_busy())
    await ClockCycles(clock, 4)
    reset.value = level
    await ClockCycles(clock, 4)
    await bridge(work)(bus)
    counting.cancel()
