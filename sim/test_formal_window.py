# SPDX-License-Identifier: MIT
"""Proofs of the attention units' stream: every drained pass is answered once, in order; values wait for older sums."""

import dataclasses

import pytest
from amaranth.hdl import Assume, Elaboratable, Module, Mux, Signal

import hw.attention
import hw.match
import hw.window
from hw.memory_map import passes
from hw.passes import Kind
from model.deployed.geometry import Geometry
from sim.formal import claim, mutant, prove

SMALL = Geometry(observation_size=1, action_size=1, d_model=4, layers=3, steps=1, window=3, group=2)
"""Two groups of two channels, three tokens, three layers: what a stream counts, and little else."""

MATCH = dataclasses.replace(SMALL, attention="tssa")

BANK_LATENCY = 3

MATCH_CYCLES = 16

DEPTH = 26
"""Cycles in which a defect shows: three layers, with all that is summed behind each."""


class Answers(Elaboratable):
    """An attention unit beside what its stream must be; the core's side of it is left open.

    What asks for a layer's groups is its drained pass, in a match unit its last queries; the core does not ask for the
    next layer's before this one's have come, and starts a decision where nothing is on its way.
    """

    def __init__(self, unit, window: bool):
        self.unit, self.window = unit, window
        self.ports = [unit.start, unit.advance, unit.new_episode, unit.drained, unit.i_valid, unit.i_group]
        self.ports += [unit.i_info.as_value(), unit.i.as_value()]

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = self.unit
        g = unit.geometry
        m.d.comb += unit.busy.eq(1)

        # Groups that are owed, and their layer
        owed, layer, asked, begun = Signal(range(g.groups + 1)), Signal(range(g.layers)), Signal(), Signal()
        with m.If(asked):
            m.d.sync += owed.eq(g.groups)
        with m.Elif(unit.o_valid):
            m.d.sync += owed.eq(owed - 1)
        m.d.comb += Assume(~(begun | unit.start | unit.advance | unit.new_episode) | (owed == 0))
        if self.window:
            m.d.comb += [asked.eq(unit.drained), begun.eq(unit.drained), Assume(~(unit.drained & unit.start))]
            with m.If(~asked & unit.o_valid & unit.o_last):
                m.d.sync += layer.eq(Mux(layer == g.layers - 1, 0, layer + 1))
            with m.If(unit.start):
                m.d.sync += layer.eq(0)
        else:
            group = Signal(range(g.groups))
            m.d.comb += begun.eq(unit.i_valid & (unit.i_info.kind == Kind.QUERY))
            m.d.comb += asked.eq(begun & (group == g.groups - 1))
            m.d.comb += Assume(~begun | ((unit.i_group == group) & (unit.i_info.layer < g.layers)))
            with m.If(begun):
                m.d.sync += [group.eq(Mux(asked, 0, group + 1)), layer.eq(unit.i_info.layer)]

        claim(m, "asked_for", ~unit.o_valid | (owed != 0))
        claim(m, "in_order", ~unit.o_valid | (unit.o_group == g.groups - owed))
        claim(m, "ends", ~unit.o_valid | (unit.o_last == (owed == 1)))
        number = layer * g.passes_per_layer + 1 + passes(g).index("window")
        same = (unit.o_info.kind == Kind.WINDOW) & (unit.o_info.layer == layer) & (unit.o_info.number == number)
        claim(m, "tells", same)
        if not self.window:
            return m

        # The first group leaves as the last query is through the bank, the others follow without a gap
        wait = max(1, BANK_LATENCY + 2 - g.groups)
        since = Signal(range(wait + g.groups + 1), init=wait + g.groups)
        with m.If(unit.drained):
            m.d.sync += since.eq(0)
        with m.Elif(since != wait + g.groups):
            m.d.sync += since.eq(since + 1)
        claim(m, "on_time", unit.o_valid == ((since >= wait - 1) & (since < wait - 1 + g.groups)))
        claim(m, "complete", (owed == 0) == (since >= wait - 1 + g.groups))

        # Behind them the next layer's older taps are summed, a tap of a group a cycle; values come when all are
        left, idle = Signal(range((g.window - 1) * g.groups + 1)), Signal()
        with m.If(unit.o_valid & unit.o_last):
            m.d.sync += left.eq((g.window - 1) * g.groups)
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        m.d.comb += idle.eq((left == 0) & ~unit.o_valid)
        claim(m, "settles", unit.settled == idle)
        ready = Signal()
        m.d.sync += ready.eq(idle & ~unit.start)
        claim(m, "waits", unit.ready == ready)
        return m


def window_verdict(module):
    """Decide for all time."""
    design = Answers(module.PssaWindow(SMALL, BANK_LATENCY), True)
    return prove(design, design.ports, DEPTH)


def match_verdict(module):
    """Decide for the first cycles, a layer and the beginning of the next.

    For all time there is no induction: what lies in the pipeline cannot be told from outside.
    """
    design = Answers(module.MatchWindow(MATCH), False)
    return prove(design, design.ports, MATCH_CYCLES, "bmc")


def test_window_answers_every_drained_pass_and_says_when_values_may_come():
    found = window_verdict(hw.window)
    assert found.status == "PASS", found.log


def test_match_answers_every_drained_pass():
    found = match_verdict(hw.match)
    assert found.status == "PASS", found.log


@pytest.mark.parametrize(
    ("old", "new", "failed"),
    [
        ("m.d.sync += [tap.eq(1), group.eq(group + 1)]", "m.d.sync += [tap.eq(0), group.eq(group + 1)]", "settles"),
        ("layer.eq(Mux(last_layer, 0, layer + 1))", "layer.eq(layer + 1)", "tells"),
        ("self.ready.eq(self.settled & ~self.start)", "self.ready.eq(self.settled)", "waits"),
        ("self.settled.eq(~gathering & ~emitting)", "self.settled.eq(~gathering)", "settles"),
        ("with m.If(self.start):", "with m.If(0):", "tells"),
    ],
    ids=["a-tap-more", "layer-runs-over", "ready-at-start", "settled-while-sending", "layer-stays"],
)
def test_window_proof_finds_a_planted_defect(old, new, failed):
    found = window_verdict(mutant(hw.window, old, new))
    assert found.status == "FAIL", found.log
    assert failed in found.failed


@pytest.mark.parametrize(
    ("old", "new", "failed"),
    [
        ("[running.eq(0), group.eq(0)]", "[group.eq(0)]", "asked_for"),
        ("m.d.sync += layer.eq(self.i_info.layer)", "m.d.sync += layer.eq(0)", "tells"),
        ("self.o_group.eq(group1)", "self.o_group.eq(group)", "in_order"),
        ("self.o_last.eq(group1 == g.groups - 1)", "self.o_last.eq(group == g.groups - 1)", "ends"),
    ],
    ids=["never-stops", "first-layer-only", "number-early", "last-early"],
)
def test_match_proof_finds_a_planted_defect(old, new, failed):
    found = match_verdict(mutant(hw.match, old, new))
    assert found.status == "FAIL", found.log
    assert failed in found.failed


@pytest.mark.parametrize(
    ("old", "new", "failed"),
    [
        (
            "with m.If(unit.o_last):",
            "with m.If(unit.o_group == 0):",
            {"in_order", "ends", "asked_for", "complete", "on_time"},
        ),
        ("unit.o_last.eq(unit.o_group == g.groups - 1)", "unit.o_last.eq(unit.o_group == 0)", {"ends"}),
        ("unit.bank_latency + 2 - g.groups) - 1", "unit.bank_latency + 2 - g.groups)", {"on_time"}),
        ("[sending.eq(1), unit.o_group.eq(0)]", "[sending.eq(1), unit.o_group.eq(1)]", {"in_order", "ends"}),
        ("unit.o_info.kind.eq(Kind.WINDOW)", "unit.o_info.kind.eq(Kind.QUERY)", {"tells"}),
    ],
    ids=["stops-early", "last-first", "a-cycle-late", "begins-behind", "wrong-pass"],
)
def test_proof_finds_a_planted_defect_of_what_units_share(old, new, failed):
    module = mutant(hw.window, "Kind.KEY", "Kind.KEY")
    module.send_groups = mutant(hw.attention, old, new).send_groups
    found = window_verdict(module)
    assert found.status == "FAIL", found.log
    assert found.failed & failed
