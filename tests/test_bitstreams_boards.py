# SPDX-License-Identifier: MIT
"""Boards: clocks that the processor's dividers give exactly; the handoff file, read by PYNQ's own parser."""

from fractions import Fraction

import pytest
from pynqmetadata.frontends import Metadata
from pynqmetadata.views.runtime.runtime_metadata_parser import RuntimeMetadataParser

from bitstreams.boards import BOARDS, ClockError
from bitstreams.hwh import CELL, VLNV, handoff


@pytest.mark.parametrize(
    ("board", "exact"),
    [
        ("pynq-z2", {"250": 4, "200": 5, "166.667": 6, "142.857": 7, "125": 8, "100": 10, "50": 20}),
        ("zcu104", {"300": 5, "250": 6, "187.5": 8, "150": 10, "125": 12, "100": 15, "75": 20}),
    ],
)
def test_clocks_are_the_pll_over_two_dividers(board, exact):
    clocks = {str(clock): clock for clock in BOARDS[board].clocks()}
    for name, divisor in exact.items():
        clock = clocks[name]
        assert clock.divisor0 * clock.divisor1 == divisor
        assert clock.mhz == Fraction(BOARDS[board].pll_mhz, divisor)
    for clock in clocks.values():
        assert 1 <= clock.divisor1 <= clock.divisor0 <= 63
        assert clock.mhz * clock.divisor0 * clock.divisor1 == BOARDS[board].pll_mhz
        assert 10 <= clock.mhz <= BOARDS[board].most_mhz
    # 67 is a prime over 63: no two dividers make it
    assert Fraction(BOARDS[board].pll_mhz, 67) not in {clock.mhz for clock in clocks.values()}
    assert str(BOARDS[board].clock(BOARDS[board].default_mhz)) == "100"


@pytest.mark.parametrize("typed", [166.67, 166.667, 166.6667])
def test_a_clock_may_be_typed_rounded(typed):
    assert BOARDS["pynq-z2"].clock(typed).mhz == Fraction(1000, 6)


@pytest.mark.parametrize(
    ("board", "typed", "says"),
    [
        ("pynq-z2", 120, "100, 111.111, 125, 142.857"),
        ("pynq-z2", 187.5, "142.857, 166.667, 200, 250"),
        ("pynq-z2", 1000, "the nearest are 200, 250$"),
        ("zcu104", 200, "166.667, 187.5, 214.286, 250"),
        ("zcu104", 0, "the nearest are 10.1[0-9]*, 10$|the nearest are 10, 10.1"),
    ],
)
def test_another_clock_is_refused_with_the_nearest(board, typed, says):
    with pytest.raises(ClockError, match=says):
        BOARDS[board].clock(typed)


def test_pynq_reads_the_handoff_file(tmp_path):
    board = BOARDS["pynq-z2"]
    path = tmp_path / "spikeloop.hwh"
    path.write_text(handoff(board, board.clock(125)))
    parsed = RuntimeMetadataParser(Metadata(input=str(path)))
    found = parsed.ip_dict[CELL]
    assert (found["type"], found["phys_addr"], found["addr_range"]) == (VLNV, 0x4000_0000, 0x1_0000)
    assert set(parsed.ip_dict) == {CELL, "ps"}
    clock = parsed.clock_dict[0]
    assert (clock["enable"], clock["divisor0"] * clock["divisor1"]) == (1, 8)
    assert [parsed.clock_dict[index]["enable"] for index in (1, 2, 3)] == [0, 0, 0]
