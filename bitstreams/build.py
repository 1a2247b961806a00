# SPDX-License-Identifier: MIT
"""Build a bitstream for a board, or write all that its toolchain needs."""

import argparse
import json
import sys
from pathlib import Path

from bitstreams import openxc7, vivado
from bitstreams.boards import BOARDS, Clock, ClockError
from bitstreams.publish import publish
from bitstreams.tools import BuildError
from hw.generate import read_geometry, verilog
from hw.synthesis import SynthesisError
from model.deployed.geometry import GeometryError

WORK = Path(__file__).resolve().parent.parent / "build" / "bitstreams"

DEFAULT_SEED = 1

FASTEST = "fastest"
"""In place of a clock: the fastest exact one that the routed circuit reaches."""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m bitstreams.build",
        description="Build a geometry's bitstream: OUT/BOARD/NAME-DIGEST.bit, .hwh and .json. Scripts, logs and "
        "reports stay in build/bitstreams/. A build that fails or misses its clock leaves nothing in OUT. "
        "docs/bitstreams.md says what each toolchain needs.",
    )
    parser.add_argument("--board", choices=BOARDS, required=True)
    parser.add_argument("--geometry", default="HOPPER_Z2", help="preset, or a .json file (default: %(default)s)")
    parser.add_argument(
        "--clock",
        type=_clock,
        metavar="MHZ",
        help="of the circuit, one that the board's PLL gives exactly (default: 100); with openxc7 also `fastest`: the "
        "fastest of those that the circuit reaches, once it is routed",
    )
    parser.add_argument("--toolchain", choices=("vivado", "openxc7"), default="vivado", help="default: %(default)s")
    parser.add_argument("--toolchain-root", type=Path, metavar="DIR", help="where it is installed, besides the PATH")
    parser.add_argument("--scripts-only", action="store_true", help="write what the toolchain needs, do not run it")
    parser.add_argument("--seed", type=int, help=f"of nextpnr's placement (default: {DEFAULT_SEED}); vivado has none")
    parser.add_argument(
        "--out", type=Path, default=Path("bitstreams"), metavar="DIR", help="folder (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the manifest to FILE too")
    options = parser.parse_args(arguments)
    if options.seed is not None and options.toolchain == "vivado":
        parser.error("--seed is for --toolchain openxc7: vivado has no seed")
    if options.clock == FASTEST and options.toolchain == "vivado":
        parser.error("--clock fastest is for --toolchain openxc7: vivado routes for one clock")
    if options.json and options.scripts_only:
        parser.error("--json is for the manifest, which --scripts-only does not make")
    return options


def _clock(text: str) -> float | str:
    return text if text == FASTEST else float(text)


def build(options: argparse.Namespace) -> None:
    """Do what the options say. Raises `BuildError`, `ClockError`, `GeometryError`, `OSError`."""
    board = BOARDS[options.board]
    fastest = options.clock == FASTEST
    clock: Clock = board.clock(board.default_mhz if fastest or options.clock is None else options.clock)
    geometry = read_geometry(options.geometry)
    name = Path(options.geometry).stem
    folder = WORK / f"{board.name}-{name.lower()}-{FASTEST if fastest else clock}-{options.toolchain}"
    folder.mkdir(parents=True, exist_ok=True)
    text = verilog(geometry)
    if options.toolchain == "vivado":
        files = vivado.write(board, clock, geometry, text, folder)
    else:
        files = openxc7.write(board, clock, geometry, folder)
    for path in files:
        print(path)
    if options.scripts_only:
        return
    if options.toolchain == "vivado":
        outcome = vivado.build(board, clock, folder, options.toolchain_root)
    else:
        seed = DEFAULT_SEED if options.seed is None else options.seed
        outcome = openxc7.build(board, clock, folder, options.toolchain_root, seed, any_clock=fastest)
        if fastest:
            outcome, clock = openxc7.fit(outcome, board)
    path = publish(outcome, name, board, clock, geometry, text, options.out)
    print(path)
    timing = outcome.timing
    print(f"{' '.join(f'{tool} {number}' for tool, number in outcome.tools.items())}: {clock} MHz, ", end="")
    print(f"reaches {timing.fmax_mhz:g} MHz, not verified on a board")
    if options.json:
        options.json.write_text(json.dumps(json.loads(path.read_text()), indent=2) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    options = parse(arguments)
    try:
        build(options)
    except (BuildError, ClockError, GeometryError, SynthesisError, OSError) as error:
        print(f"bitstreams.build: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
