# SPDX-License-Identifier: MIT
"""The bench of the register file behind its AXI4-Lite slave: every register by name, every refusal."""

import numpy as np

from hw.memory_map import memory_map
from hw.registers import PAGE_OFFSET, PAGE_WORDS, field_mask, register_table
from model.deployed.geometry import Geometry
from sim.ports import Ports

MOST_WAIT = 200
"""Cycles an answer may take."""


class Manager:
    """AXI4-Lite accesses, one at a time, with pauses at random on every channel."""

    def __init__(self, unit: Ports, rng: np.random.Generator, stall: float) -> None:
        self.unit, self.rng, self.stall = unit, rng, stall
        self.compared = 0
        self.pulses: list[int] = []

    async def _run(self, offers: dict[str, dict[str, int]], answer: str) -> int:
        """Offer on channels, each when it pleases, and take the answer; return what it carries."""
        unit, waiting, offered = self.unit, dict(offers), set()
        for _ in range(MOST_WAIT):
            for channel, values in waiting.items():
                if channel in offered or self.rng.random() >= self.stall:
                    offered.add(channel)  # what is offered stays
                    for name, value in values.items():
                        unit.set(f"s_axil.{name}", value)
                    unit.set(f"s_axil.{channel}valid", 1)
            ready = self.rng.random() >= self.stall
            unit.set(f"s_axil.{answer}ready", int(ready))
            await unit.settle()
            taken = [channel for channel in waiting if channel in offered and unit.get(f"s_axil.{channel}ready")]
            answered = ready and unit.get(f"s_axil.{answer}valid")
            data = unit.get("s_axil.rdata")
            if answered:
                assert unit.get(f"s_axil.{answer}resp") == 0
            if pulse := unit.get("CONTROL"):
                self.pulses.append(pulse)
            await unit.tick()
            for channel in taken:
                unit.set(f"s_axil.{channel}valid", 0)
                del waiting[channel]
            if answered:
                assert not waiting, "answered before it was asked"
                unit.set(f"s_axil.{answer}ready", 0)
                return data
        raise AssertionError("the bus hangs")

    async def write(self, address: int, word: int, strobes: int = 0xF) -> None:
        offers = {"aw": {"awaddr": address}, "w": {"wdata": word, "wstrb": strobes}}
        await self._run(offers, "b")

    async def read(self, address: int) -> int:
        return await self._run({"ar": {"araddr": address}}, "r")

    async def clear(self, address: int, pulse: int, flag: int) -> int:
        """Clear all status bits without pauses, a `flag` coming in the cycle `pulse`; return when the answer came."""
        unit = self.unit
        offers = {"awaddr": address, "awvalid": 1, "wdata": 0xFFFF_FFFF, "wstrb": 0xF, "wvalid": 1, "bready": 1}
        for name, value in offers.items():
            unit.set(f"s_axil.{name}", value)
        for cycle in range(MOST_WAIT):
            unit.set("STATUS", flag if cycle == pulse else 0)
            await unit.settle()
            taken = [channel for channel in ("aw", "w") if unit.get(f"s_axil.{channel}ready")]
            answered = unit.get("s_axil.bvalid")
            await unit.tick()
            for channel in taken:
                unit.set(f"s_axil.{channel}valid", 0)
            if answered:
                unit.set("s_axil.bready", 0)
                unit.set("STATUS", 0)
                return cycle
        raise AssertionError("the bus hangs")

    async def expect(self, address: int, word: int, what: str = "") -> None:
        found = await self.read(address)
        assert found == word, f"{what} at 0x{address:04x} reads 0x{found:08x}, not 0x{word:08x}"
        self.compared += 1


async def registers(unit: Ports, g: Geometry, rng: np.random.Generator, stall: float) -> int:
    """Read and write everything there is, and what there is not."""
    bus, table, sections = Manager(unit, rng, stall), register_table(g), memory_map(g)
    at = {register.name: register.offset for register in table}
    bit = {name: field_mask(g, "STATUS", name) for name in ("BUSY", "REFUSED", "BAD_ADDRESS", "WATCHDOG")}
    unit.set("busy", 0)
    unit.set("STATUS", 0)
    await unit.tick(2)

    def words(register) -> list[int]:
        return [int(w) for w in rng.integers(0, 1 << register.width, register.count, dtype=np.uint64)]

    # What the circuit shows is read; writing it does nothing
    shown = {register.name: words(register) for register in table if register.access == "RO"}
    for register in table:
        if register.access == "RO":
            values = shown[register.name]
            unit.set(register.name, values if register.count > 1 else values[0])
    # What was written is read, cut to the register's width, and shown to the circuit
    held = {register.name: words(register) for register in table if register.access == "RW"}
    for register in table:
        for index in range(register.count):
            address = register.offset + 4 * index
            if register.access == "RO":
                await bus.write(address, ~shown[register.name][index] & 0xFFFF_FFFF)
            elif register.access == "RW":
                await bus.write(address, held[register.name][index] | (0xFFFF_FFFF << register.width) & 0xFFFF_FFFF)
    for register in table:
        for index in range(register.count):
            word = {"RO": shown, "RW": held}.get(register.access, {}).get(register.name)
            await bus.expect(register.offset + 4 * index, word[index] if word else 0, register.name)
        if register.access == "RW":
            port = unit.get(register.name)
            assert (list(port) if register.count > 1 else [port]) == held[register.name]
    assert len({word for values in (*shown.values(), *held.values()) for word in values}) > 10

    # A written one acts for one cycle
    for action in ("NEW_EPISODE", "SOFT_RESET", "SNAPSHOT"):
        bus.pulses.clear()
        await bus.write(at["CONTROL"], field_mask(g, "CONTROL", action) | 0xFFFF_FFF8)
        assert bus.pulses == [field_mask(g, "CONTROL", action)]
        bus.pulses.clear()
        await bus.write(at["CONTROL"], 0x7, 0xE)
        assert bus.pulses == []
        await bus.expect(at["STATUS"], bit["BAD_ADDRESS"], "a partial store to CONTROL")
        await bus.write(at["STATUS"], bit["BAD_ADDRESS"])

    # Status sticks until a one is written to it
    flags = 0
    for name in ("REFUSED", "WATCHDOG"):
        unit.set("STATUS", bit[name])
        await unit.tick()
        unit.set("STATUS", 0)
        flags |= bit[name]
        await bus.expect(at["STATUS"], flags)
    await bus.write(at["STATUS"], bit["WATCHDOG"])
    await bus.expect(at["STATUS"], bit["REFUSED"], "after one of two flags was cleared")
    # a flag that comes with the store that clears it stays; the store is in the cycle before its answer
    answer = await bus.clear(at["STATUS"], -1, 0)
    for early in (2, 1, 0):
        await bus.clear(at["STATUS"], answer - early, bit["REFUSED"])
        await bus.expect(at["STATUS"], bit["REFUSED"] if early < 2 else 0, f"a flag {early} cycles before the answer")
    await bus.write(at["STATUS"], 0xFFFF_FFFF)
    await bus.expect(at["STATUS"], 0)

    # No store of less than a word
    for strobes in range(15):
        await bus.write(at["SCRATCH"], 0xFFFF_FFFF, strobes)
        await bus.expect(at["STATUS"], bit["BAD_ADDRESS"])
        await bus.write(at["STATUS"], 0xFFFF_FFFF)
        await bus.expect(at["SCRATCH"], held["SCRATCH"][0])

    # Addresses without a register
    known = {register.offset + 4 * index for register in table for index in range(register.count)}
    unknown = sorted(set(range(0, PAGE_OFFSET, 4)) - known)
    for address in (unknown[0], unknown[-1], *rng.choice(unknown, 6).tolist()):
        for write in (False, True):
            if write:
                await bus.write(address, 0xFFFF_FFFF)
            else:
                await bus.expect(address, 0)
            await bus.expect(at["STATUS"], bit["BAD_ADDRESS"], f"after 0x{address:04x}")
            await bus.write(at["STATUS"], bit["BAD_ADDRESS"])

    # Pages: writable sections hold words, probes refuse them, beyond a section's end there is nothing
    pages = sum(section.pages for section in sections.values())
    for section in sections.values():
        size = section.rows * section.stride
        places = {0, size - section.stride, int(rng.integers(0, section.rows)) * section.stride}
        # of a word only the row's bits need be there; the last word of a row may have fewer
        stored = {place: int(rng.integers(1, 1 << min(16, section.row_bits))) for place in places}
        for place, word in stored.items():
            await bus.write(at["PAGE"], section.page + place // PAGE_WORDS)
            await bus.write(PAGE_OFFSET + 4 * (place % PAGE_WORDS), word)
            await bus.expect(at["STATUS"], 0 if section.writable else bit["BAD_ADDRESS"], section.name)
            await bus.write(at["STATUS"], 0xFFFF_FFFF)
        for place, word in stored.items():
            await bus.write(at["PAGE"], section.page + place // PAGE_WORDS)
            await bus.expect(PAGE_OFFSET + 4 * (place % PAGE_WORDS), word if section.writable else 0, section.name)
        await bus.expect(at["STATUS"], 0)
        if size % PAGE_WORDS:
            beyond = PAGE_OFFSET + 4 * (size % PAGE_WORDS)
            await bus.write(at["PAGE"], section.page + size // PAGE_WORDS)
            await bus.expect(beyond, 0)
            await bus.expect(at["STATUS"], bit["BAD_ADDRESS"])
            await bus.write(at["STATUS"], 0xFFFF_FFFF)
            await bus.write(beyond, 1)
            await bus.expect(at["STATUS"], bit["BAD_ADDRESS"])
            await bus.write(at["STATUS"], 0xFFFF_FFFF)
    await bus.write(at["PAGE"], pages)
    await bus.expect(PAGE_OFFSET, 0)
    await bus.expect(at["STATUS"], bit["BAD_ADDRESS"])
    await bus.write(at["STATUS"], 0xFFFF_FFFF)

    # Busy: pages and `idle_only` registers refuse changes
    await bus.write(at["PAGE"], 0)
    await bus.write(PAGE_OFFSET, 0xA5)
    await bus.expect(PAGE_OFFSET, 0xA5)
    unit.set("busy", 1)
    await bus.expect(at["STATUS"], bit["BUSY"])
    await bus.expect(PAGE_OFFSET, 0)
    await bus.expect(at["STATUS"], bit["BUSY"] | bit["REFUSED"], "a page read while busy")
    await bus.write(at["STATUS"], 0xFFFF_FFFF)
    await bus.write(PAGE_OFFSET, 0x5A)
    await bus.expect(at["STATUS"], bit["BUSY"] | bit["REFUSED"], "a page store while busy")
    await bus.write(at["STATUS"], 0xFFFF_FFFF)
    for register in table:
        if register.access != "RW":
            continue
        value = held[register.name][0] if register.name != "PAGE" else 0
        await bus.write(register.offset, value)
        await bus.expect(at["STATUS"], bit["BUSY"], f"{register.name} stored again while busy")
        await bus.write(register.offset, value ^ 1)
        refused = bit["REFUSED"] if register.idle_only else 0
        await bus.expect(at["STATUS"], bit["BUSY"] | refused, f"{register.name} changed while busy")
        await bus.expect(register.offset, value if register.idle_only else value ^ 1, register.name)
        await bus.write(at["STATUS"], 0xFFFF_FFFF)
    unit.set("busy", 0)
    await bus.write(at["PAGE"], 0)
    await bus.expect(PAGE_OFFSET, 0xA5)
    await bus.expect(at["STATUS"], 0)
    return bus.compared
