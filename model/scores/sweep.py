# SPDX-License-Identifier: MIT
"""The cells of one table: which are asked for, which are done, here or in earlier documents, and the new document."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from model.data import offline, tasks
from model.data.offline import DataError
from model.data.tasks import Task
from model.deployed.geometry import GeometryError
from model.scores import cells
from model.scores import document as documents
from model.scores.cells import Cell
from model.scores.document import Document, Result
from model.scores.protocol import Protocol
from model.scores.suites import METHODS, Budget, configuration
from model.training.config import ConfigError


class Sweep:
    """What is asked for, and what came of it.

    results : per cell its result, {"failed": why}, or nothing yet. known : finished cells of documents, by digest.
    kept : the document that the new one goes on from, all of which stays in it. Tasks whose data are absent have no
    cells.
    """

    def __init__(
        self, chosen: Sequence[Task], methods: Sequence[str], seeds: Sequence[int], rule: Protocol, budget: Budget
    ) -> None:
        self.rule, self.budget, self.seeds = rule, budget, seeds
        self.planned: dict[tuple[str, str], Cell] = {}  # task, method -> the first seed's
        self.tasks: dict[str, Document] = {}
        self.failed: dict[tuple[str, str], str] = {}
        self.results: dict[Cell, Result] = {}
        self.known: dict[str, Result] = {}
        self.kept: Document = {}
        for task in chosen:
            self.tasks[task.name] = dataclasses.asdict(task) | {"absent": None}
            try:
                self._add(task, methods)
            except DataError as error:
                self.tasks[task.name]["absent"] = str(error)

    def _add(self, task: Task, methods: Sequence[str]) -> None:
        episodes = offline.load(task.dataset)
        if episodes.discrete != task.discrete:
            kinds = {True: "discrete", False: "continuous"}
            raise DataError(
                f"{task.dataset} holds {kinds[episodes.discrete]} actions, the task {task.name} has "
                f"{kinds[task.discrete]} ones; make the data set again with {task.environment}"
            )
        self.tasks[task.name] |= {
            "dataset_digest": episodes.digest,
            "dataset_mean_return": float(episodes.returns.mean()),
            "dataset_steps": len(episodes.rewards),
            "dataset_episodes": len(episodes.lengths),
        }
        for method in methods:
            try:
                config = configuration(task, METHODS[method], self.budget, episodes, self.seeds[0])
            except (ConfigError, GeometryError) as error:
                self.failed[task.name, method] = str(error)
                continue
            self.planned[task.name, method] = Cell(
                task=task.name,
                method=method,
                config=config.to_json(),
                dataset=task.dataset,
                dataset_digest=episodes.digest,
                protocol=self.rule.name,
                targets=task.targets if self.rule.every_target else (task.target_return,),
                episodes=self.rule.episodes,
                first_seed=self.rule.first_seed,
                checkpoints=self.rule.checkpoints,
            )

    @property
    def cells(self) -> list[Cell]:
        """All cells asked for, a seed of everything before the next: a sweep that is stopped early still compares."""
        return [cell.of_seed(seed) for seed in self.seeds for cell in self.planned.values()]

    @property
    def failures(self) -> bool:
        """Whether any cell failed."""
        return bool(self.failed) or any("failed" in result for result in self.results.values())

    def learn(self, document: Document) -> None:
        """Know the finished cells of a document."""
        self.known |= {documents.digest(result): result for result in documents.results(document)}

    def go_on_from(self, document: Document, path: Path, suite: str) -> None:
        """Keep all of a document, read from `path`, in the new one, and know its cells. Raises `ConfigError`."""
        documents.require_same(document, path, suite, self.rule, self.budget)
        for task in document["tasks"]:
            facts = self.tasks.get(task["name"])
            if task["absent"] is None and facts and facts["absent"] is None:
                documents.require_same_task(task, facts, path)
        self.kept = document
        self.learn(document)

    def document(self, suite: str, command: str) -> Document:
        """Return all that the table says, and what determines it, for JSON."""
        kept = {task["name"]: task for task in self.kept.get("tasks", ())}
        seeds = sorted({*self.seeds, *self.kept.get("protocol", {}).get("seeds", ())})
        found = [self._task(name, kept.get(name), seeds) for name in _in_order(tasks.TASKS, [*self.tasks, *kept])]
        shown = [result for task in found for row in task["rows"] for result in row["cells"]]
        in_table = {documents.digest(result) for result in shown}
        others = {documents.digest(result): result for result in documents.results(self.kept)} if self.kept else {}
        before = self.kept.get("commands") or [self.kept[name] for name in ("command",) if name in self.kept]
        return {
            "suite": suite,
            "commands": list(dict.fromkeys([*before, command])),
            "protocol": dataclasses.asdict(self.rule) | {"seeds": seeds},
            "shortfall": documents.shortfall(self.rule, len(seeds)),
            "budget": dataclasses.asdict(self.budget),
            "commits": sorted({result["commit"] for result in shown}),
            "versions": documents.versions(shown) or cells.versions(),
            "tasks": found,
            "others": [result for digest, result in others.items() if digest not in in_table],
            "published_averages": tasks.AVERAGES.get(suite, {}),
        }

    def _task(self, name: str, kept: Document | None, seeds: Sequence[int]) -> Document:
        """Return a task's facts and rows: what is asked for as it is now, the rest as the kept document has it."""
        now, rows = self.tasks.get(name), {row["method"]: row for row in (kept or {}).get("rows", ())}
        only_kept = kept is not None and (now is None or (now["absent"] is not None and kept["absent"] is None))
        facts: Document = (kept if only_kept else now) or {}
        if facts["absent"] is not None:
            return facts | {"rows": []}
        asked = [method for task, method in (*self.planned, *self.failed) if task == name]
        lines = []
        for method in _in_order(METHODS, [*asked, *rows]):
            if (name, method) in self.planned:
                found, failures = self._done(self.planned[name, method], seeds)
            else:
                row = rows.get(method, {"cells": [], "problems": []})
                found = dict.fromkeys(seeds) | {r["cell"]["config"]["seed"]: r for r in row["cells"]}
                failures = {problem["seed"]: problem["failed"] for problem in row["problems"]}
            if (name, method) in self.failed:
                failures = {None: self.failed[name, method]}
            lines.append(documents.row(method, found, failures, facts["reference"]))
        return facts | {"rows": lines}

    def _done(self, first: Cell, seeds: Sequence[int]) -> tuple[dict[int, Result | None], dict[int | None, str | None]]:
        """Return a method's finished cells of seeds, None where there is none, and why cells failed."""
        found: dict[int, Result | None] = {}
        failures: dict[int | None, str | None] = {}
        for seed in seeds:
            cell = first.of_seed(seed)
            result = self.results.get(cell) or self.known.get(cell.digest)
            if result is not None and "failed" in result:
                failures[seed], result = result["failed"], None
            found[seed] = result
        return found, failures


def _in_order(order: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return different names as they follow in an order, those that are not in it last."""
    place = {name: number for number, name in enumerate(order)}
    return sorted(dict.fromkeys(names), key=lambda name: place.get(name, len(place)))
