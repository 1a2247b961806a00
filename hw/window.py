# SPDX-License-Identifier: MIT
"""The PSSA window unit: AND of keys and values, their ring of S tokens, tap accumulators, and the queries' gate."""

import functools
import operator

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, memory, wiring

from hw.attention import attention_members, ring_slot, send_groups, spike_store
from hw.expressions import if_valid
from hw.memory import PolicyMemory
from hw.memory_map import memory_map
from hw.passes import Kind, spikes_layout
from model.deployed.geometry import Geometry


class PssaWindow(wiring.Component):
    """Compute `q AND sum_d P[d] (k AND v)[n-d]` per channel and step (paper: PSSA, relative positions).

    The taps of the S-1 older tokens do not depend on this decision, so they are accumulated ahead, while the lane
    array does other passes: of the next layer once a layer's sums are sent, of the next token's first layer after the
    last. The newest token's tap is added as its values arrive, and the sums leave gated by the queries. One set of
    adders does both, a channel's T steps side by side in one: taps are offset to be unsigned, and a silent one adds the
    offset alone, so that steps never borrow from each other and all sums are in the end off by the same.

    Parameters
    ----------
    geometry : Geometry
    bank_latency : int
        Cycles from the neuron bank's input to its output.

    Members
    -------
    taps, ring : policy loading, and read-only access to the ring
    ready : the older taps of this layer are summed
    and those of `attention_members`

    Timing
    ------
    Older taps take `groups * (S - 1) + 1` cycles per layer, from the last sums of the layer before. Sums follow
    `drained` by one cycle, or by as many as the first queries need through the bank.

    """

    def __init__(self, geometry: Geometry, bank_latency: int) -> None:
        self.geometry = geometry
        self.bank_latency = bank_latency
        super().__init__(attention_members(geometry))

    def elaborate(self, platform):
        m = Module()
        g = self.geometry
        group_bits = g.group * g.steps

        # Which slot of a ring holds which token
        slot = ring_slot(m, self)

        # Keys and queries wait for their partners
        keys, queries = spike_store(m, self, Kind.KEY), spike_store(m, self, Kind.QUERY)
        both, value_valid = Signal(group_bits), Signal()
        m.d.comb += [
            keys.addr.eq(self.i_group),
            both.eq(keys.data & self.i.as_value()),
            value_valid.eq(self.i_valid & (self.i_info.kind == Kind.VALUE)),
        ]

        # Step through the older taps, group by group
        layer, group, tap = Signal(range(g.layers)), Signal(range(g.groups)), Signal(range(g.window))
        gathering, emitting, sent = Signal(), Signal(), Signal()
        with m.If(gathering):
            m.d.sync += tap.eq(tap + 1)
            with m.If(tap == g.window - 1):
                m.d.sync += [tap.eq(1), group.eq(group + 1)]
                with m.If(group == g.groups - 1):
                    m.d.sync += gathering.eq(0)
        upcoming = Signal()  # these taps are the next decision's
        last_layer = layer == g.layers - 1
        with m.If(sent):
            m.d.sync += [gathering.eq(1), tap.eq(1), group.eq(0)]
            m.d.sync += [upcoming.eq(last_layer), layer.eq(Mux(last_layer, 0, layer + 1))]
        with m.If(self.start):
            m.d.sync += [upcoming.eq(0), layer.eq(0)]

        # Look up tap and spikes: of an older token, or of the values that just came
        m.submodules.tap_store = taps = PolicyMemory(memory_map(g)["taps"])
        m.submodules.ring_store = ring = memory.Memory(shape=group_bits, depth=g.layers * g.window * g.groups, init=[])
        write, read = ring.write_port(), ring.read_port()
        wiring.connect(m, wiring.flipped(self.taps), taps.load)
        # the newest token is still the one before where the taps are those of the next
        age, holder = Signal(range(g.window)), Signal(range(g.window))
        word_bits = (memory_map(g)["ring"].stride - 1).bit_length()
        word = Signal(max(1, word_bits))
        m.d.comb += [
            age.eq(tap - upcoming),
            holder.eq(Mux(age > slot, slot + g.window - age, slot - age)),
            taps.busy.eq(self.busy),
            taps.enable.eq(gathering | value_valid),
            taps.rows[0].eq(
                (layer * g.window + Mux(value_valid, 0, tap)) * g.groups + Mux(value_valid, self.i_group, group)
            ),
            write.addr.eq((layer * g.window + slot) * g.groups + self.i_group),
            write.data.eq(both),
            write.en.eq(value_valid),
            read.addr.eq(
                Mux(self.busy, (layer * g.window + holder) * g.groups + group, self.ring.address >> word_bits)
            ),
            self.ring.read_data.eq(read.data >> (word << 5)),
        ]
        m.d.sync += word.eq(self.ring.address[:word_bits])

        # Add
        side = data.StructLayout({"group": range(g.groups), "first": 1, "last": 1, "value": 1, "absent": 1})
        valid1, side1 = Signal(), Signal(side)
        values1 = Signal(group_bits)
        m.d.sync += [
            valid1.eq(gathering | value_valid),
            side1.group.eq(Mux(value_valid, self.i_group, group)),
            side1.first.eq(tap == 1),
            side1.last.eq(value_valid | (tap == g.window - 1)),
            side1.value.eq(value_valid),
            side1.absent.eq(~value_valid & (age > self.tokens)),
            values1.eq(both),
            self.ready.eq(self.settled & ~self.start),
        ]
        m.d.comb += self.settled.eq(~gathering & ~emitting)
        bits, width = g.weight_bits, g.window_bits
        offset = 1 << (bits - 1)

        def all_steps(value: int) -> int:
            return sum(value << step * width for step in range(g.steps))

        # so that all taps together are half the range too much: the sign bit inverted
        nothing = (1 << width - 1) - g.window * offset
        m.submodules.sums = sums = memory.Memory(
            shape=data.ArrayLayout(g.steps * width, g.group), depth=g.groups, init=[]
        )
        sums_write, sums_read = sums.write_port(), sums.read_port(domain="comb")
        running = [Signal(g.steps * width, name=f"running{c}", reset_less=True) for c in range(g.group)]
        added = []
        spikes = Signal(spikes_layout(g, g.group))
        m.d.comb += spikes.eq(Mux(side1.value, values1, Mux(side1.absent, 0, read.data)))
        for c in range(g.group):
            weight = taps.row_data[0][c * bits : (c + 1) * bits]
            everywhere = Cat(Cat(weight, Const(0, width - bits)) for _ in range(g.steps))
            taken = functools.reduce(
                operator.or_, (Mux(spikes[c][t], (offset * 2 - 1) << t * width, 0) for t in range(g.steps))
            )
            # an episode's first token has none before it, whatever was summed
            older = Mux(self.tokens != 0, sums_read.data[c], all_steps(nothing + (g.window - 1) * offset))
            before = Mux(side1.value, older, all_steps(nothing))
            kept = Mux(side1.value | side1.first, before, running[c])
            term = if_valid(m, valid1, (everywhere & taken) ^ all_steps(offset), f"term{c}")
            added.append(if_valid(m, valid1, (kept + term)[: g.steps * width], f"added{c}"))
        with m.If(valid1):
            m.d.sync += [register.eq(value) for register, value in zip(running, added, strict=True)]
        m.d.comb += [
            sums_read.addr.eq(Mux(emitting, self.o_group, side1.group)),
            sums_write.addr.eq(side1.group),
            sums_write.data.eq(Cat(added)),
            sums_write.en.eq(valid1 & side1.last),
        ]

        # Send the gated sums
        m.d.comb += [
            emitting.eq(send_groups(m, self, layer, 1)),
            queries.addr.eq(self.o_group),
            sent.eq(emitting & self.o_last),
        ]
        for c in range(g.group):
            for t in range(g.steps):
                query, total = queries.data[c * g.steps + t], sums_read.data[c].word_select(t, width)
                current = Mux(query, (total ^ 1 << width - 1).as_signed(), 0)
                m.d.comb += self.o[c][t].eq(if_valid(m, emitting, current, f"current{c}_{t}"))
        return m
