# SPDX-License-Identifier: MIT
"""Fill a table of scores: train and evaluate every task, method and training seed of a suite that is not done yet.

Each cell (task, method, seed) runs in a process of its own, keeps its state in its own folder below --out, and goes on
where it was when the command is given again; a cell that fails leaves the others alone. Methods: spiking networks by
their attention (float, and deployed as integers on the golden network), and baselines of as many parameters. Exit code
0: nothing failed, 1: a cell failed (the table says why), 2: nothing was run, 130: interrupted.

  python -m model.table --suite classic --json classic.json --markdown classic.md
  python -m model.table --suite hopper --tasks hopper-medium --methods pssa dt-1-token --steps 2000
  python -m model.table --from classic.json
"""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from model.command import ended
from model.data import offline, tasks
from model.data.offline import DataError
from model.data.tasks import Task
from model.deployed.geometry import GeometryError
from model.files import ready, write
from model.scores import cells, protocol
from model.scores.cells import Cell, Resources, SweepError
from model.scores.protocol import PROTOCOLS, Protocol
from model.scores.report import markdown
from model.scores.suites import METHODS, SUITES, Budget, configuration
from model.training.config import ConfigError

Document = dict[str, Any]


class Sweep:
    """The cells of one table and what came of them.

    results : per cell its result, {"failed": why}, or nothing yet. Tasks whose data are absent have no cells.
    """

    def __init__(
        self, chosen: Sequence[Task], methods: Sequence[str], seeds: Sequence[int], rule: Protocol, budget: Budget
    ) -> None:
        self.rule, self.budget, self.seeds = rule, budget, seeds
        self.rows: dict[str, dict[str, list[Cell]]] = {}
        self.tasks: dict[str, Document] = {}
        self.failed: dict[tuple[str, str], str] = {}
        for task in chosen:
            self.tasks[task.name] = dataclasses.asdict(task) | {"absent": None}
            self.rows[task.name] = {method: [] for method in methods}
            try:
                self._add(task, methods)
            except DataError as error:
                self.tasks[task.name]["absent"] = str(error)
        self.results: dict[Cell, dict[str, Any]] = {}

    def _add(self, task: Task, methods: Sequence[str]) -> None:
        episodes = offline.load(task.dataset)
        if episodes.discrete != task.discrete:
            kinds = {True: "discrete", False: "continuous"}
            raise DataError(
                f"{task.dataset} holds {kinds[episodes.discrete]} actions, the task {task.name} has "
                f"{kinds[task.discrete]} ones; make the data set again with {task.environment}"
            )
        digest = episodes.digest
        self.tasks[task.name] |= {
            "dataset_digest": digest,
            "dataset_mean_return": float(episodes.returns.mean()),
            "dataset_steps": len(episodes.rewards),
            "dataset_episodes": len(episodes.lengths),
        }
        for method in methods:
            try:
                configs = [configuration(task, METHODS[method], self.budget, episodes, seed) for seed in self.seeds]
            except (ConfigError, GeometryError) as error:
                self.failed[task.name, method] = str(error)
                continue
            self.rows[task.name][method] = [
                Cell(
                    task=task.name,
                    method=method,
                    config=config.to_json(),
                    dataset=task.dataset,
                    dataset_digest=digest,
                    protocol=self.rule.name,
                    targets=task.targets if self.rule.every_target else (task.target_return,),
                    episodes=self.rule.episodes,
                    first_seed=self.rule.first_seed,
                    checkpoints=self.rule.checkpoints,
                )
                for config in configs
            ]

    @property
    def cells(self) -> list[Cell]:
        """All cells, a seed of everything before the next seed: a sweep that is stopped early still compares."""
        all_cells = [cell for row in self.rows.values() for cells_ in row.values() for cell in cells_]
        return sorted(all_cells, key=lambda cell: cell.seed)

    @property
    def failures(self) -> bool:
        """Whether any cell failed."""
        return bool(self.failed) or any("failed" in result for result in self.results.values())

    def document(self, suite: str, command: str) -> Document:
        """Return all that the table says, and what determines it, for JSON."""
        found = []
        for name, facts in self.tasks.items():
            rows = []
            for method, row in self.rows[name].items():
                if facts["absent"] is None:
                    done = [self.results.get(cell) for cell in row]
                    rows.append(self._row(name, method, done, facts["reference"]))
            found.append(facts | {"rows": rows})
        commits = {r["commit"] for r in self.results.values() if "commit" in r}
        return {
            "suite": suite,
            "command": command,
            "protocol": dataclasses.asdict(self.rule) | {"seeds": list(self.seeds)},
            "shortfall": shortfall(self.rule, len(self.seeds)),
            "budget": dataclasses.asdict(self.budget),
            "commits": sorted(commits),
            "versions": cells.versions(),
            "tasks": found,
            "published_averages": tasks.AVERAGES.get(suite, {}),
        }

    def _row(self, task: str, method: str, done: list[dict[str, Any] | None], reference: Any) -> Document:
        good = [result for result in done if result and "failed" not in result]
        problems = [
            {"seed": seed, "failed": result["failed"] if result else None}
            for seed, result in zip(self.seeds, done, strict=False)
            if result is None or "failed" in result
        ]
        if (task, method) in self.failed:
            problems = [{"seed": None, "failed": self.failed[task, method]}]
        return {
            "method": method,
            "published_as": METHODS[method].published,
            "parameters": good[0]["parameters"] if good else None,
            "weight_bits": good[0]["cell"]["config"]["geometry"]["weight_bits"] if good else None,
            "float_last": protocol.over_seeds([protocol.last(r["float"]) for r in good], reference),
            "float_best": protocol.over_seeds([protocol.best(r["float"]) for r in good], reference),
            "deployed_last": protocol.over_seeds([protocol.last(r["deployed"]) for r in good], reference),
            "problems": problems,
            "cells": good,
        }


def shortfall(rule: Protocol, seeds: int) -> list[str]:
    """Return where a table stays below its protocol."""
    least = PROTOCOLS[rule.name]
    have = {"training_seeds": seeds, "episodes": rule.episodes, "checkpoints": rule.checkpoints}
    return [
        f"{number} {name.replace('_', ' ')} where the protocol asks for {getattr(least, name)}"
        for name, number in have.items()
        if number < getattr(least, name)
    ]


def fill(sweep: Sweep, out: Path, resources: Resources, workers: int, address: str | None, progress: bool) -> None:
    """Run the cells that are not done. On Ctrl-C what is done stays in `sweep`, and the interrupt is passed on.

    Raises `SweepError`.
    """
    sweep.results |= {cell: done for cell in sweep.cells if (done := cells.finished(cell, out))}
    missing = [cell for cell in sweep.cells if cell not in sweep.results]
    if not missing:
        return
    # of a process that died Ray prints its own words, past its settings, where the table shall stand
    hushed = contextlib.redirect_stdout(io.StringIO())
    with hushed, tqdm(total=len(sweep.cells), initial=len(sweep.results), unit="cell", disable=not progress) as bar:
        running = cells.sweep(missing, out, resources, workers, address)
        try:
            for cell, result in running:
                sweep.results[cell] = result
                if "failed" in result:
                    tqdm.write(f"failed: {cell.task}, {cell.method}, seed {cell.seed}: {result['failed']}", sys.stderr)
                bar.update()
        finally:
            running.close()


def _read(path: Path) -> Document:
    """Read a document back. Raises `ConfigError`."""
    try:
        document = json.loads(path.read_text())
        markdown(document)
    except (json.JSONDecodeError, UnicodeDecodeError, LookupError, TypeError, AttributeError):
        raise ConfigError(f"{path} holds no table; give a file that `python -m model.table --json` wrote") from None
    return document


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
    add("--json", type=Path, help="also write all results, and what they depend on, to this file")
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
    counts = ("seeds", "episodes", "checkpoints", "workers", "cpus_per_cell", "gpus_per_cell")
    for name, value in {**budget, **{n: getattr(options, n) for n in counts}}.items():
        least = 0 if name in ("quant_steps", "gpus_per_cell") else 1
        if value is not None and not value >= least:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")
    rule = PROTOCOLS[options.protocol]
    replaced = {name: getattr(options, name) for name in ("episodes", "checkpoints")}
    rule = dataclasses.replace(rule, **{name: value for name, value in replaced.items() if value is not None})
    size = dataclasses.replace(suite.budget, **{name: value for name, value in budget.items() if value is not None})
    sweep = Sweep(chosen, options.methods, range(options.seeds or rule.training_seeds), rule, size)
    if all(facts["absent"] for facts in sweep.tasks.values()):
        raise DataError("no data for any of these tasks: " + "; ".join(f["absent"] for f in sweep.tasks.values()))
    return sweep


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.suite is None) == (options.source is None):
        parser.error("give --suite to fill a table, or --from to print one again")
    command = shlex.join(["python", "-m", "model.table", *(sys.argv[1:] if arguments is None else arguments)])
    status = 0
    try:
        ready(options.json, options.markdown)
        if options.source:
            document = _read(options.source)
        else:
            sweep = _sweep(options)
            resources = Resources(options.cpus_per_cell, options.gpus_per_cell)
            workers = options.workers or max(1, (os.cpu_count() or 1) // options.cpus_per_cell)
            try:
                fill(sweep, options.out, resources, workers, options.ray_address, os.environ.get("TERM") != "dumb")
                status = int(sweep.failures)
            except KeyboardInterrupt:
                status = 130
            document = sweep.document(options.suite, command)
        table = markdown(document)
        if options.json:
            write(options.json, json.dumps(document, indent=1) + "\n")
        if options.markdown:
            write(options.markdown, table)
    except (ConfigError, DataError, SweepError, OSError, KeyboardInterrupt) as error:
        return ended(error, "stopped before any cell began")
    sys.stdout.write(table)
    if status == 130:
        print(f"stopped; the same command goes on (everything is in {options.out})", file=sys.stderr)  # noqa: T201
    return status


if __name__ == "__main__":
    sys.exit(main())
