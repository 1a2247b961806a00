# SPDX-License-Identifier: MIT
"""Print what routed circuits take of their device, beside yosys' estimate, and what limits their clocks."""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hw.generate import verilog
from hw.report import DEVICES, per_unit, synthesise
from hw.synthesis import SynthesisError
from model.deployed.geometry import Geometry, GeometryError

SHIPPED = Path(__file__).resolve().parent

FAMILIES = {"pynq-z2": "xc7", "zcu104": "xcup"}
"""Board -> family in yosys."""

ROWS = {
    "lut": ("lut", "lut6"),
    "slices": ("slices",),
    "ff": ("ff", "SLICE_FFX"),
    "bram36": ("bram36", "RAMB36E1"),
    "bram18": ("RAMB18E1",),
    "dsp": ("dsp", "DSP48E1"),
}
"""Row of the table -> its names in a manifest: Vivado's, and those of nextpnr-xilinx and its .fasm."""


def routed(utilisation: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return a manifest's utilisation by the table's rows, those it has."""
    found = {
        row: next((utilisation[name] for name in names if name in utilisation), None) for row, names in ROWS.items()
    }
    return {row: used for row, used in found.items() if used}


def table(facts: dict[str, Any], estimate: dict[str, float]) -> Iterable[str]:
    """Yield the lines on one manifest. estimate : hw.report's total of the same circuit."""
    tools = ", ".join(f"{tool} {number}" for tool, number in facts["tools"].items())
    yield f"{facts['name']} on {facts['board']} ({facts['part']}), {tools}, seed {facts['seed']}"
    yield f"  {'':<10}{'estimate':>10}{'routed':>10}{'of':>10}"
    for row, used in routed(facts["utilisation"]).items():
        expected = f"{estimate[row]:g}" if row in estimate else ""
        share = used["used"] / used["available"]
        yield f"  {row:<10}{expected:>10}{used['used']:>10g}{used['available']:>10g}{share:>8.1%}"
    clock = f"{facts['clock_mhz']:g} MHz, reaches {facts['fmax_mhz']:g} MHz"
    yield f"  clock {clock}, verified on a board: {'yes' if facts['verified_on_board'] else 'no'}"
    for path in facts["worst_paths"]:
        yield f"  {path['delay_ns']:.1f} ns from {path['start_unit']} to {path['end_unit']}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bitstreams.report",
        description="Print every bitstream's manifest below a folder: places on the device beside yosys' estimate "
        "(python -m hw.report; minutes the first time), clock, and the worst paths by unit.",
    )
    parser.add_argument(
        "--folder", type=Path, default=SHIPPED, metavar="DIR", help="as bitstreams.build --out (default: the shipped)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the tables to FILE too")
    options = parser.parse_args(arguments)
    found = []
    try:
        manifests = sorted(options.folder.glob("*/*.json"))
        if not manifests:
            raise FileNotFoundError(f"no manifest below {options.folder}; build a bitstream first (bitstreams.build)")
        for path in manifests:
            try:
                facts = json.loads(path.read_text())
                family, geometry = FAMILIES[facts["board"]], Geometry.from_json(json.dumps(facts["geometry"]))
            except (KeyError, ValueError):
                raise SynthesisError(f"{path} is no manifest of a bitstream; move it away") from None
            print(f"synthesising {facts['name']} for {DEVICES[family][0]} ...", file=sys.stderr, flush=True)
            estimate = per_unit(synthesise(verilog(geometry), family))["total"]
            print("\n".join(table(facts, estimate)), end="\n\n")
            found.append({**facts, "estimate": estimate, "routed": routed(facts["utilisation"])})
        if options.json:
            options.json.write_text(json.dumps(found, indent=2) + "\n")
    except (GeometryError, SynthesisError, OSError) as error:
        print(f"bitstreams.report: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
