# SPDX-License-Identifier: MIT
"""Plasticity: traces of the head's weights after each decision, and changes of these weights by a third factor."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from hw.expressions import chosen, saturated, sum_of_bits, towards_zero
from hw.memory import load_port
from hw.memory_map import head_actions, memory_map
from hw.passes import steps_layout
from model.deployed.geometry import Geometry


def weights_port(g: Geometry) -> wiring.Signature:
    """Return the signature of the head's weight memory as what changes it sees it.

    use : the address is the plasticity's, not the head's
    row : address
    data : the row there, one cycle later
    store, new_row : store this row there
    """
    section = memory_map(g)["head"]
    return wiring.Signature(
        {
            "use": Out(1),
            "row": Out(range(section.rows)),
            "data": In(section.row_bits),
            "store": Out(1),
            "new_row": Out(section.row_bits),
        }
    )


class HeadPlasticity(wiring.Component):
    """Compute, after each decision, `E = saturate(E - shifted(E) + (post pre << trace_shift))`, and when told
    `W = saturate(W + clip(shifted(E G)))` (docs/numbers.md, *Plasticity*; source: SNN-DT, arXiv 2508.21505).

    Members
    -------
    new_episode : all traces count as zero from here on
    start : a decision begins
    advance : a decision is over
    i_valid, i_group, i : its last membranes, as the head gets them
    entry_threshold, count, frozen : hold while a decision or a change runs
    post_valid, post_action, post : sign of an action before it is clipped, one action after the other
    settled : traces are those of this decision; they stand still while `frozen`, and are settled then
    learn : change the weights by `factor`; while no decision runs
    learning : until they are changed, from the next cycle on
    learned : one cycle, in the end, also where it is `frozen` and nothing changes
    weights : the head's weight memory
    traces : word access, while neither a decision nor a change runs
    busy : one of them does

    Timing
    ------
    A group of an action a cycle, as soon as the action's sign is known: `settled` comes `groups` + 3 cycles after the
    last one, if no other was on its way. A change takes four cycles for each group of an action.

    """

    CHANGE_CYCLES = 4

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = g = geometry
        g.require_plasticity()
        super().__init__(
            {
                "new_episode": In(1),
                "start": In(1),
                "advance": In(1),
                "i_valid": In(1),
                "i_group": In(range(g.groups)),
                "i": In(steps_layout(g, g.membrane_bits)).array(g.group),
                "entry_threshold": In(g.membrane_bits - 1),
                "count": In(range(g.action_size + 1)),
                "frozen": In(1),
                "post_valid": In(1),
                "post_action": In(range(g.action_size)),
                "post": In(signed(2)),
                "settled": Out(1),
                "learn": In(1),
                "factor": In(signed(g.plasticity.factor_bits)),
                "learning": Out(1),
                "learned": Out(1),
                "weights": Out(weights_port(g)),
                "traces": In(load_port(memory_map(g)["traces"])),
                "busy": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        g, rule = self.geometry, self.geometry.plasticity
        counts_layout = data.ArrayLayout(range(g.steps + 1), g.group)
        traces_layout = data.ArrayLayout(signed(rule.trace_bits), g.group)

        # Count each channel's spikes
        counted, counted_group = Signal(), Signal(range(g.groups))
        spikes = [Signal(g.steps, name=f"spikes{c}", reset_less=True) for c in range(g.group)]
        m.d.sync += [counted.eq(self.i_valid), counted_group.eq(self.i_group)]
        for c in range(g.group):
            for t in range(g.steps):
                m.d.sync += spikes[c][t].eq(self.i[c][t] > self.entry_threshold)
        m.submodules.counts = counts = memory.Memory(shape=counts_layout, depth=g.groups, init=[])
        counts_write, counts_read = counts.write_port(), counts.read_port(domain="comb")
        m.d.comb += [counts_write.en.eq(counted), counts_write.addr.eq(counted_group)]
        for c in range(g.group):
            m.d.comb += counts_write.data[c].eq(sum_of_bits([list(spikes[c])]))

        # Keep the signs, and how many there are
        known = Signal(range(g.action_size + 1))
        posts = [Signal(signed(2), name=f"post{action}", reset_less=True) for action in range(g.action_size)]
        with m.If(self.post_valid):
            m.d.sync += known.eq(self.post_action + 1)
            for action, post in enumerate(posts):
                with m.If(self.post_action == action):
                    m.d.sync += post.eq(self.post)
        with m.If(self.start):
            m.d.sync += known.eq(0)

        # Go through the groups of one action after the other: a step a cycle, or one in CHANGE_CYCLES
        together = head_actions(g)
        action, group = Signal(range(g.action_size + 1)), Signal(range(g.groups))
        place = Signal(range(g.action_size * g.groups + 1))  # action * groups + group
        turn, nth = Signal(range(-(-g.action_size // together))), Signal(range(together))  # of the head's rows
        moving, phase = Signal(), Signal(range(self.CHANGE_CYCLES))
        tracing = Signal()
        m.d.comb += [
            tracing.eq(self.busy & (action < known) & ~self.frozen & ~self.learning),
            moving.eq(tracing | (self.learning & (phase == self.CHANGE_CYCLES - 1))),
        ]
        with m.If(moving):
            m.d.sync += [place.eq(place + 1), group.eq(group + 1)]
            with m.If(group == g.groups - 1):
                m.d.sync += [group.eq(0), action.eq(action + 1), nth.eq(nth + 1)]
                with m.If(nth == together - 1):
                    m.d.sync += [nth.eq(0), turn.eq(turn + 1)]
        with m.If(self.start | self.learn):
            m.d.sync += [action.eq(0), group.eq(0), place.eq(0), turn.eq(0), nth.eq(0)]

        # Look a row of traces up: a decision's, a change's, or a word for the page
        section = memory_map(g)["traces"]
        m.submodules.store = store = memory.Memory(shape=traces_layout, depth=section.rows, init=[])
        write, read = store.write_port(), store.read_port()
        word_bits = (section.stride - 1).bit_length()
        word, asked, absent = Signal(max(1, word_bits)), Signal(range(section.rows)), Signal()
        fresh = Signal(init=1)
        with m.If(self.advance & ~self.frozen):
            m.d.sync += fresh.eq(0)
        with m.If(self.new_episode):
            m.d.sync += fresh.eq(1)
        m.d.comb += [asked.eq(self.traces.address >> word_bits), read.addr.eq(Mux(self.busy, place, asked))]
        m.d.sync += [word.eq(self.traces.address[:word_bits]), absent.eq(asked >= self.count * g.groups)]
        m.d.comb += self.traces.read_data.eq(
            Mux(fresh | absent, 0, read.data.as_value() >> (word << 5)),
        )
        before = [Signal(signed(rule.trace_bits), name=f"before{c}") for c in range(g.group)]
        m.d.comb += [before[c].eq(Mux(fresh, 0, read.data[c])) for c in range(g.group)]

        # Decay, add, store: a cycle each for reading, for the sum, for writing
        reading, storing = Signal(), Signal()
        place1, group1, post1 = Signal.like(write.addr), Signal(range(g.groups)), Signal(signed(2))
        m.d.sync += [
            *(reading.eq(tracing), place1.eq(place), group1.eq(group), post1.eq(chosen(posts, action))),
            *(storing.eq(reading), write.addr.eq(place1)),
        ]
        m.d.comb += [
            counts_read.addr.eq(group1),
            write.en.eq(storing),
            self.settled.eq(self.frozen | ((action == self.count) & ~reading & ~storing)),
        ]
        after = Signal(traces_layout, reset_less=True)
        m.d.comb += write.data.eq(after)
        for c in range(g.group):
            drive = (post1 * counts_read.data[c]) << rule.trace_shift
            total = before[c] - towards_zero(before[c], rule.trace_shift) + drive
            wide = Signal(total.shape(), name=f"wide{c}")
            m.d.comb += wide.eq(total)
            m.d.sync += after[c].eq(saturated(wide, rule.trace_bits)[0])

        # Change the weights: look both rows up, multiply, shift and clip, store
        final_change = self.learning & moving & (action + 1 == self.count) & (group == g.groups - 1)
        with m.If(self.learning):
            m.d.sync += phase.eq(phase + 1)
        with m.If(final_change):
            m.d.sync += self.learning.eq(0)
        with m.If(self.learn):
            m.d.sync += [self.learning.eq(~self.frozen), phase.eq(0)]
        m.d.sync += self.learned.eq(final_change | (self.learn & self.frozen))
        bits, most = g.dense_weight_bits, rule.most_change
        row = Signal(data.ArrayLayout(data.ArrayLayout(signed(bits), g.group), together))
        changed = Signal(data.ArrayLayout(signed(bits), g.group))
        m.d.comb += [
            self.weights.use.eq(self.learning),
            self.weights.row.eq(turn * g.groups + group),
            row.eq(self.weights.data),
            self.weights.store.eq(self.learning & moving),
        ]
        for c in range(g.group):
            product = Signal(signed(rule.trace_bits + rule.factor_bits), name=f"product{c}", reset_less=True)
            change = Signal(range(-most, most + 1), name=f"change{c}", reset_less=True)
            m.d.sync += product.eq(before[c] * self.factor)
            shifted = towards_zero(product, rule.rate_shift)
            m.d.sync += change.eq(Mux(shifted > most, most, Mux(shifted < -most, -most, shifted)))
            total = Signal(signed(bits + 1), name=f"total{c}")
            weights = [row[turned][c] for turned in range(together)]
            m.d.comb += [total.eq(chosen(weights, nth) + change), changed[c].eq(saturated(total, bits)[0])]
        if together == 1:  # a number without bits decides nothing
            m.d.comb += self.weights.new_row.eq(changed)
        else:
            for turned in range(together):
                slot = self.weights.new_row[turned * g.group * bits :][: g.group * bits]
                m.d.comb += slot.eq(Mux(nth == turned, changed.as_value(), row[turned].as_value()))
        return m
