# SPDX-License-Identifier: MIT
"""Proof that the sequencer feeds every pass its spikes, once, in order and by the stream's rules, whenever they come
back, and planted defects that it must find.

The first decision is looked at: all of it for one group and one layer, its beginning for larger networks."""

import dataclasses

import pytest
from amaranth.hdl import Array, Assume, Const, Elaboratable, Module, Mux, Signal

import hw.sequencer
from hw.memory_map import passes
from hw.passes import Kind
from model.deployed.geometry import Geometry
from sim.formal import claim, mutant, prove

SMALL = Geometry(observation_size=1, action_size=1, d_model=2, layers=1, steps=1, window=2, mlp_ratio=1, group=2)

CASES = {
    "one group": (SMALL, 14),
    "two groups": (dataclasses.replace(SMALL, d_model=4), 11),
    "two layers": (dataclasses.replace(SMALL, layers=2), 12),
    "two hidden parts": (dataclasses.replace(SMALL, mlp_ratio=2), 12),
    "ungated": (dataclasses.replace(SMALL.with_attention("lrf-dyn"), dendrites=2, gate=False), 13),
}
"""Geometry, and cycles that are looked at."""

SOURCES = {Kind.PROJ: (Kind.WINDOW,), Kind.FC1: (Kind.PROJ,), Kind.FC2: (Kind.FC1,)}
"""Whose spikes a pass reads; those that are missing read the layer's entry."""


class Decision(Elaboratable):
    """The sequencer in a decision: what a pass gives comes back group by group, in order, at any time after its feed.

    Passes have their numbers, the embedding's is 0. The windows' spikes come back after the last projection's. The
    walker takes a group when it likes; the window is ready when it likes, and stays so until it gets its values. One
    group of one pass is followed from its arrival on; which one is left open.
    """

    def __init__(self, sequencer):
        self.sequencer = s = sequencer
        g = sequencer.geometry
        of_layer = [
            (Kind[name.upper()], part) for name in passes(g) for part in range(g.mlp_ratio if name == "fc1" else 1)
        ]
        self.order = [(Kind.EMBED, 0), *of_layer * g.layers]
        self.reader = Signal(range(len(self.order)), name="followed_reader")
        # of a bit at least: the solver knows no empty signal
        self.group = Signal(range(max(2, g.groups * g.mlp_ratio)), name="followed_group")
        self.ports = [s.i_valid, s.i.as_value(), s.groups.ready, s.window_ready, self.reader, self.group]

    def inputs_of(self, reader):
        """Return what a pass reads: (number of the pass that gave it, group of that one), group by group."""
        kind, _ = self.order[reader]
        wanted = SOURCES.get(kind, (Kind.EMBED, Kind.FC2))
        before = [number for number in range(reader) if self.order[number][0] in wanted]
        numbers = before[-self.sequencer.geometry.mlp_ratio :] if kind == Kind.FC2 else before[-1:]
        return [(number, group) for number in numbers for group in range(self.sequencer.geometry.groups)]

    def elaborate(self, platform):
        m = Module()
        m.submodules.sequencer = s = self.sequencer
        g, order = s.geometry, self.order
        offered, end = s.groups.p, len(order)
        taken = s.groups.valid & s.groups.ready
        begun = Signal()
        m.d.sync += begun.eq(1)
        m.d.comb += s.start.eq(~begun)

        # A pass is fed after the other; the window's, which is none, is passed over
        feeding = Signal(range(end + 1), init=1)
        follows = [n + 1 + (n + 1 < end and order[n + 1][0] == Kind.WINDOW) for n in range(end)]
        with m.If(taken & offered.last):
            m.d.sync += feeding.eq(Array([*follows, end])[feeding])

        # What was fed comes back
        back, group = Signal(range(end + 1)), Signal(range(g.groups))
        m.d.comb += [
            s.i_group.eq(group),
            s.i_info.kind.eq(Array([Const(kind.value, 3) for kind, _ in order])[back]),
            s.i_info.part.eq(Array([Const(part, 8) for _, part in order])[back]),
            Assume(~s.i_valid | (begun & (back < feeding))),
        ]
        with m.If(s.i_valid):
            m.d.sync += group.eq(group + 1)
            with m.If(group == g.groups - 1):
                m.d.sync += [group.eq(0), back.eq(back + 1)]

        # A window that is ready waits for its values
        inside = Signal()
        with m.If(taken):
            m.d.sync += inside.eq(~offered.last)
        was_ready, at_values = Signal(), Signal()
        m.d.comb += at_values.eq(
            Array([Const(order[min(n, end - 1)][0] == Kind.VALUE, 1) for n in range(end + 1)])[feeding]
        )
        m.d.sync += was_ready.eq(s.window_ready & at_values & ~inside & ~taken)
        m.d.comb += Assume(~was_ready | s.window_ready)

        # By the stream's rules, pass by pass
        waited, held = Signal(), Signal.like(offered.as_value())
        m.d.sync += [waited.eq(begun & s.groups.valid & ~s.groups.ready), held.eq(offered.as_value())]
        claim(m, "offer_held", ~waited | (s.groups.valid & (offered.as_value() == held)))
        claim(m, "number", ~s.groups.valid | (offered.info.number == feeding))
        kinds, parts, layers = (
            Array([Const(values[min(n, end - 1)], 8) for n in range(end + 1)])
            for values in (
                [kind.value for kind, _ in order],
                [part for _, part in order],
                [max(0, n - 1) // g.passes_per_layer for n in range(end)],
            )
        )
        claim(m, "kind", ~s.groups.valid | (offered.info.kind.as_value() == kinds[feeding]))
        claim(m, "part", ~s.groups.valid | (offered.info.part == parts[feeding]))
        claim(m, "layer", ~s.groups.valid | (offered.info.layer == layers[feeding]))
        claim(m, "final", ~s.groups.valid | (offered.info.final == (feeding == end - 1)))
        claim(m, "ended", ~begun | (s.exhausted == (feeding == end)))

        # The group that is followed
        readers = [n for n in range(1, end) if order[n][0] != Kind.WINDOW]
        was_reader, was_group = Signal.like(self.reader), Signal.like(self.group)
        m.d.sync += [was_reader.eq(self.reader), was_group.eq(self.group)]
        m.d.comb += Assume(~begun | ((self.reader == was_reader) & (self.group == was_group)))
        number, place, row, final = Signal(range(end)), Signal(range(g.groups)), Signal(range(g.weight_rows)), Signal()
        first_row, some = 0, 0
        for reader in readers:
            inputs = self.inputs_of(reader)
            for index, (source, of_source) in enumerate(inputs):
                here = (self.reader == reader) & (self.group == index)
                some |= here
                with m.If(here):
                    m.d.comb += [
                        *(number.eq(source), place.eq(of_source)),
                        *(row.eq(first_row + index * g.group), final.eq(index == len(inputs) - 1)),
                    ]
            first_row += len(inputs) * g.group
        assert first_row == g.weight_rows
        m.d.comb += Assume(some)
        arrives, arrived = s.i_valid & (back == number) & (group == place), Signal()
        kept, spikes, fed = Signal.like(s.i.as_value()), Signal.like(s.i.as_value()), Signal()
        with m.If(arrives):
            m.d.sync += [arrived.eq(1), kept.eq(s.i.as_value())]
        m.d.comb += spikes.eq(Mux(arrives, s.i.as_value(), kept))
        mine = s.groups.valid & (feeding == self.reader)
        hit = mine & (offered.row == row)
        with m.If(taken & hit):
            m.d.sync += fed.eq(1)
        claim(m, "there", ~hit | arrives | arrived)
        claim(m, "spikes", ~hit | (offered.spikes.as_value() == spikes))
        claim(m, "once", ~hit | ~fed)
        claim(m, "silent", ~hit | spikes.any() | final)
        claim(m, "last", ~hit | (offered.last == final))
        claim(m, "all", ~(mine & offered.last) | fed | hit | ~spikes.any())
        # nothing waits for more than its spikes, not even for the next cycle
        ready = arrives | arrived
        values = at_values & ~s.window_ready & ~inside
        due = (feeding == self.reader) & ready & (spikes.any() | final) & ~fed & ~values
        claim(m, "at_once", ~due | s.groups.valid)
        return m


def verdict(module, name):
    geometry, depth = CASES[name]
    design = Decision(module.Sequencer(geometry))
    return prove(design, design.ports, depth, mode="bmc")


@pytest.mark.parametrize("name", CASES)
def test_every_pass_gets_its_spikes_once_and_in_order(name):
    found = verdict(hw.sequencer, name)
    assert found.status == "PASS", found.log


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("m.d.sync += entries.eq(0)", "pass", "one group"),
        ("Mux(stored, read.data, write.data)", "read.data", "one group"),
        ("(stored | arriving)", "arriving", "one group"),
        ("(stored | arriving)", "stored", "one group"),
        ("(self.i.as_value().any() | write.data.last)", "self.i.as_value().any()", "one group"),
        ("self.i_valid & (to_entries", "1 & (to_entries", "two groups"),
        ("Mux(kind == last_projection, 2, 1)", "1", "one group"),
        ("self.i_info.part * g.groups + self.i_group", "self.i_group", "two hidden parts"),
        ("self.i_info.part == g.mlp_ratio - 1", "1", "two hidden parts"),
        # is seen at the end of the decision alone, which must be among the cycles
        ("self.exhausted.eq(1)", "self.exhausted.eq(0)", "one group"),
        ("self.exhausted.eq(1)", "self.exhausted.eq(0)", "two hidden parts"),
        ("self.exhausted.eq(1)", "self.exhausted.eq(0)", "ungated"),
    ],
    ids=[
        *("keeps-entries", "not-from-the-port", "not-kept", "a-cycle-late", "no-end", "unasked"),
        *("window-uncounted", "wrong-part", "ends-early", "unended", "unended-hidden-parts", "unended-ungated"),
    ],
)
def test_the_proof_finds_a_planted_defect(old, new, name):
    found = verdict(mutant(hw.sequencer, old, new), name)
    assert found.status == "FAIL", found.log
    assert found.failed
