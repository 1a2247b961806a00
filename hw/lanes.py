# SPDX-License-Identifier: MIT
"""The lane array: adds fetched weight rows into d_model x T accumulators and drains them group by group."""

import functools
import operator

from amaranth.hdl import Cat, Module, Mux, ShapeLike, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.expressions import if_valid
from hw.memory import load_port
from hw.memory_map import memory_map
from hw.passes import pass_layout, steps_layout
from hw.walker import fetch_layout
from hw.weights import WeightRows
from hw.words import Words
from model.deployed.geometry import Geometry


def _copy(name: str, shape: ShapeLike = 1) -> Signal:
    """Return a register that synthesis does not merge with others of the same value."""
    return Signal(shape, name=name, attrs={"keep": 1})


class LaneArray(wiring.Component):
    """Sum weight rows: `acc[c][t] += w[row][c]` for each fetched row whose input spikes in step t.

    A fetch reads each row once for all T steps. Inside, a weight is offset to be unsigned (its sign bit inverted):
    accumulators then never borrow from each other, and those of some lanes lie side by side in one adder (`Words`). The
    offsets that were added, as many as spikes, are taken off when the sums drain. Accumulators are as wide as the
    longest pass needs.

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

    BLOCK = 16
    """Lanes that share the registers which steer them."""

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
                "o": Out(steps_layout(g, g.pass_bits)).array(g.group),
            }
        )

    def elaborate(self, platform):
        m = Module()
        g = self.geometry
        ports, bits, width = g.rows_per_cycle, g.weight_bits, g.pass_bits

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

        # Register the rows and the sum of each pair, their lanes in words. A row that is not fetched may stay: its
        # spikes are zero
        words = Words.of(g)
        rows = [
            [Signal(words.width(lanes, bits), name=f"row{w}_{p}", reset_less=True) for p in range(ports)]
            for w, lanes in enumerate(words.terms)
        ]
        pairs = [
            [Signal(words.width(lanes, bits + 1), name=f"pair{w}_{p}", reset_less=True) for p in range(ports // 2)]
            for w, lanes in enumerate(words.terms)
        ]
        with m.If(valid1):
            for w, lanes in enumerate(words.terms):
                for p, row in enumerate(rows[w]):
                    m.d.sync += row.eq(words.spread(weights.row_data[p], lanes))
                for p, pair in enumerate(pairs[w]):
                    even, odd = (words.spread(weights.row_data[2 * p + n], lanes) for n in range(2))
                    m.d.sync += pair.eq(words.low(even + odd, lanes, bits + 1))

        # What steers the lanes has a register per block of them: one net to all of them would set the clock
        last1, last2 = Signal(), Signal()
        info2 = Signal(pass_layout(g), reset_less=True)
        m.d.comb += last1.eq(valid1 & fetch1.last)
        m.d.sync += [last2.eq(last1), info2.eq(fetch1.info)]
        gates = [Signal(g.steps, name=f"gate{p}") for p in range(ports)]
        for port, gate in enumerate(gates):
            slot = fetch1.slots[port]
            m.d.comb += gate.eq(slot.spikes & (valid1 & slot.valid).replicate(g.steps))
        blocks = {lanes.start: lanes.start // self.BLOCK for lanes in words.sums}
        spikes = {b: [_copy(f"spikes{b}_{p}", g.steps) for p in range(ports)] for b in blocks.values()}
        adds, clears, captures = ({b: _copy(f"{what}{b}") for b in spikes} for what in ("add", "clear", "capture"))
        for b in spikes:
            m.d.sync += [copy.eq(gate) for copy, gate in zip(spikes[b], gates, strict=True)]
            m.d.sync += [adds[b].eq(valid1), clears[b].eq(last1 | self.clear), captures[b].eq(last1)]

        # Of each pair of rows take none, one, the other or their sum; add the pairs, then to the accumulators
        shadows, accumulators = (
            [
                [Signal(words.width(lanes, width), name=f"{what}{w}_{t}", reset_less=True) for t in range(g.steps)]
                for w, lanes in enumerate(words.sums)
            ]
            for what in ("shadow", "lanes")
        )
        for w, lanes in enumerate(words.terms):
            block = blocks[lanes.start]
            for t in range(g.steps):
                terms = []
                for p in range(0, ports, 2):
                    gate = spikes[block][p][t]
                    takes = [(gate, rows[w][p])]
                    if ports > 1:
                        even, odd = gate, spikes[block][p + 1][t]
                        takes = [
                            (even & ~odd, rows[w][p]),
                            (odd & ~even, rows[w][p + 1]),
                            (even & odd, pairs[w][p // 2]),
                        ]
                    taken = functools.reduce(operator.or_, (Mux(spike, row, 0) for spike, row in takes))
                    terms.append(taken)
                added = if_valid(m, adds[block], sum(terms[1:], terms[0]), f"added{w}_{t}")
                for n, of_sum in enumerate(words.sums):
                    if of_sum.start not in lanes:
                        continue
                    # written twice and not alike: of one sum for both, a simulator would work it out in every cycle.
                    # To synthesis they are one
                    part, accumulator = words.part(added, lanes, of_sum), accumulators[n][t]
                    with m.If(captures[block]):
                        total = words.low(accumulator, of_sum, width) + part
                        m.d.sync += shadows[n][t].eq(words.low(total, of_sum, width))
                    with m.If(adds[block]):
                        m.d.sync += accumulator.eq(words.low(accumulator + part, of_sum, width))
                    with m.If(clears[block]):
                        m.d.sync += accumulator.eq(0)
        counts = [Signal(range(g.d_mlp + 1), name=f"count{t}") for t in range(g.steps)]
        counted = [Signal(range(g.d_mlp + 1), name=f"counted{t}") for t in range(g.steps)]
        for t in range(g.steps):
            m.d.comb += counted[t].eq(counts[t] + sum(gate[t] for gate in spikes[0]))
            m.d.sync += counts[t].eq(counted[t])
            with m.If(clears[0]):
                m.d.sync += counts[t].eq(0)

        # Drain: the channels of a group have the group's number each for itself
        offsets = [Signal(width, name=f"offset{t}", reset_less=True) for t in range(g.steps)]
        info3 = Signal(pass_layout(g), reset_less=True)
        draining = Signal()
        number = Signal(range(g.groups))
        numbers = [_copy(f"number{c}", range(g.groups)) for c in range(g.group)]
        next_number = Signal.like(number)
        m.d.comb += next_number.eq(number)
        with m.If(draining):
            m.d.comb += next_number.eq(number + 1)
            with m.If(number == g.groups - 1):
                m.d.sync += draining.eq(0)
        with m.If(last2):
            m.d.comb += next_number.eq(0)
            m.d.sync += [info3.eq(info2), draining.eq(1)]
            m.d.sync += [offset.eq(count << (bits - 1)) for offset, count in zip(offsets, counted, strict=True)]
        m.d.sync += [copy.eq(next_number) for copy in (number, *numbers)]
        m.d.comb += [
            self.o_valid.eq(draining),
            self.o_group.eq(number),
            self.o_last.eq(number == g.groups - 1),
            self.o_info.eq(info3),
        ]
        for c in range(g.group):
            totals = []
            for t in range(g.steps):
                drained = Signal(width, name=f"drained{c}_{t}")
                with m.Switch(numbers[c]):
                    for index in range(g.groups):
                        lane = index * g.group + c
                        word, lanes = next((w, lanes) for w, lanes in enumerate(words.sums) if lane in lanes)
                        place = words.place(lanes, lane)
                        with m.Case(index):
                            m.d.comb += drained.eq(shadows[word][t][place : place + width])
                totals.append((drained - offsets[t])[:width])
            with m.If(draining):
                m.d.sync += self.o[c].eq(Cat(totals))
        return m
