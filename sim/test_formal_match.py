# SPDX-License-Identifier: MIT
"""Proofs of the match unit's counts and sums for all inputs, and planted defects that they must find."""

import dataclasses
import itertools

import pytest
from amaranth.hdl import Assume, Elaboratable, Module, Mux, Signal

import hw.match
from model.deployed.geometry import Geometry
from sim.formal import claim, mutant, prove

SMALL = Geometry(observation_size=1, action_size=1, d_model=8, layers=1, steps=2, window=3, group=4)
"""Two groups of four channels, two steps, three slots: small enough for a solver, with a slot left over by pairs."""

GEOMETRIES = {
    f"{attention}, {heads} heads": dataclasses.replace(SMALL, attention=attention, heads=heads)
    for attention in ("sssa", "tssa")
    for heads in (1, 2, 4)
}
"""A head of two groups, of one, and two heads in a group."""


def head_of(g: Geometry, group: int, channel: int) -> int:
    """Return the head of a group's channel, by its definition."""
    return (group * g.group + channel) // (g.d_model // g.heads)


class CountsEquation(Elaboratable):
    """The counter beside its definition: matches of the head's channels since its first group, one by one."""

    def __init__(self, counts):
        self.counts = counts
        self.ports = [counts.i_valid, counts.i_group, counts.i.as_value(), counts.live]
        self.ports += [keys.as_value() for keys in counts.keys]

    def elaborate(self, platform):
        m = Module()
        m.submodules.counts = counts = self.counts
        g = counts.geometry
        per_head = max(1, g.groups // g.heads)

        # Groups come in order
        group = Signal(range(g.groups))
        with m.If(counts.i_valid):
            m.d.sync += group.eq(Mux(group == g.groups - 1, 0, group + 1))
        m.d.comb += Assume(~counts.i_valid | (counts.i_group == group))

        # Count since the head's first group, with room to spare
        shape, heads = counts.o.shape(), [head_of(g, 0, c) for c in range(g.group)]
        seen, first = Signal(range(per_head + 1)), group % per_head == 0
        with m.If(counts.i_valid):
            m.d.sync += seen.eq(Mux(first, 1, seen + 1))
        claim(m, "order", (seen % per_head == group % per_head) & (seen <= per_head))
        for slot in range(g.window):
            for head in range(shape.elem_shape.length):
                for index in range(shape.elem_shape.elem_shape.length):
                    name = f"{slot}_{head}_{index}"
                    steps = range(g.steps) if g.attention == "tssa" else [index]
                    channels = [c for c in range(g.group) if heads[c] == head]
                    matched = sum(
                        counts.i[c][t] & counts.keys[slot][c][t] & counts.live[slot] for t in steps for c in channels
                    )
                    wide = [Signal(16, name=f"wide_{name}_{age}") for age in range(counts.LATENCY)]
                    with m.If(counts.i_valid):
                        m.d.sync += wide[0].eq(Mux(first, 0, wide[0]) + matched)
                    m.d.sync += [older.eq(newer) for newer, older in itertools.pairwise(wide)]
                    claim(m, f"bound_{name}", wide[0] <= seen * len(steps) * len(channels))
                    claim(m, f"count_{name}", counts.o[slot][head][index] == wide[-1])

        # Heads are complete with their last group
        valid, number = counts.i_valid & (group % per_head == per_head - 1), group
        for age in range(counts.LATENCY):
            older_valid, older = Signal(name=f"valid_{age}"), Signal.like(number, name=f"group_{age}")
            m.d.sync += [older_valid.eq(valid), older.eq(number)]
            valid, number = older_valid, older
        claim(m, "complete", (counts.o_valid == valid) & (~valid | (counts.o_group == number)))
        return m


class SumsEquation(Elaboratable):
    """The adders beside their definition: the counts of the slots whose value spikes, one by one."""

    def __init__(self, sums):
        self.sums = sums
        self.ports = [sums.i_valid, sums.i_first, sums.i_last, sums.counts.as_value()]
        self.ports += [values.as_value() for values in sums.i]

    def elaborate(self, platform):
        m = Module()
        m.submodules.sums = sums = self.sums
        g = sums.geometry
        places = -(-g.window // sums.width)

        # The slots of a group come in successive cycles; beyond the last there is none, and no count exceeds its most
        place = Signal(range(places))
        with m.If(sums.i_valid):
            m.d.sync += place.eq(Mux(place == places - 1, 0, place + 1))
        m.d.comb += Assume(sums.i_valid | (place == 0))
        m.d.comb += Assume(~sums.i_valid | (sums.i_first == (place == 0)))
        m.d.comb += Assume(~sums.i_valid | (sums.i_last == (place == places - 1)))
        heads = sums.counts.shape().elem_shape.length
        for lane in range(sums.width):
            there = place * sums.width + lane < g.window
            for head in range(heads):
                for count in sums.counts[lane][head]:
                    m.d.comb += Assume(count <= Mux(there, g.most_matches, 0))

        valid = [Signal(name=f"valid{age}") for age in range(2)]
        m.d.sync += [valid[0].eq(sums.i_valid), valid[1].eq(valid[0])]
        last = [Signal(name=f"last{age}") for age in range(2)]
        m.d.sync += [last[0].eq(sums.i_valid & sums.i_last), last[1].eq(last[0])]
        claim(m, "valid", sums.o_valid == last[1])
        for c in range(g.group):
            for t in range(g.steps):
                index = 0 if g.attention == "tssa" else t
                added = sum(
                    Mux(sums.i[lane][c][t], sums.counts[lane][head_of(g, 0, c)][index], 0) for lane in range(sums.width)
                )
                wide, older = Signal(20, name=f"wide_{c}_{t}"), Signal(20, name=f"older_{c}_{t}")
                with m.If(sums.i_valid):
                    m.d.sync += wide.eq(Mux(place == 0, 0, wide) + added)
                m.d.sync += older.eq(wide)
                claim(m, f"bound_{c}_{t}", wide <= Mux(place == 0, g.window, place * sums.width) * g.most_matches)
                claim(m, f"sum_{c}_{t}", ~valid[1] | (sums.o[c][t] == older))
        return m


def counts_verdict(module, geometry):
    design = CountsEquation(module.MatchCounts(geometry))
    # one step more than the latency closes the induction; another, and a counterexample may take two heads
    return prove(design, design.ports, depth=module.MatchCounts.LATENCY + 2)


def sums_verdict(module, geometry, width):
    design = SumsEquation(module.MatchSums(geometry, width))
    # the same here: a counterexample may take two groups
    return prove(design, design.ports, depth=module.MatchSums.LATENCY + 1 + -(-geometry.window // width))


@pytest.mark.parametrize("name", GEOMETRIES)
def test_counts_equal_their_definition_for_all_inputs(name):
    verdict = counts_verdict(hw.match, GEOMETRIES[name])
    assert verdict.status == "PASS", verdict.log


@pytest.mark.parametrize(
    ("name", "width"), [*((name, 2) for name in GEOMETRIES), ("sssa, 1 heads", 1), ("tssa, 4 heads", 3)]
)
def test_sums_equal_their_definition_for_all_inputs(name, width):
    verdict = sums_verdict(hw.match, GEOMETRIES[name], width)
    assert verdict.status == "PASS", verdict.log


@pytest.mark.parametrize(
    ("old", "new", "name", "found"),
    [
        ("self.i[c][t] & self.keys[slot][c][t]", "self.i[c][t]", "sssa, 1 heads", "count"),
        ("m.If(~self.live[slot])", "m.If(0)", "sssa, 2 heads", "count"),
        ("Mux(first, 0, count) + term", "count + term", "sssa, 2 heads", "count"),
        ("else [tree(steps)]", "else [steps[0]]", "tssa, 1 heads", "count"),
        (
            "data.ArrayLayout(channels.bit_length()",
            "data.ArrayLayout((channels - 1).bit_length()",
            "sssa, 2 heads",
            "count",
        ),
        ("for digit in range(2)", "for digit in range(1)", "tssa, 2 heads", "count"),
        ("range(head * channels + start", "range(start", "sssa, 4 heads", "count"),
        ("(group2 % groups == groups - 1)", "(group2 % groups == 0)", "tssa, 1 heads", "complete"),
    ],
    ids=[
        *(
            "forgets-keys",
            "counts-the-dead",
            "never-begins",
            "first-step-only",
            "narrow",
            "digit-lost",
            "first-head-only",
        ),
        "early",
    ],
)
def test_counts_proof_finds_a_planted_defect(old, new, name, found):
    verdict = counts_verdict(mutant(hw.match, old, new), GEOMETRIES[name])
    assert verdict.status == "FAIL", verdict.log
    assert verdict.failed
    assert all(claimed.startswith(found) for claimed in verdict.failed)  # the circuit is wrong, not its definition


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("Mux(second, both, one)", "Mux(second, other, one)", "sssa, 1 heads"),
        ("Mux(first, 0, self.o[c][t])", "self.o[c][t]", "tssa, 2 heads"),
        ("pairs[c * heads_per_group(g) // g.group, ", "pairs[0, ", "tssa, 4 heads"),
        ("t % counts_per_head(g)]", "0]", "sssa, 2 heads"),
        ("steps_layout(g, g.attention_bits)", "steps_layout(g, g.attention_bits - 1)", "sssa, 1 heads"),
    ],
    ids=["one-for-both", "never-begins", "first-head-only", "first-step-only", "narrow"],
)
def test_sums_proof_finds_a_planted_defect(old, new, name):
    verdict = sums_verdict(mutant(hw.match, old, new), GEOMETRIES[name], 2)
    assert verdict.status == "FAIL", verdict.log
    assert verdict.failed
    assert all(claimed.startswith("sum_") for claimed in verdict.failed)
