"""First placements by halving, with a small cut of this file's own in place of Mt-KaHyPar's."""

import pytest

from bitstreams.halving import NetlistError, main, place, read

LOGIC, RAM, DSP = "SLICE_LUTX", "RAMB36E1_RAMB36E1", "DSP48E1_DSP48E1"


def cut(weights, nets, sides, most):
    """Fill side 0 up to its share, always with the free cell that most of its nets pull there."""
    sides = list(sides)
    share = sum(weights) * most[0] / sum(most)
    filled = sum(weight for weight, side in zip(weights, sides, strict=True) if side == 0)
    nets_of = [[net for net in nets if cell in net] for cell in range(len(weights))]
    while free := [cell for cell, side in enumerate(sides) if side < 0 and filled + weights[cell] <= share]:

        def pull(cell):
            return sum(any(sides[end] == s for end in net) * (1 - 2 * s) for net in nets_of[cell] for s in (0, 1))

        best = max(free, key=pull)
        sides[best] = 0
        filled += weights[best]
    return [1 if side < 0 else side for side in sides]


def device(columns=24, rows=8):
    """Return lines of a device: logic, and in column 5 block RAM and multipliers."""
    return [
        line
        for x in range(columns)
        for y in range(rows)
        for line in (
            [f"places {x} {y} {RAM} 1", f"places {x} {y} {DSP} 1"] if x == 5 else [f"places {x} {y} {LOGIC} 16"]
        )
    ]


def netlist(tmp_path, lines):
    path = tmp_path / "netlist.txt"
    path.write_text("".join(f"{line}\n" for line in [*device(), *lines]))
    return read(path)


def two_clusters():
    """Return lines of two clusters of 40 cells, each tied to a fixed cell at an end of the device."""
    cells = ["cell 0 0 4 PS7 1", "cell 1 23 4 PS7 1", *(f"cell {n} ? ? {LOGIC} 4" for n in range(2, 82))]
    ties = [f"net {n % 2} {n}" for n in range(2, 82)] + [f"net {n} {n + 2}" for n in range(2, 80)]
    return cells + ties


def test_cells_are_wanted_where_their_nets_pull_them(tmp_path) -> None:
    wanted = place(netlist(tmp_path, two_clusters()), cut)
    assert sorted(wanted) == list(range(2, 82))  # those that are fixed have no wanted place
    left = [wanted[n][0] for n in range(2, 82, 2)]
    right = [wanted[n][0] for n in range(3, 82, 2)]
    assert sum(left) / 40 < 10 < 13 < sum(right) / 40


def test_logic_is_spread_as_the_free_places_are(tmp_path) -> None:
    wanted = place(netlist(tmp_path, two_clusters()), cut)
    below = sum(1 for x, _ in wanted.values() if x < 12)
    assert 30 <= below <= 50
    assert len(set(wanted.values())) >= 4


@pytest.mark.parametrize("kind", [RAM, DSP])
def test_blocks_never_outnumber_their_places_on_a_side(tmp_path, kind) -> None:
    # eight blocks for eight places, all pulled to the lower end
    lines = ["cell 0 5 0 PS7 1", *(f"cell {n} ? ? {kind} 1" for n in range(1, 9))]
    lines += [f"cell {n} ? ? {LOGIC} 1" for n in range(9, 60)] + [f"net 0 {n}" for n in range(1, 60)]
    wanted = place(netlist(tmp_path, lines), cut, leaf_cells=1)
    assert sum(wanted[n][1] < 4 for n in range(1, 9)) == 4


def test_more_blocks_than_places_are_refused(tmp_path) -> None:
    lines = [f"cell {n} ? ? {RAM} 1" for n in range(9)]
    with pytest.raises(NetlistError, match="18 places of ram are wanted and 16 are free"):
        place(netlist(tmp_path, lines), cut)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("cell 1 ? ? SLICE_LUTX 1", "cells are numbered from 0 in order"),
        ("wire 1 2", "no line begins with wire"),
        ("places 1 x SLICE_LUTX 2", "invalid literal"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, capsys, line, says) -> None:
    (tmp_path / "bad.txt").write_text(f"{line}\n")
    assert main([str(tmp_path / "bad.txt"), str(tmp_path / "out.txt")]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "bad.txt:1" in said
    assert not (tmp_path / "out.txt").exists()


def test_a_net_of_an_unknown_cell_is_refused(tmp_path, capsys):
    (tmp_path / "net.txt").write_text(f"places 0 0 {LOGIC} 16\ncell 0 ? ? {LOGIC} 1\nnet 0 7\n")
    assert main([str(tmp_path / "net.txt"), str(tmp_path / "out.txt")]) == 2
    assert "a net has cell 7, and there are 1 cells from 0 on" in capsys.readouterr().err
