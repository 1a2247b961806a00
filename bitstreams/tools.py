# SPDX-License-Identifier: MIT
"""Programs of others: found, run, and asked for their version."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

LOG_LINES = 15
"""Of a failed program, shown with the error."""


class BuildError(RuntimeError):
    """A bitstream cannot be built, or was built and must not be used; the message says why and what to do."""


def roots(root: Path | None) -> list[Path]:
    """Return the folders to look in below a toolchain's root."""
    return [root, *(root / name for name in ("bin", "usr/bin", "opt/nextpnr-xilinx/bin"))] if root else []


def find_program(name: str, root: Path | None) -> Path | None:
    """Return a program from below a toolchain's root, else from the PATH, else None."""
    for folder in roots(root):
        if found := shutil.which(name, path=str(folder)):
            return Path(found)
    found = shutil.which(name)
    return Path(found) if found else None


def version(command: Sequence[str | Path], pattern: str) -> str:
    """Return what a program says of its version, the first group of `pattern`. Raises `BuildError`."""
    run = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    match = re.search(pattern, run.stdout + run.stderr)
    if not match:
        raise BuildError(
            f"{command[0]} does not say its version; it answers: {(run.stdout + run.stderr)[-200:].strip()}"
        )
    return match[1]


def run(name: str, command: Sequence[str | Path], folder: Path, output: Path | None = None) -> str:
    """Run a program in a folder; return what it said, which FOLDER/NAME.log keeps.

    output : file for what it prints on standard output, if that is its result. Raises `BuildError` if it fails.
    """
    log = folder / f"{name}.log"
    say(f"running {name}; its log is {log}")
    with log.open("w") as said, (output or log).open("a" if output is None else "w") as out:
        status = subprocess.run([str(word) for word in command], cwd=folder, stdout=out, stderr=said).returncode
    text = log.read_text(errors="replace")
    if status:
        raise BuildError(f"{name} failed with exit status {status}; {reason(text.splitlines(), log)}")
    return text


def reason(lines: Iterable[str], log: Path) -> str:
    """Return what a log says of a failure: its errors, else its end."""
    lines = list(lines)
    errors = [line.strip() for line in lines if re.match(r"\s*(ERROR|spikeloop):", line)]
    said = "\n".join(errors[:3] or lines[-LOG_LINES:]).strip()
    return f"it said: {said}" if said else f"it said nothing in {log}"


def say(line: str) -> None:
    """Show progress."""
    print(line, file=sys.stderr, flush=True)
