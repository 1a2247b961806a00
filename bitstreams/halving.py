# SPDX-License-Identifier: MIT
"""A first placement by halving: cells and device are cut in two again and again, with the fewest nets across each cut.

`python -m bitstreams.halving NETLIST PLACES` reads what a placer wrote and writes a wanted place for each cell, in the
text formats of docs/bitstreams.md. A cell is a chain of cells that stay together. Places need not be legal: the
placer's legaliser takes the nearest free ones. Cuts are made by Mt-KaHyPar (Gottesbüren et al., 2024).
"""

import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bitstreams.tools import say

IntArray = npt.NDArray[np.int64]

ROW_HEIGHT = 2
"""Units of wire that a row of the device counts, where a column counts one."""

LEAF_CELLS = 24
"""Regions of at most as many cells are cut no further: their cells are wanted in the middle."""

BLOCKS = {"RAMB36E1_RAMB36E1": ("ram", 2), "RAMB18E1_RAMB18E1": ("ram", 1), "DSP48E1_DSP48E1": ("dsp", 1)}
"""Kind and halves of a block RAM, or multipliers, of the cells that have columns of their own."""

LOGIC = {"SLICE_LUTX": 10, "SLICE_FFX": 3}
"""Weights of half a LUT and a flip-flop in the cut of the logic."""


class NetlistError(ValueError):
    """A netlist that cannot be placed, or nothing that could place it."""


@dataclass
class Netlist:
    """What a placer knows: cells, nets between them, and free places per tile."""

    fixed: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Column and row of the cells that do not move."""
    needs: list[dict[str, int]] = field(default_factory=list)
    """Per cell how many places of each kind it takes: logic, ram, dsp."""
    nets: list[list[int]] = field(default_factory=list)
    places: dict[str, dict[tuple[int, int], int]] = field(
        default_factory=lambda: {k: {} for k in ("logic", "ram", "dsp")}
    )
    """Per kind how many free places a tile (column, row) has."""


class Cut(Protocol):
    """Cut a hypergraph in two: nodes' weights, nets, fixed sides (-1 for free), most weight of each side; sides."""

    def __call__(
        self, weights: list[int], nets: list[list[int]], sides: list[int], most: tuple[int, int]
    ) -> list[int]: ...


def read(path: Path) -> Netlist:
    """Read a placer's netlist. Raises `NetlistError` with the line that is wrong."""
    netlist = Netlist()
    for number, line in enumerate(path.read_text().splitlines(), 1):
        word, *rest = line.split()
        try:
            if word == "net":
                netlist.nets.append([int(cell) for cell in rest])
            elif word == "places":
                x, y, kind, count = int(rest[0]), int(rest[1]), rest[2], int(rest[3])
                if kind == "SLICE_LUTX":
                    netlist.places["logic"][x, y] = count
                elif kind in ("RAMB36E1_RAMB36E1", "DSP48E1_DSP48E1"):
                    netlist.places[BLOCKS[kind][0]][x, y] = count * BLOCKS[kind][1]
            elif word == "cell":
                cell = int(rest[0])
                if cell != len(netlist.needs):
                    raise ValueError("cells are numbered from 0 in order")
                if rest[1] != "?":
                    netlist.fixed[cell] = (int(rest[1]), int(rest[2]))
                need = {"logic": 0, "ram": 0, "dsp": 0}
                for kind, count in zip(rest[3::2], rest[4::2], strict=True):
                    if kind in BLOCKS:
                        need[BLOCKS[kind][0]] += BLOCKS[kind][1] * int(count)
                    else:
                        need["logic"] += LOGIC.get(kind, 0) * int(count)
                netlist.needs.append(need)
            else:
                raise ValueError(f"no line begins with {word}")
        except (ValueError, IndexError) as error:
            raise NetlistError(f"{path}:{number}: {error}") from None
    unknown = sorted({cell for net in netlist.nets for cell in net if not 0 <= cell < len(netlist.needs)})
    if unknown:
        raise NetlistError(f"{path}: a net has cell {unknown[0]}, and there are {len(netlist.needs)} cells from 0 on")
    return netlist


def kahypar(seed: int) -> Cut:
    """Return Mt-KaHyPar's cut, on one thread."""
    try:
        import mtkahypar  # part of no environment of ours: only who places needs it
    except ImportError:
        raise NetlistError("cuts need Mt-KaHyPar: pip install mtkahypar") from None

    mtkahypar.set_seed(seed)
    partitioner = mtkahypar.initialize(1)
    context = partitioner.context_from_preset(mtkahypar.PresetType.DEFAULT)
    context.set_partitioning_parameters(2, 0.03, mtkahypar.Objective.CUT)

    def cut(weights: list[int], nets: list[list[int]], sides: list[int], most: tuple[int, int]) -> list[int]:
        graph = partitioner.create_hypergraph(context, len(weights), len(nets), nets, weights, [1] * len(nets))
        graph.add_fixed_vertices(sides, 2)
        context.set_individual_target_block_weights(list(most))
        parts = graph.partition(context)
        return [parts.block_id(node) for node in range(len(weights))]

    return cut


@dataclass
class Region:
    """A rectangle of tiles, columns x0 to x1 - 1 and rows y0 to y1 - 1, and the cells that are wanted in it."""

    x0: int
    y0: int
    x1: int
    y1: int
    cells: list[int] = field(default_factory=list)

    @property
    def middle(self) -> tuple[float, float]:
        """Column and row in the middle."""
        return (self.x0 + self.x1 - 1) / 2, (self.y0 + self.y1 - 1) / 2

    def of(self, places: IntArray) -> IntArray:
        """Return the region's part of an array over the device, (columns, rows)."""
        return places[self.x0 : self.x1, self.y0 : self.y1]


def halves(region: Region, logic: IntArray) -> tuple[Region, Region, bool, int] | None:
    """Return the halves of a region with about equally many places of logic, whether rows part, and the first of the
    second. None for places of logic in one tile or none."""
    x0, y0, x1, y1 = region.x0, region.y0, region.x1, region.y1
    inside = region.of(logic)
    for by_rows in (True, False) if ROW_HEIGHT * (y1 - y0) > x1 - x0 else (False, True):
        lines = inside.sum(axis=0 if by_rows else 1)
        if (lines > 0).sum() < 2:
            continue
        below = lines.cumsum()
        # the first line of the upper half, with places on either side
        at = min(
            np.flatnonzero((below[:-1] > 0) & (below[:-1] < below[-1])), key=lambda n: abs(2 * below[n] - below[-1])
        )
        if by_rows:
            middle = y0 + int(at) + 1
            return Region(x0, y0, x1, middle), Region(x0, middle, x1, y1), True, middle
        middle = x0 + int(at) + 1
        return Region(x0, y0, middle, y1), Region(middle, y0, x1, y1), False, middle
    return None


def place(netlist: Netlist, cut: Cut, leaf_cells: int = LEAF_CELLS) -> dict[int, tuple[int, int]]:
    """Return a wanted column and row for each cell that moves. Raises `NetlistError` if there are more than places."""
    tiles = [tile for places in netlist.places.values() for tile in places]
    if not tiles:
        raise NetlistError("the netlist names no places")
    moving = [cell for cell in range(len(netlist.needs)) if cell not in netlist.fixed]
    shape = max(x for x, _ in tiles) + 1, max(y for _, y in tiles) + 1
    whole = Region(0, 0, *shape, moving)
    room = {kind: np.zeros(shape, np.int64) for kind in netlist.places}
    for kind, places in netlist.places.items():
        for tile, count in places.items():
            room[kind][tile] = count
    for kind in ("ram", "dsp"):
        wanted, there = sum(netlist.needs[cell][kind] for cell in moving), int(room[kind].sum())
        if wanted > there:
            raise NetlistError(f"{wanted} places of {kind} are wanted and {there} are free")
    middles: list[tuple[float, float]] = [whole.middle] * len(netlist.needs)
    for cell, where in netlist.fixed.items():
        middles[cell] = where
    nets_of: list[list[int]] = [[] for _ in netlist.needs]
    for number, net in enumerate(netlist.nets):
        for cell in net:
            nets_of[cell].append(number)
    waiting = deque([whole])
    while waiting:
        region = waiting.popleft()
        if len(region.cells) <= leaf_cells or (parted := halves(region, room["logic"])) is None:
            continue
        low, high, by_rows, at = parted
        for cell, side in _sides(region, (low, high), by_rows, at, netlist, room, nets_of, middles, cut).items():
            half = high if side else low
            half.cells.append(cell)
            middles[cell] = half.middle
        waiting += [low, high]
    return {cell: (round(middles[cell][0]), round(middles[cell][1])) for cell in moving}


def _sides(
    region: Region,
    parts: tuple[Region, Region],
    by_rows: bool,
    at: int,
    netlist: Netlist,
    room: dict[str, IntArray],
    nets_of: list[list[int]],
    middles: list[tuple[float, float]],
    cut: Cut,
) -> dict[int, int]:
    """Return the side of each of a region's cells, 0 or 1: the cells with columns of their own first, then the rest."""
    index = {cell: node for node, cell in enumerate(region.cells)}
    low, high = len(index), len(index) + 1  # what lies outside, on each side
    nets = []
    for number in {net for cell in region.cells for net in nets_of[cell]}:
        inside = [index[cell] for cell in netlist.nets[number] if cell in index]
        outside = {int(middles[cell][by_rows] >= at) for cell in netlist.nets[number] if cell not in index}
        if len(outside) < 2 and len(inside) + len(outside) > 1:  # one with both sides outside is cut anyway
            nets.append(inside + [high if side else low for side in outside])
    fixed = [-1] * len(index) + [0, 1]
    for kind in ("ram", "dsp"):
        needs = [netlist.needs[cell][kind] for cell in region.cells]
        if not any(needs):
            continue
        rooms = [int(part.of(room[kind]).sum()) for part in parts]
        logic = [int(part.of(room["logic"]).sum()) for part in parts]
        total = sum(netlist.needs[cell]["logic"] for cell in region.cells)
        # a place of these weighs its share of the device's logic, so that both lie balanced
        each = max(1, sum(logic) * LOGIC["SLICE_LUTX"] // max(1, sum(rooms)))
        weights = [
            max(1, each * need + netlist.needs[cell]["logic"]) for need, cell in zip(needs, region.cells, strict=True)
        ]
        share = [(total + each * sum(needs)) * room / max(1, sum(logic)) for room in logic]
        sides = cut([*weights, 1, 1], nets, fixed, (int(share[0] * 1.1) + each * 2, int(share[1] * 1.1) + each * 2))
        _fit(needs, rooms, sides)
        fixed[: len(index)] = [
            side if need else old for side, need, old in zip(sides[:-2], needs, fixed[: len(index)], strict=True)
        ]
    weights = [max(1, netlist.needs[cell]["logic"]) for cell in region.cells]
    logic = [int(part.of(room["logic"]).sum()) for part in parts]
    share = [sum(weights) * room / max(1, sum(logic)) for room in logic]
    slack = max(max(weights, default=0), int(0.02 * sum(weights)))
    sides = cut([*weights, 1, 1], nets, fixed, (int(share[0]) + slack + 1, int(share[1]) + slack + 1))
    return {cell: sides[node] if fixed[node] < 0 else fixed[node] for cell, node in index.items()}


def _fit(needs: list[int], rooms: list[int], sides: list[int]) -> None:
    """Move cells over from the side that has more of them than places, the small ones first."""
    for side in (0, 1):
        excess = sum(need for need, at in zip(needs, sides, strict=False) if at == side) - rooms[side]
        for node in sorted((n for n, need in enumerate(needs) if need), key=lambda n: needs[n]):
            if excess <= 0:
                break
            if sides[node] == side:
                sides[node] = 1 - side
                excess -= needs[node]


def main(arguments: list[str]) -> int:
    """Run the command line."""
    if len(arguments) != 2:
        say("bitstreams.halving: give two files, NETLIST to read and PLACES to write")
        return 2
    try:
        netlist = read(Path(arguments[0]))
        places = place(netlist, kahypar(seed=1))
        Path(arguments[1]).write_text("".join(f"{cell} {x} {y}\n" for cell, (x, y) in places.items()))
    except (NetlistError, OSError) as error:
        say(f"bitstreams.halving: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
