# SPDX-License-Identifier: MIT
"""The spike row walker: turns groups of spikes into weight rows, only the rows of inputs that spike."""

import functools
import operator

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.expressions import if_valid
from hw.passes import Kind, pass_layout, spikes_layout
from model.deployed.geometry import Geometry


def group_layout(g: Geometry) -> data.StructLayout:
    """Return a group of a pass's inputs on its way to the walker.

    spikes : the group's spikes
    row : weight row of the group's first input
    last : the pass's last group
    info : the pass
    """
    return data.StructLayout(
        {
            "spikes": spikes_layout(g, g.group),
            "row": range(g.weight_rows),
            "last": 1,
            "info": pass_layout(g),
        }
    )


def fetch_layout(g: Geometry) -> data.StructLayout:
    """Return the row fetches of one cycle.

    slots : per row port: `valid`, `row`, `spikes` of the row's input
    last : these are the pass's last rows
    info : the pass
    """
    slot = data.StructLayout(
        {"valid": 1, "row": range(g.weight_rows), "spikes": g.steps},
    )
    return data.StructLayout(
        {"slots": data.ArrayLayout(slot, g.rows_per_cycle), "last": 1, "info": pass_layout(g)},
    )


class RowWalker(wiring.Component):
    """Fetch the rows of the inputs that spike, `rows_per_cycle` a cycle.

    Two groups lie open at a time, so that a group's odd row is fetched together with the next group's first. Passes
    follow each other without a gap; rows of different passes are never fetched in one cycle. With four rows a cycle,
    two are even and two odd (two memory banks of two ports).

    Parameters
    ----------
    geometry : Geometry
    drain_cycles : int
        Fewest cycles between the last rows of two passes: what the drain of the accumulators takes.

    Members
    -------
    groups : stream of groups, in order; honours back-pressure
    fetch : the cycle's fetches, registered; `fetch_valid` says whether there are any or the pass ends
    idle : nothing lies open
    kind : the pass of what lies open

    """

    def __init__(self, geometry: Geometry, drain_cycles: int) -> None:
        self.geometry = geometry
        self.drain_cycles = drain_cycles
        super().__init__(
            {
                "groups": In(stream.Signature(group_layout(geometry))),
                "fetch": Out(fetch_layout(geometry)),
                "fetch_valid": Out(1),
                "idle": Out(1),
                "kind": Out(Kind),
            }
        )

    def elaborate(self, platform):
        m = Module()
        g = self.geometry
        size = g.group

        # a group lies open step by step, so that an input is chosen in a word of its bank's inputs
        steps = data.ArrayLayout(size, g.steps)
        opened = data.StructLayout({"steps": steps, "row": range(g.weight_rows), "last": 1, "info": pass_layout(g)})
        head, tail = Signal(opened, reset_less=True), Signal(opened, reset_less=True)
        head_open, tail_open = Signal(), Signal()
        head_mask, tail_mask = Signal(size), Signal(size)  # inputs that spike and are not fetched yet
        arriving, arriving_mask = Signal(opened), Signal(size)
        by_step = [Cat(self.groups.p.spikes[c][t] for c in range(size)) for t in range(g.steps)]
        m.d.comb += [
            arriving.steps.eq(if_valid(m, self.groups.valid, Cat(by_step), "arriving_steps")),
            arriving.row.eq(self.groups.p.row),
            arriving.last.eq(self.groups.p.last),
            arriving.info.eq(self.groups.p.info),
            arriving_mask.eq(functools.reduce(operator.or_, arriving.steps)),
        ]

        # Pick the first rows of what lies open, in each bank
        same_pass = head_open & tail_open & ~head.last
        pending = Signal(2 * size)
        with m.If(head_open):
            m.d.comb += pending.eq(Cat(head_mask, tail_mask & same_pass.replicate(size)))
        spikes = [Cat(head.steps[t], tail.steps[t]) for t in range(g.steps)]
        banks = max(1, g.rows_per_cycle // 2)

        def with_bit(n: int) -> int:
            """Return the places whose number within their group has bit n."""
            return sum(1 << i for i in range(2 * size) if (i % size) >> n & 1)

        fetch = Signal(fetch_layout(g))
        left: Value = Const(0, 2 * size)
        for bank in range(banks):
            rest = pending & Const(sum(1 << i for i in range(bank, 2 * size, banks)), 2 * size)
            for port in range(g.rows_per_cycle // banks):
                slot = fetch.slots[bank * 2 + port]
                name = f"_{bank}_{port}"
                first = Signal(2 * size, name="first" + name)
                after = Signal(2 * size, name="after" + name)
                m.d.comb += [
                    first.eq(if_valid(m, head_open, rest & (~rest + 1), "lowest" + name)),
                    after.eq(rest & ~first),
                    slot.valid.eq(first.any()),
                ]
                in_tail = Signal(name="in_tail" + name)
                number = Signal(range(size), name="number" + name)
                m.d.comb += [
                    in_tail.eq(first[size:].any()),
                    number.eq(Cat((first & with_bit(n)).any() for n in range(len(number)))),
                    slot.row.eq(Mux(in_tail, tail.row, head.row) + number),
                    slot.spikes.eq(Cat((first & step).any() for step in spikes)),
                ]
                rest = after
            left = left | rest
        head_left, tail_left = left[:size], left[size:]

        # Close what is fetched
        close_head, close_tail, ends, go = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            close_head.eq(head_open & ~head_left.any()),
            close_tail.eq(close_head & same_pass & ~tail_left.any()),
            ends.eq((close_head & head.last) | (close_tail & tail.last)),
        ]
        drain_wait = Signal(range(self.drain_cycles + 1))
        m.d.comb += go.eq(~(ends & (drain_wait != 0)))
        with m.If(go & ends):
            m.d.sync += drain_wait.eq(self.drain_cycles - 1)
        with m.Elif(drain_wait != 0):
            m.d.sync += drain_wait.eq(drain_wait - 1)
        m.d.comb += [
            fetch.last.eq(ends),
            fetch.info.eq(head.info),
            self.idle.eq(~head_open & ~tail_open),
            self.kind.eq(head.info.kind),
        ]
        m.d.sync += [
            self.fetch.eq(fetch),
            self.fetch_valid.eq(go & head_open & (ends | pending.any())),
        ]

        # Open the next group
        with m.If(go):
            m.d.comb += self.groups.ready.eq(close_head | ~head_open | ~tail_open)
            with m.If(~head_open | close_tail | (close_head & ~tail_open)):
                m.d.sync += [
                    head_open.eq(self.groups.valid),
                    head_mask.eq(arriving_mask),
                    head.eq(arriving),
                    tail_open.eq(0),
                ]
            with m.Elif(close_head):
                m.d.sync += [
                    head.eq(tail),
                    head_mask.eq(Mux(same_pass, tail_left, tail_mask)),
                    tail_open.eq(self.groups.valid),
                    tail_mask.eq(arriving_mask),
                    tail.eq(arriving),
                ]
            with m.Else():
                m.d.sync += head_mask.eq(head_left)
                with m.If(tail_open):
                    m.d.comb += self.groups.ready.eq(0)
                    with m.If(same_pass):
                        m.d.sync += tail_mask.eq(tail_left)
                with m.Else():
                    m.d.sync += [
                        tail_open.eq(self.groups.valid),
                        tail_mask.eq(arriving_mask),
                        tail.eq(arriving),
                    ]
        return m
