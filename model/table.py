# SPDX-License-Identifier: MIT
"""Fill a table of scores: train and evaluate every task, method and training seed of a suite that is not done yet.

Each cell (task, method, seed) runs in a process of its own, keeps its state in its own folder below --out, and goes on
where it was when the command is given again; a cell that fails leaves the others alone. Methods: spiking networks by
their attention (float, and deployed as integers on the golden network), and baselines of as many parameters. Exit code
0: nothing failed, 1: a cell failed (the table says why), 2: nothing was run, 130: interrupted.

With --json FILE a table can be filled over days and on several machines: what FILE already holds is not run again and
stays in it, whatever tasks, methods and seeds a command asks for, and every finished cell is written at once.

  python -m model.table --suite classic --json classic.json --markdown classic.md
  python -m model.table --suite hopper --tasks hopper-medium --methods pssa dt-1-token --steps 2000
  python -m model.table --suite hopper --methods pssa --json hopper.json --time-limit 180      (the first evening)
  python -m model.table --suite hopper --methods bc --json hopper.json --time-limit 180        (the next one)
  python -m model.table --suite hopper --known one.json two.json --json both.json --time-limit 0   (runs nothing)
  python -m model.table --from classic.json
"""

import argparse
import contextlib
import dataclasses
import fcntl
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from model.command import ended, given
from model.data import tasks
from model.data.offline import DataError
from model.files import ready, write
from model.scores import cells
from model.scores.cells import Resources, SweepError
from model.scores.document import Document, read
from model.scores.protocol import PROTOCOLS
from model.scores.report import markdown
from model.scores.suites import METHODS, SUITES, Budget
from model.scores.sweep import Sweep
from model.training.config import ConfigError


def fill(
    sweep: Sweep,
    out: Path,
    resources: Resources,
    workers: int,
    address: str | None,
    progress: bool,
    until: float | None = None,
    keep: Callable[[], object] = lambda: None,
) -> None:
    """Run the cells that are not done. On Ctrl-C what is done stays in `sweep`, and the interrupt is passed on.

    until : when, on the monotonic clock, no further cell begins. keep : called after each cell. Raises `SweepError`.
    """
    for cell in sweep.cells:
        if done := cells.finished(cell, out) or sweep.known.get(cell.digest):
            sweep.results[cell] = done
    missing = [cell for cell in sweep.cells if cell not in sweep.results]
    if not missing or (until is not None and time.monotonic() >= until):
        return
    # of a process that died Ray prints its own words, past its settings, where the table shall stand
    hushed = contextlib.redirect_stdout(io.StringIO())
    with hushed, tqdm(total=len(sweep.cells), initial=len(sweep.results), unit="cell", disable=not progress) as bar:
        running = cells.sweep(missing, out, resources, workers, address, until)
        try:
            for cell, result in running:
                sweep.results[cell] = result
                if "failed" in result:
                    tqdm.write(f"failed: {cell.task}, {cell.method}, seed {cell.seed}: {result['failed']}", sys.stderr)
                keep()
                bar.update()
        finally:
            running.close()


def save(sweep: Sweep, suite: str, command: str, path: Path | None) -> Document:
    """Return the document, written to `path` with all that is there already. Raises `ConfigError`, `WriteError`."""
    if path is None:
        return sweep.document(suite, command)
    with _alone_in(path.parent):
        _go_on(sweep, suite, path)  # another command may have put cells there since
        document = sweep.document(suite, command)
        write(path, json.dumps(document, indent=1) + "\n")
    return document


def _go_on(sweep: Sweep, suite: str, path: Path) -> None:
    if path.is_file():
        sweep.go_on_from(read(path), path, suite)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other commands that do the same from writing into a folder; not where the file system has no locks."""
    place = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model.table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--suite", choices=SUITES, help="which tasks")
    add("--from", dest="source", type=Path, metavar="JSON", help="print the table of this file again, run nothing")
    add("--tasks", nargs="+", metavar="TASK", help="only these of the suite (`python -m model.tasks` lists them)")
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD", help=", ".join(METHODS))
    add("--protocol", choices=PROTOCOLS, default="honest", help="how scores are taken: docs/protocol.md")
    add("--seeds", type=int, help="training seeds 0, 1, ... (default: the protocol's)")
    add("--episodes", type=int, help="episodes per evaluation (default: the protocol's)")
    add("--checkpoints", type=int, help="float checkpoints to evaluate (default: the protocol's)")
    for field in dataclasses.fields(Budget):
        add(f"--{field.name.replace('_', '-')}", type=int, help=f"replaces the suite's {field.name}")
    add("--out", type=Path, default=Path("runs/table"), help="folder of the cells (default runs/table)")
    add("--workers", type=int, help="cells at a time on this machine (default: as many as its CPUs allow)")
    add("--cpus-per-cell", type=int, default=1, help="CPUs, and threads, of a cell (default 1)")
    add("--gpus-per-cell", type=float, default=0.0, help="GPUs of a cell, fractions too (default 0: trains on the CPU)")
    add("--ray-address", help="run on this Ray cluster; its nodes share --out, the data and this checkout by path")
    add("--json", type=Path, metavar="FILE", help="also write all results to FILE, which keeps what it holds already")
    add("--known", nargs="+", type=Path, metavar="FILE", default=[], help="take finished cells from these files too")
    add("--time-limit", type=float, metavar="MINUTES", help="start no cell after so long; those that run are finished")
    add("--markdown", type=Path, help="also write the table to this file")
    return parser


def _sweep(options: argparse.Namespace) -> Sweep:
    suite = SUITES[options.suite]
    chosen = suite.tasks if options.tasks is None else [tasks.find(name) for name in options.tasks]
    if strangers := [task.name for task in chosen if not suite.holds(task)]:
        raise ConfigError(
            f"{', '.join(strangers)} is not in the suite {options.suite}; leave --tasks out to see what is"
        )
    budget = {f.name: getattr(options, f.name) for f in dataclasses.fields(Budget)}
    counts = ("seeds", "episodes", "checkpoints", "workers", "cpus_per_cell", "gpus_per_cell", "time_limit")
    for name, value in {**budget, **{n: getattr(options, n) for n in counts}}.items():
        least = 0 if name in ("quant_steps", "gpus_per_cell", "time_limit") else 1
        if value is not None and not value >= least:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")
    rule = PROTOCOLS[options.protocol]
    replaced = {name: getattr(options, name) for name in ("episodes", "checkpoints")}
    rule = dataclasses.replace(rule, **{name: value for name, value in replaced.items() if value is not None})
    size = dataclasses.replace(suite.budget, **{name: value for name, value in budget.items() if value is not None})
    sweep = Sweep(chosen, options.methods, range(options.seeds or rule.training_seeds), rule, size)
    if all(facts["absent"] for facts in sweep.tasks.values()):
        raise DataError("no data for any of these tasks: " + "; ".join(f["absent"] for f in sweep.tasks.values()))
    for path in options.known:
        sweep.learn(read(path))
    if options.json:
        _go_on(sweep, options.suite, options.json)
    return sweep


def _fill(options: argparse.Namespace, command: str, until: float | None) -> tuple[Document, int]:
    """Do what is asked for; return the document and the exit code."""
    sweep = _sweep(options)
    resources = Resources(options.cpus_per_cell, options.gpus_per_cell)
    workers = options.workers or max(1, (os.cpu_count() or 1) // options.cpus_per_cell)
    progress = os.environ.get("TERM") != "dumb"

    def keep() -> Document:
        return save(sweep, options.suite, command, options.json)

    try:
        fill(sweep, options.out, resources, workers, options.ray_address, progress, until, keep)
        status = int(sweep.failures)
    except KeyboardInterrupt:
        status = 130
    missing = sum(cell not in sweep.results for cell in sweep.cells)
    if missing and until is not None and status != 130:
        _say(f"the time limit is over and {missing} of {len(sweep.cells)} cells are missing; the same command goes on")
    return keep(), status


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    started = time.monotonic()
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.suite is None) == (options.source is None):
        parser.error("give --suite to fill a table, or --from to print one again")
    if options.source and (options.json or options.known):
        parser.error("--from prints a file as it is; leave --json and --known out")
    command = given("model.table", arguments)
    until = None if options.time_limit is None else started + 60.0 * options.time_limit
    status = 0
    try:
        ready(options.json, options.markdown)
        if options.source:
            document = read(options.source)
        else:
            document, status = _fill(options, command, until)
        table = markdown(document)
        if options.markdown:
            write(options.markdown, table)
    except (ConfigError, DataError, SweepError, OSError, KeyboardInterrupt) as error:
        return ended(error, "stopped before any cell began")
    sys.stdout.write(table)
    if status == 130:
        _say(f"stopped; the same command goes on (everything is in {options.out})")
    return status


if __name__ == "__main__":
    sys.exit(main())
