# SPDX-License-Identifier: MIT
"""Proof of the row walker for all spikes and all back-pressure, and planted defects that it must find.

Every decision of some cycles is covered, not all time: the walker forgets a pass with its last rows, and the depths
below see several passes begin and end.
"""

import dataclasses

import pytest
from amaranth.hdl import Assume, Elaboratable, Module, Mux, Signal

import hw.walker
from model.deployed.geometry import Geometry
from sim.formal import claim, mutant, prove

SMALL = Geometry(observation_size=1, action_size=1, d_model=4, layers=1, steps=1, window=2, mlp_ratio=1, group=2)
"""Two channels a group, one step: spikes are a bit each."""

CASES = {
    "one row a cycle": (dataclasses.replace(SMALL, rows_per_cycle=1), 2, 8),
    # more channels than a cycle's rows, or no group would ever lie open beside another
    "two rows": (dataclasses.replace(SMALL, d_model=3, group=3, rows_per_cycle=2), 2, 7),
    "four rows": (dataclasses.replace(SMALL, d_model=6, group=6, rows_per_cycle=4), 2, 6),
    "two steps": (dataclasses.replace(SMALL, steps=2, rows_per_cycle=2), 3, 9),
}
"""Geometry, drain cycles, and cycles that are looked at."""


class EveryRowOnce(Elaboratable):
    """The walker between a source that keeps the stream's rules and one row, of one pass, that is followed.

    Which row and which pass is left open, so that what is claimed of them holds for all. Rows of a pass ascend from
    group to group (the sequencer leaves silent groups out, never turns back), and four-row walkers get even ones.
    """

    def __init__(self, walker):
        self.walker = walker
        self.followed_row, self.choose = Signal(range(walker.geometry.weight_rows)), Signal()
        stream = walker.groups
        self.ports = [stream.valid, stream.payload.as_value(), self.followed_row, self.choose]

    def elaborate(self, platform):
        m = Module()
        m.submodules.walker = walker = self.walker
        g = walker.geometry
        groups, fetch = walker.groups, walker.fetch
        taken = groups.valid & groups.ready

        begun = Signal()  # a reset begins anew, with another row to follow
        m.d.sync += begun.eq(1)

        # The source holds what it offers until it is taken; a pass's groups ascend and share what describes the pass
        waited, offered = Signal(), Signal.like(groups.payload.as_value())
        m.d.sync += [waited.eq(groups.valid & ~groups.ready), offered.eq(groups.payload.as_value())]
        m.d.comb += Assume(~waited | (groups.valid & (groups.payload.as_value() == offered)))
        inside, least, info = Signal(), Signal(range(2 * g.weight_rows)), Signal.like(groups.p.info.as_value())
        with m.If(taken):
            m.d.sync += [inside.eq(~groups.p.last), least.eq(groups.p.row + g.group), info.eq(groups.p.info.as_value())]
        known = groups.p.info.as_value() == info
        m.d.comb += Assume(~groups.valid | ~inside | ((groups.p.row >= least) & known))
        m.d.comb += Assume(groups.p.row + g.group <= g.weight_rows)
        if g.rows_per_cycle == 4:
            m.d.comb += Assume(~groups.p.row[0])

        # The row that is followed does not change; its pass is any that `choose` points at when it begins
        row, held = self.followed_row, Signal.like(self.followed_row)
        m.d.sync += held.eq(row)
        m.d.comb += Assume(~begun | (row == held))
        following, chosen, over = Signal(), Signal(), Signal()  # its groups arrive; it was chosen; it is fetched
        mine = Mux(inside, following, self.choose & ~chosen)
        with m.If(taken):
            m.d.sync += [following.eq(mine & ~groups.p.last), chosen.eq(chosen | mine)]
        passes_in, passes_out, number = Signal(6), Signal(6), Signal(6)
        with m.If(taken & groups.p.last):
            m.d.sync += passes_in.eq(passes_in + 1)
        with m.If(taken & mine & ~chosen):
            m.d.sync += number.eq(passes_in)
        with m.If(walker.fetch_valid & fetch.last):
            m.d.sync += passes_out.eq(passes_out + 1)

        # What the row's input spikes, from the group that holds it
        expected, spikes = Signal(), Signal(g.steps)
        own_info = Signal.like(info)
        with m.If(taken & mine):
            m.d.sync += own_info.eq(groups.p.info.as_value())
            for c in range(g.group):
                with m.If((groups.p.row + c == row) & groups.p.spikes[c].any()):
                    m.d.sync += [expected.eq(1), spikes.eq(groups.p.spikes[c])]

        # Fetched when it is expected, once, with its spikes; nothing of the pass after its last rows
        now = chosen & ~over & (passes_out == number) & walker.fetch_valid
        hits = [slot.valid & (slot.row == row) for slot in fetch.slots]
        fetched = Signal()
        with m.If(now & sum(hits)):
            m.d.sync += fetched.eq(1)
        with m.If(now & fetch.last):
            m.d.sync += over.eq(1)
        claim(m, "once", ~now | (sum(hits) + fetched <= 1))
        claim(m, "only_what_spikes", ~now | ~sum(hits).any() | expected)
        for port, (slot, hit) in enumerate(zip(fetch.slots, hits, strict=True)):
            claim(m, f"spikes_{port}", ~(now & hit) | (slot.spikes == spikes))
            if g.rows_per_cycle == 4:
                claim(m, f"bank_{port}", ~(walker.fetch_valid & slot.valid) | (slot.row[0] == port // 2))
        claim(m, "all_of_it", ~(now & fetch.last) | ~expected | fetched | sum(hits).any())
        claim(m, "its_pass", ~now | (fetch.info.as_value() == own_info))
        claim(m, "something", ~walker.fetch_valid | fetch.last | sum(slot.valid for slot in fetch.slots).any())
        claim(m, "passes_in_order", passes_out + (walker.fetch_valid & fetch.last) <= passes_in)

        # The drain has its cycles, and no group waits for more than the rows of a group and the drain before it
        since = Signal(range(walker.drain_cycles + 1), init=walker.drain_cycles)
        with m.If(walker.fetch_valid & fetch.last):
            m.d.sync += since.eq(1)
        with m.Elif(since != walker.drain_cycles):
            m.d.sync += since.eq(since + 1)
        claim(m, "drain", ~(walker.fetch_valid & fetch.last) | (since == walker.drain_cycles))
        longest = -(-g.group // g.rows_per_cycle) + walker.drain_cycles - 2
        waiting = Signal(range(longest + 2))
        m.d.sync += waiting.eq(Mux(groups.valid & ~groups.ready, waiting + 1, 0))
        claim(m, "progress", waiting <= longest)
        return m


def verdict(module, name):
    geometry, drain_cycles, depth = CASES[name]
    design = EveryRowOnce(module.RowWalker(geometry, drain_cycles))
    return prove(design, design.ports, depth, mode="bmc")


@pytest.mark.parametrize("name", CASES)
def test_every_active_row_is_fetched_once_and_no_other(name):
    found = verdict(hw.walker, name)
    assert found.status == "PASS", found.log


@pytest.mark.parametrize(
    ("old", "new", "name", "broken"),
    [
        (
            "head_open & tail_open & ~head.last",
            "head_open & tail_open",
            "two rows",
            {"once", "only_what_spikes", "all_of_it"},
        ),
        ("m.d.sync += head_mask.eq(head_left)", "m.d.sync += head_mask.eq(head_mask)", "one row a cycle", {"once"}),
        ("Mux(same_pass, tail_left, tail_mask)", "tail_mask", "two rows", {"once"}),
        ("Mux(in_tail, tail.row, head.row)", "head.row", "two rows", {"once", "only_what_spikes"}),
        ("rest = after", "rest = rest", "two steps", {"once"}),
        ("close_head & same_pass & ~tail_left.any()", "close_head & same_pass", "one row a cycle", {"all_of_it"}),
        ("self.drain_cycles - 1)", "self.drain_cycles - 2)", "one row a cycle", {"drain"}),
        ("range(bank, 2 * size, banks)", "range(2 * size)", "four rows", {"bank_2", "once"}),
        ("(ends | pending.any())", "ends", "one row a cycle", {"all_of_it"}),
        ("m.d.sync += drain_wait.eq(drain_wait - 1)", "pass", "two rows", {"progress"}),
    ],
    ids=[
        *("mixes-passes", "again", "tail-again", "wrong-row", "twice", "drops-tail"),
        *("no-drain", "wrong-bank", "loses-rows", "waits-forever"),
    ],
)
def test_the_proof_finds_a_planted_defect(old, new, name, broken):
    found = verdict(mutant(hw.walker, old, new), name)
    assert found.status == "FAIL", found.log
    assert found.failed & broken, found.failed
