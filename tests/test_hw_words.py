# SPDX-License-Identifier: MIT
"""How lanes lie side by side: fields apart from each other, in words that a simulator adds at once."""

import pytest
from amaranth.hdl import Const, Module, Signal
from amaranth.sim import Simulator

from hw.words import WORD_BITS, Words
from model.deployed.presets import PRESETS

GEOMETRIES = {name: geometry for name, geometry in PRESETS.items() if geometry.attention != "lrf-ssa"}


def overlap(fields: list[range]) -> bool:
    taken = [bit for field in fields for bit in field]
    return len(taken) != len(set(taken))


@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_lane_has_a_field_of_its_own(name):
    g, words = GEOMETRIES[name], Words.of(GEOMETRIES[name])
    for kind, bits in ((words.terms, words.term_bits), (words.sums, words.sum_bits)):
        assert sorted(lane for lanes in kind for lane in lanes) == list(range(g.d_model))
        for lanes in kind:
            fields = [range(at, at + bits) for at in (words.place(lanes, lane) for lane in lanes)]
            assert not overlap(fields)
            assert max(field.stop for field in fields) == words.width(lanes, bits)
    assert max(words.width(lanes, words.sum_bits) for lanes in words.sums) <= WORD_BITS
    assert all(any(set(sums) <= set(terms) for terms in words.terms) for sums in words.sums)


def test_the_default_circuit_adds_four_lanes_at_once_from_words_of_eight():
    words = Words.of(PRESETS["HOPPER_Z2"])
    assert [len(words.sums), len(words.terms)] == [32, 16]
    assert [words.lanes, words.spacing, words.term_spacing] == [4, 4, 2]


@pytest.mark.parametrize("name", ["TINY", "ODD", "HOPPER_Z2", "WIDE"])
def test_a_row_that_is_spread_and_added_adds_its_weights(name):
    """Three times the same row on sums that are there: each lane has its own weight, offset, three times more."""
    g, words = GEOMETRIES[name], Words.of(GEOMETRIES[name])
    sign = 1 << (g.weight_bits - 1)
    weights = [(7 * lane + 3) % (2 * sign) - sign for lane in range(g.d_model)]
    row = Const(sum((w % (2 * sign)) << (lane * g.weight_bits) for lane, w in enumerate(weights)))
    m, found = Module(), []
    for lanes in words.terms:
        terms = Signal(words.width(lanes, words.term_bits))
        m.d.comb += terms.eq(words.spread(row, lanes))
        for sums in words.sums:
            if sums.start in lanes:
                total = Signal(words.width(sums, words.sum_bits))
                m.d.comb += total.eq(sum(words.part(terms, lanes, sums) for _ in range(3)))
                found.append((sums, total))

    async def look(context):
        for sums, total in found:
            fields = context.get(total)
            for lane in sums:
                field = fields >> words.place(sums, lane) & ((1 << words.sum_bits) - 1)
                assert field == 3 * (weights[lane] + sign), lane

    simulator = Simulator(m)
    simulator.add_testbench(look)
    simulator.run()


def test_what_is_above_the_low_bits_of_a_term_goes():
    words = Words(d_model=6, weight_bits=2, sum_bits=8, term_bits=4)
    lanes = words.terms[0]
    m, low = Module(), Signal(words.width(lanes, 4))
    m.d.comb += low.eq(words.low(Const(0b1011 | 0b0110 << 4 | 0b1101 << 8), lanes, 3))

    async def look(context):
        assert context.get(low) == 0b011 | 0b110 << 4 | 0b101 << 8

    simulator = Simulator(m)
    simulator.add_testbench(look)
    simulator.run()
