# SPDX-License-Identifier: MIT
"""The register file, built from the register table."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.axi import WordAccess
from hw.expressions import if_valid
from hw.memory import load_port
from hw.memory_map import Section
from hw.registers import PAGE_OFFSET, PAGE_WORDS, WINDOW_BYTES, Register


def _shape(register: Register):
    return register.width if register.count == 1 else data.ArrayLayout(register.width, register.count)


class RegisterFile(wiring.Component):
    """Hold RW registers, show RO ones, pulse W1 ones, keep W1C ones sticky, and open the page on the memories.

    Every address reads something: one without a register reads zero and sets BAD_ADDRESS, as does a page address
    beyond its memory, a store to a probe and a store of less than a word. While busy, pages and `idle_only` registers
    refuse changes and pages read zero; both set REFUSED.

    Parameters
    ----------
    registers : the register table
    sections : the memory map, each with its name

    Members
    -------
    access : word accesses; `read_data` `READ_CYCLES` cycles after `read`
    busy : a decision is running
    <REGISTER> : RW: out, the value. RO: in. W1: out, pulses. W1C: in, bits to set.
    <section> : word access to each memory

    """

    READ_CYCLES = 2

    def __init__(self, registers: tuple[Register, ...], sections: dict[str, Section]) -> None:
        self.registers = registers
        self.sections = sections
        directions = {"RW": Out, "RO": In, "W1": Out, "W1C": In}
        super().__init__(
            {
                "access": In(WordAccess((WINDOW_BYTES // 4 - 1).bit_length())),
                "busy": In(1),
                **{register.name: directions[register.access](_shape(register)) for register in registers},
                **{name: Out(load_port(section)) for name, section in sections.items()},
            }
        )

    def elaborate(self, platform):
        m = Module()
        access = self.access
        bad, refused = Signal(), Signal()
        in_page = access.address[-1]
        read_word = Signal(32)

        # Registers
        known = Signal()
        sticky: dict[str, Signal] = {}
        for register in self.registers:
            port = getattr(self, register.name)
            if register.access == "W1C":
                port = sticky[register.name] = Signal(register.width, name=f"{register.name}_sticky")
                m.d.sync += port.eq(port | getattr(self, register.name))
        with m.Switch(access.address):
            for register in self.registers:
                port = getattr(self, register.name)
                for index in range(register.count):
                    word = port if register.count == 1 else port[index]
                    with m.Case(register.offset // 4 + index):
                        m.d.comb += known.eq(1)
                        if register.access in ("RW", "RO"):
                            m.d.comb += read_word.eq(word)
                        if register.access == "RW":
                            with m.If(access.write & access.whole):
                                with m.If(self.busy & register.idle_only):
                                    m.d.comb += refused.eq(access.write_data != word)
                                with m.Else():
                                    m.d.sync += word.eq(access.write_data)
                        if register.access == "W1":
                            m.d.comb += word.eq(access.write_data & (access.write & access.whole).replicate(32))
                        if register.access == "W1C":
                            held = sticky[register.name]
                            live = {name: bit for name, bit, _ in register.fields}["BUSY"]
                            m.d.comb += read_word.eq(held | (self.busy << live))
                            with m.If(access.write & access.whole):
                                m.d.sync += held.eq((held & ~access.write_data) | word)

        # Pages
        offset_bits = (PAGE_WORDS - 1).bit_length()
        assert PAGE_OFFSET // 4 == PAGE_WORDS  # the page is the upper half of the window
        page_word = Signal(32)
        section_number, section_read = (
            Signal(range(len(self.sections) + 1), name=f"section_{at}") for at in ("now", "before")
        )
        for number, (name, section) in enumerate(self.sections.items(), start=1):
            port = getattr(self, name)
            pages = range(section.page, section.page + section.pages)
            reach = Signal(name=f"reach_{name}")
            address = Signal(32, name=f"address_{name}")
            beyond = (self.PAGE - section.page) << offset_bits
            m.d.comb += [
                address.eq(if_valid(m, in_page, beyond | access.address[:offset_bits], f"place_{name}")),
                reach.eq(
                    in_page
                    & (pages.start <= self.PAGE)
                    & (pages.stop > self.PAGE)
                    & (address < section.rows * section.stride)
                ),
                port.address.eq(address),
                port.data.eq(access.write_data),
            ]
            if section.writable:
                m.d.comb += port.write.eq(reach & access.write & access.whole & ~self.busy)
            with m.If(reach & (~access.write | section.writable)):
                m.d.comb += [known.eq(1), section_number.eq(number)]
            with m.If(section_read == number):
                m.d.comb += page_word.eq(port.read_data)

        # Read: the register's word as it is now, or in the next cycle the memory's
        register_data, read = Signal(32), Signal()
        m.d.sync += [read.eq(access.read), section_read.eq(Mux(self.busy, 0, section_number))]
        with m.If(access.read):
            m.d.sync += register_data.eq(Mux(in_page, 0, read_word))
        with m.If(read):
            m.d.sync += access.read_data.eq(register_data | page_word)

        # Errors
        with m.If(access.read | access.write):
            m.d.comb += bad.eq(~known | (access.write & ~access.whole))
            with m.If(in_page & self.busy):
                m.d.comb += refused.eq(1)
        fields = {name: bit for name, bit, _ in next(r for r in self.registers if r.name == "STATUS").fields}
        held = sticky["STATUS"]
        with m.If(bad):
            m.d.sync += held[fields["BAD_ADDRESS"]].eq(1)
        with m.If(refused):
            m.d.sync += held[fields["REFUSED"]].eq(1)
        return m
