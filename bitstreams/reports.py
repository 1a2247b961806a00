# SPDX-License-Identifier: MIT
"""What a toolchain says of a placed and routed circuit: clock, worst paths by unit, what it takes of the device."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from hw.report import OPTIONAL_UNITS, UNITS

PATHS = 10
"""Worst paths that are kept."""


class ReportError(RuntimeError):
    """A report that does not read as it should; the message says which line is missing."""


@dataclass(frozen=True)
class WorstPath:
    """A register-to-register path. Slack is None where the tool gives only the delay."""

    start: str
    end: str
    start_unit: str
    end_unit: str
    delay_ns: float
    slack_ns: float | None


@dataclass(frozen=True)
class Timing:
    """Of the circuit's clock. fmax_mhz : what it would reach. hold_slack_ns is None where the tool does not say."""

    fmax_mhz: float
    met: bool
    paths: tuple[WorstPath, ...]
    setup_slack_ns: float
    hold_slack_ns: float | None


def unit(cell: str) -> str:
    """Return the unit of the resource table that a cell or pin belongs to by its name, else `other`."""
    name = cell.replace("/", ".").replace("\\", "")
    for row, place in (UNITS | OPTIONAL_UNITS).items():
        if f"accelerator.{place}." in name:
            return row
    return "other"


def _number(pattern: str, text: str, what: str) -> float:
    match = re.search(pattern, text, re.MULTILINE)
    if not match:
        raise ReportError(f"there is no {what} in the report; has the tool's format changed?")
    return float(match[1])


# Vivado


def vivado_timing(summary: str, paths: str, period_ns: float) -> Timing:
    """Read `report_timing_summary` and `report_timing -max_paths`. Raises `ReportError`."""
    table = re.search(r"\| Design Timing Summary.*?^\s*-+ [- ]*$\n\s*(.*?)$", summary, re.MULTILINE | re.DOTALL)
    header = re.search(r"^\s*WNS\(ns\).*$", summary, re.MULTILINE)
    if not table or not header:
        raise ReportError("there is no Design Timing Summary in the report; has the tool's format changed?")
    names = re.split(r"\s{2,}", header[0].strip())
    values = dict(zip(names, table[1].split(), strict=False))
    if not {"WNS(ns)", "WHS(ns)"} <= set(values) or "NA" in (values["WNS(ns)"], values["WHS(ns)"]):
        raise ReportError("the report has no slacks: the circuit has no clock constraint")
    setup, hold = float(values["WNS(ns)"]), float(values["WHS(ns)"])
    failing = [name for name in names if name.endswith("Failing Endpoints") and int(values[name])]
    found = []
    for block in re.split(r"^(?=Slack )", paths, flags=re.MULTILINE)[1:]:
        slack = _number(r"^Slack \(\w+\) :\s+(-?[\d.]+)ns", block, "slack of a path")
        start, end = (re.search(rf"^\s*{name}:\s+(\S+)", block, re.MULTILINE) for name in ("Source", "Destination"))
        if not start or not end:
            raise ReportError("a path in the report has no source or no destination; has the tool's format changed?")
        delay = _number(r"^\s*Data Path Delay:\s+([\d.]+)ns", block, "delay of a path")
        found.append(WorstPath(start[1], end[1], unit(start[1]), unit(end[1]), delay, slack))
    if not found:
        raise ReportError("there is no path in the report; has the tool's format changed?")
    return Timing(
        fmax_mhz=round(1000 / (period_ns - setup), 2),
        met=setup >= 0 and hold >= 0 and not failing,
        paths=tuple(sorted(found, key=lambda path: path.slack_ns or 0.0)[:PATHS]),
        setup_slack_ns=setup,
        hold_slack_ns=hold,
    )


VIVADO_ROWS = {
    "lut": r"(?:Slice|CLB) LUTs\*?",
    "ff": r"(?:Slice|CLB) Registers",
    "bram36": r"Block RAM Tile",
    "uram": r"URAM",
    "dsp": r"DSPs",
}


def vivado_utilisation(text: str) -> dict[str, dict[str, float]]:
    """Read `report_utilization`: resource -> used and available. Raises `ReportError`."""
    header = re.search(r"^\|\s*Site Type\s*\|(.*)\|\s*$", text, re.MULTILINE)
    if not header:
        raise ReportError("there is no table in the utilisation report; has the tool's format changed?")
    columns = [column.strip() for column in header[1].split("|")]
    found = {}
    for name, row in VIVADO_ROWS.items():
        match = re.search(rf"^\|\s*{row}\s*\|(.*)\|\s*$", text, re.MULTILINE)
        if match:
            cells = dict(zip(columns, (cell.strip() for cell in match[1].split("|")), strict=True))
            found[name] = {"used": float(cells["Used"]), "available": float(cells["Available"])}
        elif name != "uram":  # which 7-series devices do not have
            raise ReportError(f"there is no {name} in the utilisation report; has the tool's format changed?")
    return found


# nextpnr-xilinx, which has a log and no machine-readable report


def register_names(netlist: str) -> dict[str, str]:
    """Return flip-flop -> the signal it holds, of a netlist that yosys wrote as JSON: it names cells by numbers."""
    names: dict[str, str] = {}
    for module in json.loads(netlist)["modules"].values():
        signals: dict[int, str] = {}
        # names of the source before those that yosys made up
        for name, wire in sorted(module["netnames"].items(), key=lambda item: (item[0].startswith("$"), item[0])):
            for index, bit in enumerate(wire["bits"]):
                signals.setdefault(bit, f"{name}[{index}]" if len(wire["bits"]) > 1 else name)
        for name, cell in module["cells"].items():
            if name.startswith("$") and cell["type"].startswith("FD"):
                names[name] = signals[cell["connections"]["Q"][0]]
    return names


def nextpnr_timing(log: str, mhz: float, names: Mapping[str, str] = MappingProxyType({})) -> Timing:
    """Read the log's last timing analysis: clock after routing, and the critical paths it prints.

    names : cell -> a better name. Raises `ReportError`. Hold is not analysed by the tool.
    """

    def named(pin: str) -> str:
        cell, _, port = pin.rpartition(".")
        return f"{names.get(cell, cell)}.{port}"

    clocks = re.findall(r"Max frequency for clock\s+'([^']+)': ([\d.]+) MHz \((PASS|FAIL) at ([\d.]+) MHz\)", log)
    if not clocks:
        raise ReportError("nextpnr's log has no `Max frequency for clock`; has the tool's format changed?")
    # the log has one analysis after placing and one after routing: the last line of each clock counts
    last = {name: (float(reached), word == "PASS") for name, reached, word, _ in clocks}
    reached, met = min(last.values())
    found = []
    for block in re.split(r"Critical path report for ", log)[1:]:
        source = re.search(r"^Info:\s+[\d.]+\s+[\d.]+\s+Source (\S+)$", block, re.MULTILINE)
        # a path ends with the setup of a register, or where nothing is known of the setup, at its last sink
        ends = re.findall(r"^Info:\s+(?:[\d.]+\s+[\d.]+\s+Setup|Sink) (\S+)$", block, re.MULTILINE)
        totals = re.findall(r"^Info:\s+[\d.]+\s+([\d.]+)\s+(?:Source|Net|Setup) ", block, re.MULTILINE)
        if source and ends:
            start, end = named(source[1]), named(ends[-1])
            found.append(WorstPath(start, end, unit(start), unit(end), float(totals[-1]), None))
    if not found:
        raise ReportError("nextpnr's log has no critical path; has the tool's format changed?")
    return Timing(
        fmax_mhz=reached,
        met=met and reached >= mhz,
        paths=tuple(sorted(found, key=lambda path: -path.delay_ns)[:PATHS]),
        setup_slack_ns=round(1000 / mhz - 1000 / reached, 3),
        hold_slack_ns=None,
    )


def nextpnr_utilisation(log: str) -> dict[str, dict[str, float]]:
    """Read the log's device utilisation: kind of site -> used and available, those in use. Raises `ReportError`."""
    at = log.rfind("Device utilisation:")
    rows = re.findall(r"^Info:\s+(\w+):\s+(\d+)/\s*(\d+)\s+\d+%\s*$", log[at:], re.MULTILINE) if at >= 0 else []
    if not rows:
        raise ReportError("nextpnr's log has no `Device utilisation`; has the tool's format changed?")
    return {name: {"used": float(used), "available": float(there)} for name, used, there in rows if int(used)}


SLICES = {"lut6": (r"\.[ABCD]LUT", 53_200), "slices": ("", 13_300)}
"""Kind of site -> its name in a slice, and how many the xc7z020 has (DS190)."""


def fasm_utilisation(text: str) -> dict[str, dict[str, float]]:
    """Count the slices of a .fasm and their places for a six-input LUT, two small LUTs or a carry bit's way through.

    nextpnr counts LUTs before two share a place, yosys before a carry bit takes one.
    """
    found = {}
    for name, (site, there) in SLICES.items():
        used = set(re.findall(rf"^(CLB\w+\.SLICE[LM]_X[01]{site})\.", text, re.MULTILINE))
        found[name] = {"used": float(len(used)), "available": float(there)}
    return found
