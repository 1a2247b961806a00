# SPDX-License-Identifier: MIT
"""C and C++ compiled on first use and kept: one shared library per source, command and key. Standard library only."""

import fcntl
import hashlib
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


def call(*command: str) -> str:
    """Run a command and return what it says on its error stream. Raises `OSError` or `CalledProcessError`."""
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stderr


def compiled(source: Path, command: Sequence[str], cache: Path, key: str = "") -> Path:
    """Return the shared library that `command`, a compiler with its flags, makes of `source`; made if it is not kept.

    key : what else the library depends on, such as the compiler's version and the processor.
    Raises `OSError` or `CalledProcessError` where there is no compiler, or it fails.
    """
    digest = hashlib.sha256("|".join([key, *command]).encode() + source.read_bytes()).hexdigest()[:16]
    built = cache / f"{digest}.so"
    if not built.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with built.with_suffix(".lock").open("w") as lock, tempfile.TemporaryDirectory(dir=cache) as scratch:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits for the first one's library
            if not built.exists():
                partial = Path(scratch) / built.name
                call(*command, str(source), "-o", str(partial))
                partial.replace(built)
    return built
