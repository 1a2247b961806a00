# SPDX-License-Identifier: MIT
"""The lane array: adds fetched weight rows into d_model x T accumulators and drains them group by group."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.expressions import chosen, tree
from hw.memory import load_port
from hw.memory_map import memory_map
from hw.passes import pass_layout, steps_layout
from hw.walker import fetch_layout
from hw.weights import WeightRows
from model.deployed.geometry import Geometry


def _extended(value: Value, width: int) -> Value:
    """Return an unsigned value in `width` bits; a pass of so few inputs that it does not fit has none so large."""
    return Cat(value, Const(0, width))[:width]


class LaneArray(wiring.Component):
    """Sum weight rows: `acc[c][t] += w[row][c]` for each fetched row whose input spikes in step t.

    A fetch reads each row once for all T steps. Inside, a weight is offset to be unsigned (its sign bit inverted): a
    lane's T accumulators then never borrow from each other and lie side by side in one adder. The offsets that were
    added, as many as spikes, are taken off when the sums drain. Accumulators are as wide as the longest pass needs.

    The last rows of a pass move the sums to a shadow and clear the accumulators in the same cycle; the shadow drains
    `group` channels a cycle.

    Members
    -------
    fetch, fetch_valid : from the row walker
    clear : zero the accumulators (start of a decision)
    load, busy : policy loading
    o_valid, o_group, o_last, o_info : a group drains: its number, whether it is the pass's last, and its pass
    o : its sums, a cycle after `o_valid`

    Timing
    ------
    The first group's `o_valid` comes `LATENCY` cycles after the pass's last fetch, the others one a cycle.

    """

    LATENCY = 3

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
                "o": Out(steps_layout(g, g.accumulator_bits)).array(g.group),
            }
        )

    def elaborate(self, platform):
        m = Module()
        g = self.geometry
        ports, bits, width = g.rows_per_cycle, g.weight_bits, g.accumulator_bits

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
        rows = [Signal(g.d_model * bits, name=f"row{p}", reset_less=True) for p in range(ports)]
        spikes = [Signal(g.steps, name=f"spikes{p}", reset_less=True) for p in range(ports)]
        valid2, last2 = Signal(), Signal()
        info2 = Signal(pass_layout(g), reset_less=True)
        m.d.sync += [valid2.eq(valid1), last2.eq(valid1 & fetch1.last), info2.eq(fetch1.info)]
        for port in range(ports):
            fetched = fetch1.slots[port].valid
            with m.If(valid1):
                m.d.sync += spikes[port].eq(Mux(fetched, fetch1.slots[port].spikes, 0))
                with m.If(fetched):
                    m.d.sync += rows[port].eq(weights.row_data[port])

        # Gate the rows by their spikes and add them, the steps side by side in one adder, then to the accumulators
        field = bits + (ports - 1).bit_length()
        gates = [Signal(g.steps * field, name=f"gate{p}") for p in range(ports)]
        for port in range(ports):
            for t in range(g.steps):
                m.d.comb += gates[port][t * field : t * field + bits].eq(spikes[port][t].replicate(bits))
        accumulators = [Signal(g.steps * width, name=f"lane{c}", reset_less=True) for c in range(g.d_model)]
        sums = [Signal(g.steps * width, name=f"sum{c}") for c in range(g.d_model)]
        for c in range(g.d_model):
            gated = []
            for port in range(ports):
                weight = Signal(field, name=f"weight{c}_{port}")
                m.d.comb += weight.eq(rows[port][c * bits : (c + 1) * bits] ^ (1 << (bits - 1)))
                gated.append(weight.replicate(g.steps) & gates[port])
            together = Signal(g.steps * field, name=f"together{c}")
            m.d.comb += together.eq(tree(gated))
            spread = [together[t * field : (t + 1) * field] for t in range(g.steps)]
            m.d.comb += sums[c].eq(accumulators[c] + Cat(_extended(of_step, width) for of_step in spread))
            with m.If(valid2):
                m.d.sync += accumulators[c].eq(sums[c])
            with m.If(self.clear | last2):
                m.d.sync += accumulators[c].eq(0)
        counts = [Signal(range(g.d_mlp + 1), name=f"count{t}") for t in range(g.steps)]
        counted = [Signal(range(g.d_mlp + 1), name=f"counted{t}") for t in range(g.steps)]
        for t in range(g.steps):
            m.d.comb += counted[t].eq(counts[t] + sum(spikes[p][t] for p in range(ports)))
            with m.If(valid2):
                m.d.sync += counts[t].eq(counted[t])
            with m.If(self.clear | last2):
                m.d.sync += counts[t].eq(0)

        # Drain
        shadows = [Signal(g.steps * width, name=f"shadow{c}", reset_less=True) for c in range(g.d_model)]
        offsets = [Signal(width, name=f"offset{t}", reset_less=True) for t in range(g.steps)]
        info3 = Signal(pass_layout(g), reset_less=True)
        draining = Signal()
        number = Signal(range(g.groups))
        with m.If(draining):
            m.d.sync += number.eq(number + 1)
            with m.If(number == g.groups - 1):
                m.d.sync += draining.eq(0)
        with m.If(last2):
            m.d.sync += [info3.eq(info2), draining.eq(1), number.eq(0)]
            m.d.sync += [shadow.eq(total) for shadow, total in zip(shadows, sums, strict=True)]
            m.d.sync += [offset.eq(count << (bits - 1)) for offset, count in zip(offsets, counted, strict=True)]
        m.d.comb += [
            self.o_valid.eq(draining),
            self.o_group.eq(number),
            self.o_last.eq(number == g.groups - 1),
            self.o_info.eq(info3),
        ]
        for c in range(g.group):
            drained = Signal(g.steps * width, name=f"drained{c}")
            m.d.comb += drained.eq(chosen(shadows[c :: g.group], number))
            with m.If(draining):
                for t in range(g.steps):
                    m.d.sync += self.o[c][t].eq(drained[t * width : (t + 1) * width] - offsets[t])
        return m
