# SPDX-License-Identifier: MIT
"""What every study needs: trained networks of a list of configurations, their scores, and rows summed up over seeds.

A run's folder is named after its configuration and data, so studies that need the same network train it once, and an
interrupted study goes on where it stopped.
"""

import csv
import dataclasses
import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from model.data import offline
from model.data.offline import Episodes, Windows
from model.data.tasks import Task
from model.deployed.geometry import Geometry
from model.files import write_json
from model.scores import evaluation
from model.training.checkpoint import Checkpoint
from model.training.config import TrainConfig
from model.training.trainer import Trainer

Row = dict[str, Any]
"""One measured case: column name -> number, word or list. A study returns these, its figure is drawn from them."""

QUIET = os.environ.get("TERM") == "dumb"
SAVE_EVERY = 250
SCORES = (
    "mean_return",
    "std_return",
    "normalised_score",
    "active_rows_per_decision",
    "fetch_cycles_per_decision",
)
VALIDATION_SEED = 0


@dataclass(frozen=True)
class Budget:
    """What a study may spend: a task, a geometry, updates, training seeds 0..seeds-1, episodes per score (0: none)."""

    task: Task
    geometry: Geometry
    steps: int
    quant_steps: int
    batch: int
    seeds: int
    episodes: int

    def config(self, seed: int, **changes: Any) -> TrainConfig:
        """Return the float training that studies depart from, with some fields changed."""
        choices: Row = {
            "geometry": self.geometry,
            "length": max(24, self.geometry.context),
            "steps": self.steps,
            "quant_steps": 0,
            "batch": self.batch,
            "return_scale": self.task.return_scale,
            "target_return": self.task.target_return,
            "seed": seed,
        }
        return TrainConfig(**choices | changes)


@dataclass(frozen=True)
class Run:
    """A finished training in its folder."""

    config: TrainConfig
    folder: Path

    @property
    def phase(self) -> str:
        """The last phase, "float" or "quant"."""
        return "quant" if self.config.quant_steps else "float"

    @property
    def file(self) -> Path:
        """The checkpoint of the last phase."""
        return self.folder / f"{self.phase}.pt"

    def load(self) -> Checkpoint:
        """Read the checkpoint, its network in evaluation mode."""
        saved = Checkpoint.load(self.file)
        saved.network.eval()
        return saved

    def curve(self) -> list[tuple[int, float, float]]:
        """Return (update, training loss, validation loss) of the last phase, in order."""
        with (self.folder / "log.csv").open(newline="") as file:
            # a killed run logs some updates again when it goes on: the later line counts
            lines = {int(line["step"]): line for line in csv.DictReader(file) if line["phase"] == self.phase}
        return [(n, float(lines[n]["loss"]), float(lines[n]["validation_loss"])) for n in sorted(lines)]

    @property
    def loss(self) -> float:
        """Validation loss at the end."""
        return self.curve()[-1][2]


def share(noun: str, jobs: Mapping[Path, Callable[[], object]]) -> None:
    """Do every job whose file is missing; a job writes its file. The same command, given twice, shares them.

    What another process has in hand is left to it, and waited for at the end. `noun` names the jobs as they begin.
    """
    missing = [path for path in jobs if not path.exists()]
    for patience in (fcntl.LOCK_NB, 0):
        for number, path in enumerate(missing, 1):
            if path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with (path.parent / "lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | patience)
                except BlockingIOError:
                    continue
                if not path.exists():
                    if not QUIET:
                        tqdm.write(f"{noun} {number} of {len(missing)}", file=sys.stderr)  # the table goes to stdout
                    jobs[path]()


def measured(noun: str, jobs: Mapping[Path, Callable[[], dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the results of jobs in their order, measured once and kept as JSON in their files; see `share`."""
    share(noun, {path: partial(_keep, path, job) for path, job in jobs.items()})
    return [dict(json.loads(path.read_text())) for path in jobs]


def _keep(path: Path, job: Callable[[], dict[str, Any]]) -> None:
    write_json(path, job())


class Bench:
    """A budget with a folder: trains, scores and samples for one study after another."""

    def __init__(self, budget: Budget, out: Path, command: str) -> None:
        self.budget, self.out, self.command = budget, out, command

    @cached_property
    def episodes(self) -> Episodes:
        """The task's data."""
        return offline.load(self.budget.task.dataset)

    @cached_property
    def _delayed(self) -> Episodes:
        return offline.load(self.budget.task.dataset, delayed=True)

    def data(self, config: TrainConfig) -> Episodes:
        """Return the task's data as a configuration takes its rewards."""
        return self._delayed if config.delayed else self.episodes

    def each_seed(self, variants: Iterable[Row], **changes: Any) -> list[TrainConfig]:
        """Return the configurations of every variant (changed fields) for every seed, seeds of a variant together."""
        return [self.budget.config(seed, **changes | v) for v in variants for seed in range(self.budget.seeds)]

    def folder(self, config: TrainConfig) -> Path:
        """Return where a configuration is trained."""
        text = config.to_json() + self.episodes.digest
        return self.out / hashlib.sha256(text.encode()).hexdigest()[:16]

    def train(
        self, configs: Sequence[TrainConfig], prepare: Callable[[TrainConfig, Path], None] | None = None
    ) -> list[Run]:
        """Return a finished run of each configuration; train what is missing. `prepare` may fill a new run's folder."""
        runs = [Run(config, self.folder(config)) for config in configs]
        share("training", {run.file: partial(self._train, run, prepare) for run in runs})
        return runs

    def _train(self, run: Run, prepare: Callable[[TrainConfig, Path], None] | None) -> None:
        if prepare is not None and not (run.folder / "checkpoint.pt").exists():
            prepare(run.config, run.folder)
        trainer = Trainer(run.config, self.data(run.config), run.folder, True, SAVE_EVERY, self.command)
        trainer.run(progress=not QUIET)

    def score(self, file: Path, target_return: float | None = None) -> dict[str, Any]:
        """Return `evaluate`'s result of a checkpoint or artifact, kept beside it; reset seeds 0, 1, ...

        target_return None asks for what it was trained for. Without episodes its measured values are None.
        """
        return self._scores([file], target_return)[0]

    def score_all(self, runs: Sequence[Run]) -> list[dict[str, Any]]:
        """Return the scores of runs."""
        return self._scores([run.file for run in runs])

    def _scores(self, files: Sequence[Path], target_return: float | None = None) -> list[dict[str, Any]]:
        episodes = self.budget.episodes
        if not episodes:
            return [dict.fromkeys(SCORES) for _ in files]
        asked = "" if target_return is None else f"-{target_return:g}"
        return measured(
            "score",
            {
                file.with_name(f"{file.stem}-score-{episodes}{asked}.json"): partial(
                    evaluation.evaluate, file, episodes, 0, target_return
                )
                for file in files
            },
        )

    def held_out(self, saved: Checkpoint, windows: int, length: int) -> tuple[Tensor, Tensor]:
        """Draw whole windows of held-out episodes: tokens [windows, length, inputs] as the network takes them, actions.

        The same windows for every network of one seed.
        """
        episodes = self.data(saved.config)
        _, held = offline.split(episodes, saved.config.held_out, saved.config.seed)
        source = offline.windows(episodes, held, saved.normaliser)
        tokens, actions = whole_windows(source, windows, length, np.random.default_rng(VALIDATION_SEED))
        return saved.network.prepare(torch.from_numpy(tokens)), torch.from_numpy(actions)


def whole_windows(source: Windows, count: int, length: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """Draw windows without padding: tokens [count, length, inputs], actions [count, length, actions]."""
    tokens, actions = [], []
    while sum(len(part) for part in tokens) < count:
        drawn, targets, real, _ = source.sample(count, length, rng)
        full = real.all(1)
        tokens.append(drawn[full])
        actions.append(targets[full])
    return np.concatenate(tokens)[:count], np.concatenate(actions)[:count]


def branch(run: Run, config: TrainConfig, folder: Path) -> None:
    """Start a new run in `folder` at the end of another's float phase; their configurations differ only after it."""
    saved = Checkpoint.load(run.folder / "checkpoint.pt")
    dataclasses.replace(saved, config=config).save(folder / "checkpoint.pt")


def flown(variant: str, run: Run, score: dict[str, Any]) -> Row:
    """Return what every study of variants says of a run. score : of `Bench.score`."""
    return {
        "variant": variant,
        "seed": run.config.seed,
        "validation_loss": run.loss,
        "return": score["mean_return"],
        "normalised": score["normalised_score"],
    }


STUDENT = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Quantile 0.975 of Student's t with 1, 2, ... degrees of freedom; beyond, the last one, which is too wide."""


def half_width(deviation: float, count: int) -> float:
    """Return half the width of the 95 % confidence interval of a mean of `count` values, at least two."""
    return STUDENT[min(count - 2, len(STUDENT) - 1)] * deviation / count**0.5


def summed_up(rows: Sequence[Row], keys: Sequence[str], values: Sequence[str]) -> list[Row]:
    """Return one row per combination of `keys`, in order of appearance: each value's mean, and its deviation over rows.

    A value "loss" becomes "loss", "loss_std" and "loss_half" (half its mean's 95 % confidence interval; both None where
    there is one row), over the rows that have it.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    result = []
    for group, members in groups.items():
        summary: Row = dict(zip(keys, group, strict=True)) | {"n": len(members)}
        for value in values:
            known = [row[value] for row in members if row.get(value) is not None]
            summary[value] = float(np.mean(known)) if known else None
            several = len(known) > 1
            summary[f"{value}_std"] = float(np.std(known, ddof=1)) if several else None
            summary[f"{value}_half"] = half_width(summary[f"{value}_std"], len(known)) if several else None
        result.append(summary)
    return result


def relate(rows: Sequence[Row], key: str, value: str = "validation_loss", to: str = "relative_loss") -> None:
    """Add to every row its value over that of the first variant trained with the same seed.

    A seed also chooses the held-out episodes, so that losses of different seeds are of different data.
    """
    first = {row["seed"]: row[value] for row in rows if row[key] == rows[0][key]}
    for row in rows:
        row[to] = row[value] / first[row["seed"]]


@dataclass(frozen=True)
class Study:
    """One experiment: what it measures and how that is drawn.

    measure : bench -> rows. draw : puts rows on an empty figure. keys : columns that name a case; values : columns
    averaged over the rows of a case in the printed table. size : of the figure in inches. interval : whether the table
    shows half the width of a mean's 95 % confidence interval, not the deviation over rows.
    """

    name: str
    summary: str
    measure: Callable[[Bench], list[Row]]
    draw: Callable[[Figure, list[Row]], None]
    keys: tuple[str, ...]
    values: tuple[str, ...]
    size: tuple[float, float] = (9.0, 3.8)
    interval: bool = False
