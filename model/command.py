# SPDX-License-Identifier: MIT
"""What every command does with options and errors: one sentence and an exit code."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from model import caches

caches.keep_here()


def given(module: str, arguments: Sequence[str] | None) -> str:
    """Return the command line of a module as what it makes records it; None stands for this process's own arguments.

    Of an absolute path the last part stays: where somebody keeps files is no part of a result.
    """
    words = []
    for word in sys.argv[1:] if arguments is None else arguments:
        option, equals, value = word.partition("=") if word.startswith("--") and "=" in word else ("", "", word)
        words.append(f"{option}{equals}{Path(value).name if Path(value).is_absolute() else value}")
    return shlex.join(["python", "-m", module, *words])


def ended(error: BaseException, stopped: str = "stopped; nothing was written") -> int:
    """Print the error's own sentence, or for an interrupt `stopped`; return the exit code, 2 or 130."""
    interrupted = isinstance(error, KeyboardInterrupt)
    print(stopped if interrupted else f"error: {error}", file=sys.stderr)  # noqa: T201
    return 130 if interrupted else 2


def check_least(parser: argparse.ArgumentParser, options: argparse.Namespace, **least: int) -> None:
    """End with a usage error where an option is below its least value; one that is absent or None passes."""
    for name, value in least.items():
        given = getattr(options, name, None)
        if given is not None and given < value:
            parser.error(f"--{name.replace('_', '-')} must be at least {value}, not {given}")
