# SPDX-License-Identifier: MIT
"""The bitstream by AMD's Vivado: a block design around the processor, from a script that vivado runs by itself."""

import os
from pathlib import Path

from bitstreams.boards import Board, Clock
from bitstreams.hwh import MODULE
from bitstreams.publish import Outcome, require_met
from bitstreams.reports import PATHS, ReportError, vivado_timing, vivado_utilisation
from bitstreams.tools import BuildError, find_program, run, version
from hw.axi import AxiLite
from hw.generate import TOP
from hw.registers import WINDOW_BYTES
from model.deployed.geometry import Geometry

SCRIPT = Path(__file__).with_name("vivado.tcl")

DIRECTIONS = {"Out": "input ", "In": "output"}
"""Of the bus manager's ports -> the circuit's."""


def wrapper(address_bits: int) -> str:
    """Return the Verilog module that Vivado's block design refers to: the circuit under the names that it looks for."""
    members = AxiLite(address_bits).members
    ports, wires = [], []
    for name, member in members.items():
        width = f"[{member.shape - 1}:0] " if member.shape > 1 else ""
        # what these say of the interface, Vivado would otherwise guess from the names
        info = f'(* X_INTERFACE_INFO = "xilinx.com:interface:aximm:1.0 s_axi {name.upper()}" *)'
        ports.append(f"    {info}\n    {DIRECTIONS[member.flow.name]} wire {width}s_axi_{name}")
        wires.append(f"        .s_axil__{name}(s_axi_{name})")
    clock = "xilinx.com:signal:clock:1.0 s_axi_aclk CLK"
    reset = "xilinx.com:signal:reset:1.0 s_axi_aresetn RST"
    text = [
        "// The circuit as a peripheral of a Vivado block design. Written by `python -m bitstreams.build`.",
        f"module {MODULE} (",
        f'    (* X_INTERFACE_INFO = "{clock}" *)',
        '    (* X_INTERFACE_PARAMETER = "ASSOCIATED_BUSIF s_axi, ASSOCIATED_RESET s_axi_aresetn" *)',
        "    input  wire s_axi_aclk,",
        f'    (* X_INTERFACE_INFO = "{reset}" *)',
        '    (* X_INTERFACE_PARAMETER = "POLARITY ACTIVE_LOW" *)',
        "    input  wire s_axi_aresetn,",
        ",\n".join(ports),
        ");",
        f"    {TOP} circuit (",
        "        .clk(s_axi_aclk),",
        "        .rst(!s_axi_aresetn),",
        ",\n".join(wires),
        "    );",
        "endmodule",
    ]
    return "\n".join(text) + "\n"


def settings(board: Board, clock: Clock) -> str:
    """Return the Tcl that vivado.tcl reads: everything that depends on the board and the clock."""
    mhz = f"{float(clock.mhz):.6f}"
    if board.ps == "processing_system7":
        automation = 'make_external "FIXED_IO, DDR" apply_board_preset "1" Master "Disable" Slave "Disable"'
        configuration = {
            "PCW_USE_M_AXI_GP0": "1",
            "PCW_CRYSTAL_PERIPHERAL_FREQMHZ": "50",  # which the IO PLL multiplies by 20
            "PCW_EN_CLK0_PORT": "1",
            "PCW_EN_RST0_PORT": "1",
            "PCW_FCLK0_PERIPHERAL_CLKSRC": "IO PLL",
            "PCW_FPGA0_PERIPHERAL_FREQMHZ": mhz,
        }
        pins = {"clock": "FCLK_CLK0", "bus_clock": "M_AXI_GP0_ACLK", "reset": "FCLK_RESET0_N"}
        made = "CONFIG.PCW_ACT_FPGA0_PERIPHERAL_FREQMHZ"
    else:
        automation = 'apply_board_preset "1"'
        configuration = {
            "PSU__USE__M_AXI_GP0": "1",  # M_AXI_HPM0_FPD
            "PSU__USE__M_AXI_GP1": "0",
            "PSU__USE__M_AXI_GP2": "0",
            "PSU__MAXIGP0__DATA_WIDTH": "32",
            "PSU__FPGA_PL0_ENABLE": "1",
            "PSU__CRL_APB__PL0_REF_CTRL__SRCSEL": "IOPLL",
            "PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ": mhz,
        }
        pins = {"clock": "pl_clk0", "bus_clock": "maxihpm0_fpd_aclk", "reset": "pl_resetn0"}
        made = "CONFIG.PSU__CRL_APB__PL0_REF_CTRL__ACT_FREQMHZ"
    values = {
        "part": board.part,
        "board_part": board.board_part,
        "ps_ip": board.ps,
        "ps_automation": automation,
        "ps_settings": " ".join(f"CONFIG.{name} {{{value}}}" for name, value in configuration.items()),
        "ps_port": board.ps_port,
        **{f"ps_{name}_pin": pin for name, pin in pins.items()},
        "ps_clock": board.ps_clock,
        "ps_made_mhz": made,
        "base": f"0x{board.base:08X}",
        "range": f"{WINDOW_BYTES // 1024}K",
        "mhz": mhz,
        "jobs": str(min(os.cpu_count() or 1, 8)),
        "paths": str(PATHS),
    }
    lines = [f"set {name} {{{value}}}" for name, value in values.items()]
    return "\n".join(["# Written by `python -m bitstreams.build`.", *lines, ""])


def write(board: Board, clock: Clock, geometry: Geometry, text: str, folder: Path) -> list[Path]:
    """Write all that Vivado needs into a folder; return the files. text : the circuit's Verilog."""
    files = {
        f"{TOP}.v": text,
        f"{MODULE}.v": wrapper((WINDOW_BYTES - 1).bit_length()),
        "settings.tcl": settings(board, clock),
        "build.tcl": SCRIPT.read_text(),
    }
    for name, content in files.items():
        (folder / name).write_text(content)
    return [folder / name for name in files]


def build(board: Board, clock: Clock, folder: Path, root: Path | None) -> Outcome:
    """Run Vivado on what `write` wrote. Raises `BuildError` if it is missing, fails, or timing is not met."""
    program = find_program("vivado", root)
    if not program:
        raise BuildError(
            "there is no vivado on the PATH; source its settings64.sh, name its folder with --toolchain-root, or give "
            "--scripts-only and run the scripts where it is"
        )
    tool = version([program, "-version"], r"[Vv]ivado v(\d+\.\d+\S*)")
    for stale in ("spikeloop.bit", "spikeloop.hwh"):
        (folder / stale).unlink(missing_ok=True)
    run("vivado", [program, "-mode", "batch", "-nojournal", "-nolog", "-notrace", "-source", "build.tcl"], folder)
    made = {name: folder / name for name in ("spikeloop.bit", "spikeloop.hwh")}
    for name, path in made.items():
        if not path.is_file():
            raise BuildError(f"vivado ended without an error and without {name}; see {folder / 'vivado.log'}")
    period_ns = 1000 / float(clock.mhz)
    try:
        summary, paths = ((folder / f"timing_{name}.rpt").read_text() for name in ("summary", "paths"))
        timing = vivado_timing(summary, paths, period_ns)
        utilisation = vivado_utilisation((folder / "utilization.rpt").read_text())
    except (ReportError, OSError) as error:
        raise BuildError(f"vivado's reports in {folder} cannot be read: {error}") from None
    require_met(timing, clock)
    return Outcome(
        *(made["spikeloop.bit"], made["spikeloop.hwh"], "vivado", {"vivado": tool}, None), timing, utilisation
    )
