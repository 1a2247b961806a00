# SPDX-License-Identifier: MIT
"""cocotb side of test_accelerator: the register window of the whole accelerator, beyond flying episodes."""

import functools
from collections.abc import Callable
from dataclasses import replace

import cocotb
import numpy as np
import pytest

from host.accelerator import Accelerator, AcceleratorError
from host.policy_image import pack
from hw.memory_map import memory_map
from hw.registers import (
    INTERFACE_VERSION,
    MAGIC,
    PAGE_OFFSET,
    WINDOW_BYTES,
    field_mask,
    offsets,
    register_table,
)
from model.deployed.geometry import Geometry
from model.deployed.presets import HOPPER_Z2
from model.deployed.random_policy import random_policy, random_tokens
from sim.build import parameter
from sim.bus import CocotbBus, driven
from sim.reference import Reference

MOST_MS = 50
"""Of simulated time, 10 ns a cycle: the watchdog of every test here."""

STALL = 0.3

ALL = 0xFFFF_FFFF


class Bench:
    """The accelerator with its addresses at hand; `expect` counts what was compared."""

    def __init__(self, bus: CocotbBus) -> None:
        self.g = g = Geometry.from_json(parameter("geometry"))
        self.bus, self.at, self.compared = bus, offsets(g), 0
        self.flags = {name: field_mask(g, "STATUS", name) for name in ("BUSY", "REFUSED", "BAD_ADDRESS", "WATCHDOG")}
        bus.stall(STALL)
        self.accelerator = Accelerator(bus, g)
        self.policy = random_policy(g, 7)
        self.tokens = random_tokens(self.policy, 40, 7)
        self.reference = Reference(self.policy)

    def load(self) -> None:
        """Load the policy without stalls: others test those."""
        self.bus.stall(0.0)
        self.accelerator.load(self.policy)
        self.bus.stall(STALL)
        self.reference.begin()

    def read(self, name: str) -> int:
        return self.bus.read32(self.at[name])

    def write(self, name: str, word: int) -> None:
        self.bus.write32(self.at[name], word)

    def control(self, action: str) -> None:
        self.write("CONTROL", field_mask(self.g, "CONTROL", action))

    def expect(self, name: str, word: int) -> None:
        found = self.read(name)
        assert found == word, f"{name} reads 0x{found:08x}, not 0x{word:08x}"
        self.compared += 1

    def status(self, *names: str) -> None:
        """Check which flags are set, and clear them."""
        assert self.accelerator.status() == set(names)
        self.write("STATUS", ALL)
        self.compared += 1

    def decides_right(self, token: np.ndarray) -> None:
        """Check one decision against PyTorch."""
        decision, expected = self.accelerator.decide(token), self.reference.decide(token)
        np.testing.assert_array_equal(decision.words, expected.words)
        assert self.accelerator.signatures() == expected.signatures
        self.compared += 1

    def begin_long(self, number: int, repeats: int = 1000) -> None:
        """Start a run of many decisions."""
        self.write("REPEAT", repeats)
        self.write("START", number)
        self.write("REPEAT", 0)


def bench(least: int):
    """Make a cocotb test of blocking code that compares at least so much."""

    def decorate(work: Callable[[Bench], None]):
        @functools.wraps(work)
        async def run(dut):
            def blocking(bus: CocotbBus) -> None:
                it = Bench(bus)
                work(it)
                assert it.compared >= least, f"only {it.compared} comparisons"
                dut._log.warning(f"{work.__name__}: {it.compared} comparisons over {bus.transfers} transfers")

            await driven(dut, 3, blocking)

        del run.__wrapped__  # or cocotb asks the inner function for its arguments
        return cocotb.test(timeout_time=MOST_MS, timeout_unit="ms")(run)

    return decorate


@bench(least=60)
def identity_and_registers(it: Bench) -> None:
    """Identity, every RW register by name, RO registers ignore writes, unknown addresses, partial strobes."""
    g, bus = it.g, it.bus
    it.expect("MAGIC", MAGIC)
    it.expect("VERSION", INTERFACE_VERSION)
    it.expect("GEOMETRY_ID", g.identifier)
    other = replace(HOPPER_Z2, layers=2)
    with pytest.raises(AcceleratorError, match="geometry"):
        Accelerator(bus, other)
    rng = np.random.default_rng(1)
    written = {}
    for register in register_table(g):
        for index in range(register.count):
            address, word = register.offset + 4 * index, int(rng.integers(1, 1 << 32))
            if register.access == "RW" and register.name != "START":
                bus.write32(address, word)
                written[address] = word & ((1 << register.width) - 1)
            elif register.access == "RO":
                before = bus.read32(address)
                bus.write32(address, ~before & ALL)
                assert bus.read32(address) == before, register.name
                it.compared += 1
    for address, word in written.items():
        assert bus.read32(address) == word, f"0x{address:04x}"
        it.compared += 1
    assert len(set(written.values())) > 5
    it.status()

    known = {register.offset + 4 * index for register in register_table(g) for index in range(register.count)}
    unknown = [a for a in range(0, PAGE_OFFSET, 4) if a not in known]
    it.write("PAGE", sum(section.pages for section in memory_map(g).values()))
    for address in (unknown[0], PAGE_OFFSET - 4, PAGE_OFFSET, WINDOW_BYTES - 4, *rng.choice(unknown, 5).tolist()):
        assert bus.read32(address) == 0
        it.status("BAD_ADDRESS")
        bus.write32(address, ALL)
        it.status("BAD_ADDRESS")

    it.write("SCRATCH", 0x1234_5678)
    for octets in (b"\xff", b"\xff\xff", b"\xff\xff\xff"):
        for start in range(5 - len(octets)):
            bus.write_bytes(it.at["SCRATCH"] + start, octets)
            it.status("BAD_ADDRESS")
            it.expect("SCRATCH", 0x1234_5678)
    # a read and a write under way together do not disturb each other
    for turn in range(20):
        assert bus.read_while_writing(it.at["MAGIC"], it.at["SCRATCH"], turn) == MAGIC
        it.expect("SCRATCH", turn)
    it.status()


@bench(least=4)
def loading(it: Bench) -> None:
    """A policy loads under stalls; a corrupted word is found; smaller policies fit."""
    it.accelerator.load(it.policy)  # every word of it under stalls
    it.decides_right(it.tokens[0])
    honest = it.bus.write_block
    it.bus.stall(0.0)
    for name, words in pack(it.policy).sections.items():
        row = memory_map(it.g)[name].stride

        def corrupt(address, block, words=words, row=row):
            """Flip a bit of the section's second row on its way."""
            if address == PAGE_OFFSET and row < len(block) and np.array_equal(block, words[: len(block)]):
                block = block.copy()
                block[row] ^= 1
            honest(address, block)

        it.bus.write_block = corrupt
        with pytest.raises(AcceleratorError, match=f"{name} memory reads back with CRC"):
            it.accelerator.load(it.policy)
        it.bus.write_block = honest
        it.compared += 1
    it.load()
    for token in it.tokens[:3]:
        it.decides_right(token)
    it.status()


@bench(least=20)
def start_and_repeat(it: Bench) -> None:
    """START numbers, DONE, REPEAT, totals, shadowed inputs, refusals while busy."""
    g, bus, accelerator = it.g, it.bus, it.accelerator
    it.load()
    it.decides_right(it.tokens[0])
    done, actions = it.read("DONE"), bus.read_block(it.at["ACTION"], (g.action_size + 1) // 2).tolist()
    decisions, cycles = accelerator.totals()
    assert (decisions, cycles) == (1, bus.busy_cycles)
    # the same number again starts nothing
    it.write("START", it.read("START"))
    bus.wait(50)
    it.expect("DONE", done)
    it.status()
    assert accelerator.totals() == (decisions, cycles)
    assert bus.read_block(it.at["ACTION"], len(actions)).tolist() == actions

    # REPEAT: the same input over again, one DONE
    repeats = 5
    it.write("REPEAT", repeats)
    before = bus.busy_cycles
    decision = accelerator.decide(it.tokens[1])
    for _ in range(1 + repeats):
        expected = it.reference.decide(it.tokens[1])
    np.testing.assert_array_equal(decision.words, expected.words)
    assert accelerator.signatures() == expected.signatures
    it.expect("TOKENS", min(2 + repeats, g.reach + 1))
    total = accelerator.totals()
    assert total == (decisions + 1 + repeats, cycles + bus.busy_cycles - before)
    assert total[1] == bus.busy_cycles
    it.write("REPEAT", 0)
    # totals stand still until the next SNAPSHOT
    it.decides_right(it.tokens[2])
    it.expect("TOTAL_DECISIONS", total[0])
    it.expect("TOTAL_CYCLES_LOW", total[1])
    it.expect("TOTAL_CYCLES_HIGH", 0)
    assert accelerator.totals() == (total[0] + 1, bus.busy_cycles)
    it.compared += 6

    # inputs are taken over at START: changing them afterwards does nothing to this decision
    expected = it.reference.decide(it.tokens[3])
    octets = np.zeros(-(-it.policy.input_size // 4) * 4, np.int8)
    octets[: it.policy.input_size] = it.tokens[3]
    bus.write_block(it.at["INPUT"], octets.view("<u4"))
    bus.stall(0.0)
    it.write("START", 4711)
    it.write("INPUT", ALL)
    assert "BUSY" in accelerator.status()
    bus.stall(STALL)
    bus.poll(it.at["DONE"], ALL, 4711, 1.0)
    assert accelerator.signatures() == expected.signatures
    it.compared += 1

    # while busy, pages, START and what a decision depends on are refused
    sizes = {name: it.read(name) for name in ("INPUT_COUNT", "ACTION_COUNT", "ENTRY_THRESHOLD")}
    it.write("PAGE", 0)
    word = bus.read32(PAGE_OFFSET)
    it.begin_long(4712)
    it.status("BUSY")
    bus.write32(PAGE_OFFSET, ~word & ALL)
    it.status("BUSY", "REFUSED")
    assert bus.read32(PAGE_OFFSET) == 0
    it.status("BUSY", "REFUSED")
    it.write("START", 9)
    it.status("BUSY", "REFUSED")
    it.expect("START", 4712)
    for name, value in sizes.items():
        it.write(name, value)
        it.status("BUSY")
        it.write(name, value ^ 1)
        it.status("BUSY", "REFUSED")
        it.expect(name, value)
    it.control("NEW_EPISODE")
    it.status("BUSY", "REFUSED")
    it.expect("DONE", 4711)
    it.control("SOFT_RESET")
    it.status()
    assert bus.read32(PAGE_OFFSET) == word


@bench(least=150)
def soft_reset_and_watchdog(it: Bench) -> None:
    """A decision stopped half way, by request and by the watchdog, leaves a circuit that decides right."""
    g, bus, accelerator = it.g, it.bus, it.accelerator
    it.load()
    cycles = accelerator.decide(it.tokens[0]).cycles
    for turn, wait in enumerate(np.linspace(0, cycles - 5, 25).astype(int).tolist()):
        it.write("START", 1000 + turn)
        if wait:
            bus.wait(wait)
        accelerator.soft_reset()
        it.expect("DONE", 0)
        it.expect("TOKENS", 0)
        it.expect("CYCLES", 0)
        it.expect("START", 1000 + turn)
        it.status()
        assert accelerator.totals() == (0, 0)
        it.reference.begin()
        it.decides_right(it.tokens[turn % len(it.tokens)])
        it.decides_right(it.tokens[turn + 1])

    # a watchdog shorter than a decision stops it, one that is longer does not
    it.write("WATCHDOG", cycles // 2)
    it.write("START", 5000)
    bus.wait(cycles + 20)
    it.expect("DONE", 0)
    it.status("WATCHDOG")
    it.expect("WATCHDOG", cycles // 2)
    it.write("WATCHDOG", 4 * cycles)
    it.reference.begin()
    for token in it.tokens[:4]:
        it.decides_right(token)
    it.status()
    it.write("WATCHDOG", 0)
    it.decides_right(it.tokens[4])
    it.control("NEW_EPISODE")
    it.control("NEW_EPISODE")
    it.reference.begin()
    it.expect("TOKENS", 0)
    for token in it.tokens[: g.reach + 2]:
        it.decides_right(token)
    it.expect("TOKENS", g.reach + 1)
