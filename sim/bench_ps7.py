# SPDX-License-Identifier: MIT
"""cocotb side of test_ps7: the Zynq-7000's whole programmable logic, cocotb in the processor's place at M_AXI_GP0."""

from dataclasses import dataclass

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, with_timeout
from cocotbext.axi import AxiBus, AxiMaster
from cocotbext.axi.axi_channels import AxiARSource, AxiAWSource, AxiBSink, AxiRSink, AxiWSource

from bitstreams.axi3 import Burst, Response
from bitstreams.boards import BOARDS
from hw.memory_map import memory_map
from hw.registers import PAGE_OFFSET, field_mask, offsets
from sim.bench_accelerator import MOST_MS, fly_episodes, geometry
from sim.bus import CocotbBus, pauses, quiet, released

BASE = BOARDS["pynq-z2"].base

MOST_BEATS = 16

MOST_US = 100
"""A transaction may take, with stalls, of simulated time."""

TURNS = 120

ALL = 0xFFFF_FFFF


@cocotb.test(timeout_time=MOST_MS, timeout_unit="ms")
async def episodes(dut):
    """The shipped driver, whose blocks travel as bursts of up to 16 beats."""
    quiet()
    ps7 = dut.ps7
    Clock(ps7.clock, 10, "ns").start()
    bus = AxiBus.from_prefix(ps7, "m_axi")
    master = AxiMaster(bus, ps7.clock, ps7.resetn, reset_active_level=False, max_burst_len=MOST_BEATS)
    host = CocotbBus(ps7.clock, master, dut.top.accelerator.core.busy, 5, BASE)
    await released(host, ps7.clock, ps7.resetn, 1, lambda bus: fly_episodes(bus, dut._log.warning))


@dataclass
class Transaction:
    """What a manager asks for; a write with a word per beat."""

    id: int
    address: int
    beats: int
    size: int
    burst: int
    words: list[int] | None = None

    @property
    def okay(self) -> Response:
        """The answer that the specification and the address map ask for."""
        if self.address >> 16 != BASE >> 16:
            return Response.DECERR
        wraps = self.burst == Burst.WRAP and self.beats not in (2, 4, 8, 16)
        return Response.SLVERR if self.size > 2 or self.burst == Burst.RESERVED or wraps else Response.OKAY

    def places(self) -> list[int]:
        """Return the beats' addresses: section A3.4.1 of the specification, in its own terms."""
        number_bytes, burst_length = 1 << self.size, self.beats
        aligned = self.address // number_bytes * number_bytes
        boundary = self.address // (number_bytes * burst_length) * (number_bytes * burst_length)
        found = []
        for n in range(self.beats):
            place = self.address if n == 0 or self.burst == Burst.FIXED else aligned + n * number_bytes
            if self.burst == Burst.WRAP and place >= boundary + number_bytes * burst_length:
                place -= number_bytes * burst_length
            found.append(place)
        return found

    def strobes(self) -> list[int]:
        """Return the byte lanes of each beat."""
        number_bytes, found = 1 << min(self.size, 2), []
        for place in self.places():
            first, end = place % 4, (place // number_bytes * number_bytes) % 4 + number_bytes
            found.append(sum(1 << lane for lane in range(first, min(end, 4))))
        return found


class Gp0:
    """The processor's port, channel by channel."""

    def __init__(self, ps7, rng: np.random.Generator, stall: float) -> None:
        bus = AxiBus.from_prefix(ps7, "m_axi")
        reset = {"reset": ps7.resetn, "reset_active_level": False}
        self.aw = AxiAWSource(bus.write.aw, ps7.clock, **reset)
        self.w = AxiWSource(bus.write.w, ps7.clock, **reset)
        self.b = AxiBSink(bus.write.b, ps7.clock, **reset)
        self.ar = AxiARSource(bus.read.ar, ps7.clock, **reset)
        self.r = AxiRSink(bus.read.r, ps7.clock, **reset)
        for channel in (self.aw, self.w, self.b, self.ar, self.r):
            channel.queue_occupancy_limit = MOST_BEATS
            channel.set_pause_generator(pauses(int(rng.integers(1 << 31)), stall))

    async def write(self, transactions: list[Transaction]) -> dict[int, Response]:
        """Send writes at once, data not waiting for addresses; return their answers by ID."""
        for it in transactions:
            address = {"awaddr": it.address, "awlen": it.beats - 1, "awsize": it.size, "awburst": it.burst}
            await self.aw.send(self.aw._transaction_obj(awid=it.id, **address))
        for it in transactions:
            for n, (word, strobes) in enumerate(zip(it.words or [], it.strobes(), strict=True)):
                beat = {"wdata": word, "wstrb": strobes, "wlast": n == it.beats - 1}
                await self.w.send(self.w._transaction_obj(**beat))
        found = {}
        for _ in transactions:
            answer = await with_timeout(self.b.recv(), MOST_US, "us")
            assert int(answer.bid) not in found, "answered twice"
            found[int(answer.bid)] = Response(int(answer.bresp))
        return found

    async def read(self, transactions: list[Transaction]) -> dict[int, tuple[list[int], set[Response]]]:
        """Send reads at once; return words and answers by ID. The last beat, and no other, is marked."""
        beats = {it.id: it.beats for it in transactions}
        for it in transactions:
            address = {"araddr": it.address, "arlen": it.beats - 1, "arsize": it.size, "arburst": it.burst}
            await self.ar.send(self.ar._transaction_obj(arid=it.id, **address))
        found: dict[int, tuple[list[int], set[Response]]] = {it.id: ([], set()) for it in transactions}
        for _ in range(sum(beats.values())):
            answer = await with_timeout(self.r.recv(), MOST_US, "us")
            words, responses = found[int(answer.rid)]
            words.append(int(answer.rdata))
            responses.add(Response(int(answer.rresp)))
            assert bool(answer.rlast) == (len(words) == beats[int(answer.rid)])
        return found

    async def store(self, place: int, word: int) -> None:
        """Write a register."""
        it = Transaction(0, BASE + place, 1, 2, Burst.INCR, [word])
        assert await self.write([it]) == {0: Response.OKAY}

    async def load(self, place: int) -> int:
        """Read a register."""
        found = await self.read([Transaction(0, BASE + place, 1, 2, Burst.INCR)])
        return found[0][0][0]


def random_transactions(rng: np.random.Generator, first: int, octets: int, most: int) -> list[Transaction]:
    """Return up to `most` transactions of all kinds in a range of the window, some of them refused."""
    found = []
    for id in rng.choice(1 << 12, int(rng.integers(1, most + 1)), replace=False).tolist():
        kind = rng.random()
        size = 3 if kind < 0.06 else int(rng.choice([0, 1, 2, 2, 2]))
        burst = int(rng.choice([Burst.FIXED, Burst.INCR, Burst.INCR, Burst.WRAP]))
        burst = Burst.RESERVED if 0.06 <= kind < 0.12 else burst
        beats = int(rng.integers(1, MOST_BEATS + 1))
        if burst == Burst.WRAP and kind < 0.9:
            beats = int(rng.choice([2, 4, 8, 16]))
        reach = (1 << size) * beats
        address = BASE + first + int(rng.integers(0, octets - 2 * reach))
        if burst == Burst.WRAP or rng.random() < 0.7:
            address = address >> size << size
        if 0.12 <= kind < 0.2:
            address ^= 1 << int(rng.integers(16, 30))
        words = rng.integers(0, 1 << 32, beats, dtype=np.uint64).tolist()
        found.append(Transaction(id, address, beats, size, burst, words))
    return found


@cocotb.test(timeout_time=MOST_MS, timeout_unit="ms")
async def bursts(dut):
    """Reads and writes of all kinds side by side, several under way, against a dictionary of words."""
    g, rng, ps7 = geometry(), np.random.default_rng(11), dut.ps7
    quiet()
    Clock(ps7.clock, 10, "ns").start()
    gp0 = Gp0(ps7, rng, 0.3)
    await ClockCycles(ps7.clock, 4)
    ps7.resetn.value = 1
    await ClockCycles(ps7.clock, 4)
    at, bad = offsets(g), field_mask(g, "STATUS", "BAD_ADDRESS")
    section = memory_map(g)["weights"]
    assert (section.row_bits, section.stride) == (32 * section.words, section.words)  # every bit of every word is there
    count = min(4096, 4 * section.rows * section.stride) // 4 // MOST_BEATS * MOST_BEATS  # no burst crosses 4 KB
    octets, blocks = 4 * count, range(0, count, MOST_BEATS)
    await gp0.store(at["PAGE"], section.page)
    model = {}
    for block in blocks:
        words = rng.integers(0, 1 << 32, MOST_BEATS, dtype=np.uint64).tolist()
        model |= {PAGE_OFFSET + 4 * (block + n): word for n, word in enumerate(words)}
        it = Transaction(block, BASE + PAGE_OFFSET + 4 * block, MOST_BEATS, 2, Burst.INCR, words)
        assert await gp0.write([it]) == {block: Response.OKAY}

    compared, seen, narrow = 0, set(), 0
    half = octets // 2
    for turn in range(TURNS):
        lower, upper = PAGE_OFFSET, PAGE_OFFSET + half
        stored = random_transactions(rng, lower if turn % 2 else upper, half, 4)
        loaded = random_transactions(rng, upper if turn % 2 else lower, half, 4)
        reading = cocotb.start_soon(gp0.read(loaded))
        answers = await gp0.write(stored)
        found = await reading
        partial = False
        for it in stored:
            assert answers[it.id] == it.okay, it
            seen.add(("write", it.okay, it.burst))
            if it.okay == Response.OKAY:
                for place, word, strobes in zip(it.places(), it.words or [], it.strobes(), strict=True):
                    if strobes == 0xF:
                        model[place - BASE & ~3] = word
                    else:
                        partial, narrow = True, narrow + 1
            compared += 1
        for it in loaded:
            words, responses = found[it.id]
            assert responses == {it.okay}, it
            seen.add(("read", it.okay, it.burst))
            expected = [0] * it.beats
            if it.okay == Response.OKAY:
                expected = [model[place - BASE & ~3] for place in it.places()]
            assert words == expected, it
            compared += it.beats
        # a store of less than a word is dropped, and the circuit remembers that
        assert await gp0.load(at["STATUS"]) == (bad if partial else 0)
        await gp0.store(at["STATUS"], ALL)
    for block in blocks:
        it = Transaction(block, BASE + PAGE_OFFSET + 4 * block, MOST_BEATS, 2, Burst.INCR)
        words, responses = (await gp0.read([it]))[block]
        assert responses == {Response.OKAY}
        assert words == [model[PAGE_OFFSET + 4 * (block + n)] for n in range(MOST_BEATS)]
        compared += MOST_BEATS
    for direction in ("read", "write"):
        assert {burst for way, okay, burst in seen if (way, okay) == (direction, Response.OKAY)} == {0, 1, 2}
        assert {okay for way, okay, _ in seen if way == direction} == set(Response) - {Response.EXOKAY}
    assert narrow > 50
    dut._log.warning(f"compared {compared} beats and answers")
