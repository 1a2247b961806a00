# SPDX-License-Identifier: MIT
"""Print the tasks: data set, environment, target return, scale and reference returns of each."""

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from model.data.environments import parse
from model.data.tasks import SUITES, TASKS, Task
from model.files import WriteError, write_json


def table(tasks: Iterable[Task]) -> str:
    """Return the table in text."""
    rows = [("task", "data set", "environment", "target", "scale", "random", "expert", "published")]
    for task in tasks:
        published = ", ".join(f"{method} {value:g}" for method, (value, _) in task.published.items())
        numbers = (task.target_return, task.return_scale, *task.reference)
        rows.append((task.name, task.dataset, parse(task.environment)[0], *(f"{n:g}" for n in numbers), published))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m model.tasks", description=__doc__)
    parser.add_argument("--suite", choices=SUITES, help="only these tasks")
    parser.add_argument("--json", type=Path, help="also write everything, sources and notes included, to this file")
    options = parser.parse_args(arguments)
    chosen = [task for task in TASKS.values() if options.suite in (None, task.suite)]
    print(table(chosen))  # noqa: T201
    if options.json:
        try:
            write_json(options.json, [dataclasses.asdict(task) for task in chosen])
        except WriteError as error:
            print(f"error: {error}", file=sys.stderr)  # noqa: T201
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
