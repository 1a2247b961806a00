# SPDX-License-Identifier: MIT
"""Results on disk: whole files or none, and a look at the place before long work."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


class WriteError(OSError):
    """A file that cannot be written; the message says which and what to do."""


def save(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write a file beside `path`, then put it there; folders are made. Raises `WriteError`."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fill(partial)
        partial.replace(path)
    except OSError as error:
        raise refusal(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write(path: Path, text: str) -> None:
    """Write text, whole or not at all. Raises `WriteError`."""
    save(path, lambda partial: partial.write_text(text))


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all. Raises `WriteError`."""
    write(path, json.dumps(content, indent=2) + "\n")


def ready(*paths: Path | None) -> None:
    """Make the folders of files that will be written, and try them, before the work whose results they take.

    None stands for a file that nobody asked for. Raises `WriteError`.
    """
    for path in paths:
        if path is None:
            continue
        partial = path.with_name(path.name + ".partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(0, "it is a folder")
            partial.write_text("")
            partial.unlink()
        except OSError as error:
            raise refusal(path, error) from None


def refusal(path: Path, error: OSError) -> WriteError:
    """Return what to tell of a file that could not be written."""
    return WriteError(f"{path} cannot be written ({error.strerror or error}); make room there or choose another place")
