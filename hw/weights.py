# SPDX-License-Identifier: MIT
"""The weight memory: one row, two rows or four rows a cycle."""

from dataclasses import replace

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.memory import PolicyMemory, load_port
from hw.memory_map import memory_map
from model.deployed.geometry import Geometry


class WeightRows(wiring.Component):
    """The weight memory: `rows_per_cycle` rows a cycle from one dual-port memory, or from two banks of them.

    With four rows a cycle, rows 0 and 1 of the request are even, rows 2 and 3 odd.

    Members
    -------
    load, busy, rows, enable, row_data : as in `PolicyMemory`, `LATENCY` included

    """

    LATENCY = PolicyMemory.LATENCY

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.section = memory_map(geometry)["weights"]
        ports = geometry.rows_per_cycle
        super().__init__(
            {
                "load": In(load_port(self.section)),
                "busy": In(1),
                "rows": In(data.ArrayLayout(range(self.section.rows), ports)),
                "enable": In(ports),
                "row_data": Out(data.ArrayLayout(self.section.row_bits, ports)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        ports = self.geometry.rows_per_cycle
        if ports < 4:
            m.submodules.rows = store = PolicyMemory(self.section, ports)
            wiring.connect(m, wiring.flipped(self.load), store.load)
            m.d.comb += [
                store.busy.eq(self.busy),
                store.rows.eq(self.rows),
                store.enable.eq(self.enable),
                self.row_data.eq(store.row_data),
            ]
            return m

        half = replace(self.section, rows=-(-self.section.rows // 2))
        stride = self.section.stride
        word_bits = (stride - 1).bit_length()
        odd = self.load.address[word_bits]
        odd_read = Signal()
        m.d.sync += odd_read.eq(odd)
        banks = [PolicyMemory(half, 2), PolicyMemory(half, 2)]
        m.submodules.even, m.submodules.odd = banks
        for index, bank in enumerate(banks):
            m.d.comb += [
                bank.busy.eq(self.busy),
                bank.load.address.eq(
                    (self.load.address >> (word_bits + 1) << word_bits) | self.load.address[:word_bits]
                ),
                bank.load.data.eq(self.load.data),
                bank.load.write.eq(self.load.write & (odd == index)),
                bank.enable.eq(self.enable[2 * index : 2 * index + 2]),
            ]
            for port in range(2):
                m.d.comb += [
                    bank.rows[port].eq(self.rows[2 * index + port] >> 1),
                    self.row_data[2 * index + port].eq(bank.row_data[port]),
                ]
        m.d.comb += self.load.read_data.eq(Mux(odd_read, banks[1].load.read_data, banks[0].load.read_data))
        return m
