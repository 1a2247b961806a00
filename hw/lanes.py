# SPDX-License-Identifier: MIT
"""The lane array: adds fetched weight rows into d_model x T accumulators and drains them group by group."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.memory import PolicyMemory, load_port
from hw.memory_map import memory_map
from hw.passes import membrane_layout, pass_layout
from hw.walker import fetch_layout
from model.geometry import Geometry


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

        from dataclasses import replace

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


class LaneArray(wiring.Component):
    """Sum weight rows: `acc[t][c] += w[row][c]` for each fetched row whose input spikes in step t.

    A fetch reads each row once for all T steps. The last rows of a pass move the sums to a shadow, clear the
    accumulators in the same cycle, and the shadow drains `group` channels a cycle.

    Accumulators are `accumulator_bits` wide, which the longest pass cannot overflow.

    Members
    -------
    fetch, fetch_valid : from the row walker
    clear : zero the accumulators (start of a decision)
    load, busy : policy loading
    o_valid, o_group, o_last, o_info, o : a drained group: number, whether it is the pass's last, its pass and its sums

    Timing
    ------
    The first group leaves `LATENCY` cycles after the pass's last fetch, the others one a cycle.

    """

    LATENCY = 4

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        g = geometry
        super().__init__(
            {
                "fetch": In(fetch_layout(g)),
                "fetch_valid": In(1),
                "clear": In(1),
                "load": In(load_port(memory_map(g)["weights"])),
                "busy": In(1),
                "o_valid": Out(1),
                "o_group": Out(range(g.groups)),
                "o_last": Out(1),
                "o_info": Out(pass_layout(g)),
                "o": Out(membrane_layout(g, g.accumulator_bits)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        g = self.geometry
        ports = g.rows_per_cycle

        # The rows come in the next cycle
        m.submodules.weights = weights = WeightRows(g)
        wiring.connect(m, wiring.flipped(self.load), weights.load)
        m.d.comb += weights.busy.eq(self.busy)
        for port in range(ports):
            slot = self.fetch.slots[port]
            m.d.comb += [
                weights.rows[port].eq(slot.row),
                weights.enable[port].eq(self.fetch_valid & slot.valid),
            ]
        fetch1, valid1 = Signal(fetch_layout(g), reset_less=True), Signal()
        m.d.sync += [fetch1.eq(self.fetch), valid1.eq(self.fetch_valid)]

        # Register the rows and what gates them
        row_layout = data.ArrayLayout(signed(g.weight_bits), g.d_model)
        rows = [Signal(row_layout, name=f"row{p}", reset_less=True) for p in range(ports)]
        spikes = [Signal(g.steps, name=f"spikes{p}", reset_less=True) for p in range(ports)]
        valid2, last2 = Signal(), Signal()
        info2 = Signal(pass_layout(g), reset_less=True)
        m.d.sync += [
            valid2.eq(valid1),
            last2.eq(valid1 & fetch1.last),
            info2.eq(fetch1.info),
        ]
        for port in range(ports):
            fetched = fetch1.slots[port].valid
            with m.If(valid1):
                m.d.sync += spikes[port].eq(Mux(fetched, fetch1.slots[port].spikes, 0))
                with m.If(fetched):
                    m.d.sync += rows[port].eq(weights.row_data[port])

        # Add: rows meet in pairs, so that a step selects one of nothing, either row or their sum
        sums = Signal(data.ArrayLayout(data.ArrayLayout(signed(g.accumulator_bits), g.d_model), g.steps))
        accumulators = Signal.like(sums, name="accumulators", reset_less=True)
        addends = []
        for first in range(0, ports, 2):
            pair = list(range(first, min(first + 2, ports)))
            layout = data.ArrayLayout(signed(g.weight_bits + len(pair) - 1), g.d_model)
            choices = []  # by which of the pair's rows are gated in, none left out
            for gated in range(1, 1 << len(pair)):
                choice = Signal(layout, name=f"choice{first}_{gated}")
                for c in range(g.d_model):
                    m.d.comb += choice[c].eq(sum(rows[p][c] for i, p in enumerate(pair) if gated >> i & 1))
                choices.append(choice)
            addend = Signal(data.ArrayLayout(layout, g.steps), name=f"addend{first}")
            for t in range(g.steps):
                with m.Switch(Cat(spikes[p][t] for p in pair)):
                    for gated, choice in enumerate(choices, start=1):
                        with m.Case(gated):
                            m.d.comb += addend[t].eq(choice)
            addends.append(addend)
        for t in range(g.steps):
            for c in range(g.d_model):
                m.d.comb += sums[t][c].eq(accumulators[t][c] + sum(addend[t][c] for addend in addends))
        with m.If(valid2):
            m.d.sync += accumulators.eq(sums)
        with m.If(self.clear | last2):
            m.d.sync += accumulators.eq(0)

        # Drain
        shadow = Signal.like(sums, name="shadow", reset_less=True)
        info3 = Signal(pass_layout(g), reset_less=True)
        draining = Signal()
        number = Signal(range(g.groups))
        with m.If(draining):
            m.d.sync += number.eq(number + 1)
            with m.If(number == g.groups - 1):
                m.d.sync += draining.eq(0)
        with m.If(last2):
            m.d.sync += [shadow.eq(sums), info3.eq(info2), draining.eq(1), number.eq(0)]
        m.d.sync += [
            self.o_valid.eq(draining),
            self.o_group.eq(number),
            self.o_last.eq(number == g.groups - 1),
            self.o_info.eq(info3),
        ]
        with m.If(draining):
            with m.Switch(number):
                for index in range(g.groups):
                    with m.Case(index):
                        for c in range(g.group):
                            for t in range(g.steps):
                                m.d.sync += self.o[c][t].eq(shadow[t][index * g.group + c])
        return m
