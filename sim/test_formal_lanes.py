# SPDX-License-Identifier: MIT
"""Proof of the handshake between walker and lanes: each fetched row is in the sums of its pass, once, and in no other.

What the weight memory gives is left open in every cycle, so that it holds for all weights.
"""

import dataclasses

import pytest
from amaranth.hdl import Assume, Elaboratable, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

import hw.lanes
import hw.words
from hw.memory import load_port
from hw.memory_map import memory_map
from model.deployed.geometry import Geometry
from sim.formal import claim, mutant, prove

SMALL = Geometry(
    observation_size=1,
    action_size=1,
    d_model=2,
    layers=1,
    steps=2,
    window=2,
    mlp_ratio=2,
    weight_bits=2,
    rows_per_cycle=1,
    group=1,
)
"""Two groups of a channel, passes of up to four rows."""

GEOMETRIES = {
    "a row": SMALL,
    "two rows": dataclasses.replace(SMALL, rows_per_cycle=2),
    "four rows": dataclasses.replace(SMALL, steps=1, rows_per_cycle=4, group=2),
    "one group": dataclasses.replace(SMALL, rows_per_cycle=2, group=2),
    "a lane a word": SMALL,
    "a lane a word, two rows": dataclasses.replace(SMALL, rows_per_cycle=2),
}

WORD_BITS = {"a lane a word": 4, "a lane a word, two rows": 4}
"""Where the lanes are not to lie in one word; of a row, two words of sums then share one of terms."""

CYCLES = 7
"""A clear, two passes and the second's drain; each group but the first takes two more, between the passes and in the
drain."""


class AnyRows(wiring.Component):
    """In the weight memory's place: says what was asked for, and answers `any`."""

    def __init__(self, g: Geometry) -> None:
        section, answer = memory_map(g)["weights"], data.ArrayLayout(g.d_model * g.weight_bits, g.rows_per_cycle)
        super().__init__(
            {
                "load": In(load_port(section)),
                "busy": In(1),
                "rows": In(data.ArrayLayout(range(section.rows), g.rows_per_cycle)),
                "enable": In(g.rows_per_cycle),
                "row_data": Out(answer),
                "any": In(answer),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.row_data.eq(self.any)
        return m


class FetchEquation(Elaboratable):
    """The lane array beside its definition: a sum per channel and step, row by row."""

    def __init__(self, module, geometry: Geometry) -> None:
        self.lanes, self.rows = module.LaneArray(geometry), AnyRows(geometry)
        lanes = self.lanes
        self.ports = [lanes.fetch.as_value(), lanes.fetch_valid, lanes.clear, self.rows.any.as_value()]

    def elaborate(self, platform):
        m = Module()
        m.submodules.lanes = lanes = self.lanes
        g, rows = lanes.geometry, self.rows
        bits = g.weight_bits

        # Rows are asked for in the fetch's cycle
        for port in range(g.rows_per_cycle):
            slot = lanes.fetch.slots[port]
            asked = lanes.fetch_valid & slot.valid
            claim(m, f"asked_{port}", (rows.enable[port] == asked) & (~asked | (rows.rows[port] == slot.row)))

        # A decision begins with a clear, the first one after a reset too
        begun = Signal()
        with m.If(lanes.clear):
            m.d.sync += begun.eq(1)
        m.d.comb += Assume(~lanes.fetch_valid | begun)

        # They come in the next, and are added to those of the same pass
        fetch1, valid1 = Signal.like(lanes.fetch), Signal()
        m.d.sync += [fetch1.eq(lanes.fetch), valid1.eq(lanes.fetch_valid)]
        last1 = valid1 & fetch1.last
        spikes = [Signal(range(g.d_mlp + 1), name=f"spikes{t}") for t in range(g.steps)]
        open_sums = [[Signal(g.pass_bits, name=f"open{c}_{t}") for t in range(g.steps)] for c in range(g.d_model)]
        passed = [[Signal(g.pass_bits, name=f"passed{c}_{t}") for t in range(g.steps)] for c in range(g.d_model)]
        for t in range(g.steps):
            gates = [
                valid1 & slot.valid & slot.spikes[t] for slot in (fetch1.slots[p] for p in range(g.rows_per_cycle))
            ]
            total = spikes[t] + sum(gates)
            m.d.comb += Assume(total <= g.d_mlp)  # a pass has no more rows
            m.d.sync += spikes[t].eq(Mux(last1 | lanes.clear, 0, total))
            for c in range(g.d_model):
                # offset to be unsigned; the offsets, one a spike, are taken off in the end
                weights = [rows.any[p][c * bits : (c + 1) * bits] ^ (1 << (bits - 1)) for p in range(g.rows_per_cycle)]
                added = open_sums[c][t] + sum(Mux(gate, w, 0) for gate, w in zip(gates, weights, strict=True))
                m.d.sync += open_sums[c][t].eq(Mux(last1 | lanes.clear, 0, added))
                with m.If(last1):
                    m.d.sync += passed[c][t].eq(added - (total << (bits - 1)))

        # The walker leaves a pass time to drain
        since = Signal(range(g.groups + 1), init=g.groups)
        with m.If(since != g.groups):
            m.d.sync += since.eq(since + 1)
        with m.If(lanes.fetch_valid & lanes.fetch.last):
            m.d.comb += Assume(since == g.groups)
            m.d.sync += since.eq(1 if g.groups > 1 else g.groups)

        # LATENCY cycles after its last fetch a pass drains, group by group, sums a cycle later
        info2, due = Signal.like(fetch1.info), Signal()
        m.d.sync += [info2.eq(Mux(last1, fetch1.info, info2)), due.eq(last1)]
        info3, groups_left = Signal.like(info2), Signal(range(g.groups + 1))
        m.d.sync += groups_left.eq(Mux(due, g.groups, Mux(groups_left == 0, 0, groups_left - 1)))
        draining = groups_left != 0
        number = Signal(range(g.groups))
        m.d.comb += number.eq(g.groups - groups_left)
        with m.If(due):
            m.d.sync += info3.eq(info2)
        claim(m, "valid", lanes.o_valid == draining)
        claim(m, "group", ~draining | ((lanes.o_group == number) & (lanes.o_last == (groups_left == 1))))
        claim(m, "info", ~draining | (lanes.o_info.as_value() == info3.as_value()))
        kept = [[Signal(signed(g.pass_bits), name=f"kept{c}_{t}") for t in range(g.steps)] for c in range(g.d_model)]
        drained = Signal()
        m.d.sync += drained.eq(draining)
        for c in range(g.d_model):
            for t in range(g.steps):
                with m.If(due):
                    m.d.sync += kept[c][t].eq(passed[c][t])
        for c in range(g.group):
            for t in range(g.steps):
                of_group = Signal(signed(g.pass_bits), name=f"of_group{c}_{t}")
                for group in range(g.groups):
                    with m.If(draining & (number == group)):
                        m.d.sync += of_group.eq(kept[group * g.group + c][t])
                claim(m, f"sum_{c}_{t}", ~drained | (lanes.o[c][t] == of_group))
        return m


def verdict(module, name, monkeypatch):
    geometry = GEOMETRIES[name]
    monkeypatch.setattr(hw.words, "WORD_BITS", WORD_BITS.get(name, hw.words.WORD_BITS))
    design = FetchEquation(module, geometry)
    monkeypatch.setattr(module, "WeightRows", lambda g: design.rows)
    return prove(design, design.ports, depth=CYCLES + 2 * (geometry.groups - 1), mode="bmc")


@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_fetched_row_is_in_the_sums_of_its_pass(name, monkeypatch):
    found = verdict(hw.lanes, name, monkeypatch)
    assert found.status == "PASS", found.log


@pytest.mark.parametrize(
    ("old", "new", "name", "failed"),
    [
        (
            "weights.enable[port].eq(self.fetch_valid & slot.valid)",
            "weights.enable[port].eq(slot.valid)",
            "a row",
            "asked",
        ),
        (
            "gate.eq(slot.spikes & (valid1 & slot.valid)",
            "gate.eq(slot.spikes & (valid1 | slot.valid)",
            "two rows",
            "sum",
        ),
        ("clears[b].eq(last1 | self.clear)", "clears[b].eq(last1)", "a row", "sum"),
        ("clears[b].eq(last1 | self.clear)", "clears[b].eq(self.clear)", "two rows", "sum"),
        ("captures[b].eq(last1)", "captures[b].eq(valid1)", "two rows", "sum"),
        ("adds[b].eq(valid1)", "adds[b].eq(last1)", "two rows", "sum"),
        ("(odd & ~even, rows[w][p + 1])", "(odd & ~even, pairs[w][p // 2])", "four rows", "sum"),
        ("(even & ~odd, rows[w][p])", "(even, rows[w][p])", "two rows", "sum"),
        ("words.part(added, lanes, of_sum)", "words.part(added, lanes, lanes)", "a lane a word", "sum"),
        ("count << (bits - 1)", "count << bits", "a row", "sum"),
        ("info3.eq(info2), draining.eq(1)", "info3.eq(fetch1.info), draining.eq(1)", "a row", "info"),
        ("m.If(number == g.groups - 1)", "m.If(number == 0)", "a row", "valid"),
        ("lane = index * g.group + c", "lane = c", "a row", "sum"),
    ],
    ids=[
        *("asks-when-told-nothing", "adds-when-told-nothing", "keeps-the-last-decision", "keeps-the-last-pass"),
        *(
            "forgets-rows",
            "adds-the-last-rows-alone",
            "adds-both-for-one",
            "first-with-both",
            "first-word-twice",
            "offset-twice",
            "next-info",
            "one-group-only",
            "first-group-always",
        ),
    ],
)
def test_the_proof_finds_a_planted_defect(old, new, name, failed, monkeypatch):
    found = verdict(mutant(hw.lanes, old, new), name, monkeypatch)
    assert found.status == "FAIL", found.log
    assert all(claimed.startswith(failed) for claimed in found.failed), found.failed
