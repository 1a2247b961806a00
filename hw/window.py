# SPDX-License-Identifier: MIT
"""The PSSA window unit: the AND of keys and values, its ring of the last S tokens, and the queries that gate it."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from hw.memory import load_port
from hw.memory_map import memory_map
from hw.passes import Kind, pass_layout, spikes_layout
from hw.walker import fetch_layout
from model.geometry import Geometry


class PssaWindow(wiring.Component):
    """Keep `k AND v` of the last S tokens per layer; serve them as taps, newest first (paper: PSSA, Eq. for Y).

    Keys wait for their values group by group; the AND of both goes to the token's slot of the layer's ring. Queries
    wait for the drain of the window pass.

    Members
    -------
    new_episode : forget all tokens
    advance : a decision is over, its token becomes the previous one
    tokens : tokens of the episode in the window before this decision's, saturating at S
    valid_taps : which of the S taps hold a token, this decision's included
    fetch : the row walker's fetches; in a window pass their taps are looked up
    taps : the ring rows of the fetch, one cycle later
    i_valid, i_group, i_info, i : spikes of KEY, VALUE and QUERY passes, a group at a time
    query_group, query : the queries of a group, combinational
    probe, busy : read-only word access to the ring while not busy

    """

    LATENCY = 1

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        g = geometry
        super().__init__(
            {
                "new_episode": In(1),
                "advance": In(1),
                "tokens": Out(range(g.window + 1)),
                "valid_taps": Out(g.window),
                "fetch": In(fetch_layout(g)),
                "taps": Out(data.ArrayLayout(spikes_layout(g, g.d_model), g.rows_per_cycle)),
                "i_valid": In(1),
                "i_group": In(range(g.groups)),
                "i_info": In(pass_layout(g)),
                "i": In(spikes_layout(g, g.group)),
                "query_group": In(range(g.groups)),
                "query": Out(spikes_layout(g, g.group)),
                "probe": In(load_port(memory_map(g)["ring"])),
                "busy": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        g = self.geometry
        section = memory_map(g)["ring"]
        group_bits = g.group * g.steps

        # Which slot holds which token
        slot = Signal(range(g.window))
        with m.If(self.advance):
            m.d.sync += slot.eq(Mux(slot == g.window - 1, 0, slot + 1))
            with m.If(self.tokens != g.window):
                m.d.sync += self.tokens.eq(self.tokens + 1)
        with m.If(self.new_episode):
            m.d.sync += [slot.eq(0), self.tokens.eq(0)]
        for tap in range(g.window):
            m.d.comb += self.valid_taps[tap].eq(self.tokens >= tap)

        # Keys and queries wait for their partners
        stores = {}
        for kind in (Kind.KEY, Kind.QUERY):
            store = memory.Memory(shape=group_bits, depth=g.groups, init=[])
            m.submodules[kind.name.lower()] = store
            write, read = store.write_port(), store.read_port(domain="comb")
            m.d.comb += [
                write.addr.eq(self.i_group),
                write.data.eq(self.i),
                write.en.eq(self.i_valid & (self.i_info.kind == kind)),
            ]
            stores[kind] = read
        m.d.comb += [
            stores[Kind.KEY].addr.eq(self.i_group),
            stores[Kind.QUERY].addr.eq(self.query_group),
            self.query.eq(stores[Kind.QUERY].data),
        ]

        # The ring
        m.submodules.ring = ring = memory.Memory(
            shape=data.ArrayLayout(group_bits, g.groups), depth=g.layers * g.window, init=[]
        )
        write = ring.write_port(granularity=1)
        both = Signal(group_bits)
        m.d.comb += [
            both.eq(stores[Kind.KEY].data & self.i.as_value()),
            write.addr.eq(self.i_info.layer * g.window + slot),
        ]
        for index in range(g.groups):
            m.d.comb += [
                write.data[index].eq(both),
                write.en[index].eq(self.i_valid & (self.i_info.kind == Kind.VALUE) & (self.i_group == index)),
            ]
        word_bits = (section.stride - 1).bit_length()
        word = Signal(range(section.stride))
        for port in range(g.rows_per_cycle):
            read = ring.read_port()
            tap = self.fetch.slots[port].tap
            holder = Mux(tap > slot, slot + g.window - tap, slot - tap)
            row = Signal(range(g.layers * g.window), name=f"row{port}")
            m.d.comb += row.eq(self.fetch.info.layer * g.window + holder)
            if port == 0:
                m.d.comb += read.addr.eq(Mux(self.busy, row, self.probe.address >> word_bits))
                m.d.sync += word.eq(self.probe.address)
                with m.Switch(word):
                    for index in range(section.words):
                        with m.Case(index):
                            m.d.comb += self.probe.read_data.eq(read.data.as_value()[32 * index : 32 * index + 32])
            else:
                m.d.comb += read.addr.eq(row)
            m.d.comb += [
                read.en.eq(~self.busy | (self.fetch.info.kind == Kind.WINDOW)),
                self.taps[port].eq(read.data.as_value()),
            ]
        return m
