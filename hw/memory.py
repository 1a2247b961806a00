# SPDX-License-Identifier: MIT
"""A policy memory: loaded and read back word by word through the register window, read row by row by the core."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from hw.memory_map import Section


def load_port(section: Section) -> wiring.Signature:
    """Return the signature a memory offers the register file: word access to a section.

    address : word address within the section, `row * stride + word`
    write, data : store that word
    read_data : the addressed word, one cycle after its address; from `ULTRA_ROWS` on not where that cycle writes
    """
    return wiring.Signature(
        {
            "address": Out(range(section.rows * section.stride)),
            "write": Out(1),
            "data": Out(32),
            "read_data": In(32),
        }
    )


ULTRA_ROWS = 4096
"""From this depth on a memory suits an UltraRAM, whose ports read or write, not both in a cycle (UG573)."""


class PolicyMemory(wiring.Component):
    """Rows of a section.

    Parameters
    ----------
    section : Section
    ports : int
        Rows read per cycle, 1 or 2. Two share a true dual-port block RAM; the first also loads and reads back.
    changing : bool
        Whether the core stores rows too.

    Members
    -------
    load : word access, honoured while `busy` is low
    busy : the core owns the row addresses
    rows : row addresses, one per port
    row_data : the rows, one cycle later, held while no read is enabled
    enable : read enables, one per port
    store, new_row : where it is `changing`, store this row at `rows[0]`, honoured while `busy`

    """

    LATENCY = 1

    def __init__(self, section: Section, ports: int = 1, changing: bool = False) -> None:
        if ports not in (1, 2):
            raise ValueError(f"a policy memory reads 1 or 2 rows per cycle, not {ports}")
        self.section = section
        self.ports = ports
        self.changing = changing
        super().__init__(
            {
                "load": In(load_port(section)),
                "busy": In(1),
                "rows": In(data.ArrayLayout(range(section.rows), ports)),
                "enable": In(ports),
                "row_data": Out(data.ArrayLayout(section.row_bits, ports)),
            }
            | ({"store": In(1), "new_row": In(section.row_bits)} if changing else {})
        )

    def elaborate(self, platform):
        m = Module()
        section = self.section
        word_bits = (section.stride - 1).bit_length()
        m.submodules.memory = store = memory.Memory(
            shape=data.ArrayLayout(32, section.words), depth=section.rows, init=[]
        )
        write = store.write_port(granularity=1)

        # one address serves the write and the first read, so that both fit one port of a block RAM
        address = Signal(range(section.rows))
        m.d.comb += [
            address.eq(Mux(self.busy, self.rows[0], self.load.address[word_bits:])),
            write.addr.eq(address),
            write.data.eq(Cat([self.load.data] * section.words)),
        ]
        word = self.load.address[:word_bits]
        store_word = Signal()
        m.d.comb += store_word.eq(self.load.write & ~self.busy)
        for index in range(section.words):
            m.d.comb += write.en[index].eq(store_word & (word == index if word_bits else 1))
        if self.changing:
            with m.If(self.busy):
                m.d.comb += [write.data.eq(self.new_row), write.en.eq(self.store.replicate(section.words))]

        for port in range(self.ports):
            read = store.read_port()
            if port == 0:
                enable = ~self.busy | self.enable[0]
                if section.rows >= ULTRA_ROWS:
                    enable = Mux(self.busy, self.enable[0], ~self.load.write)
                m.d.comb += [read.addr.eq(address), read.en.eq(enable)]
                chosen = Signal(range(section.stride))
                m.d.sync += chosen.eq(word)
                with m.Switch(chosen):
                    for index in range(section.words):
                        with m.Case(index):
                            m.d.comb += self.load.read_data.eq(read.data[index])
            else:
                m.d.comb += [read.addr.eq(self.rows[port]), read.en.eq(self.enable[port])]
            m.d.comb += self.row_data[port].eq(read.data.as_value()[: section.row_bits])
        return m
