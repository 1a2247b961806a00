# SPDX-License-Identifier: MIT
"""Sparse matching against dense where reward is delayed: what is lost by looking at few tokens of a long window."""

import dataclasses
import math

import numpy as np
from matplotlib.figure import Figure

from model.data.environments import parse
from model.data.tasks import Task
from model.deployed.geometry import Geometry
from model.network.layers import Structure
from model.network.sparse import SPARSITIES
from model.scores.suites import SPIKING
from model.studies import plots
from model.studies.runs import Bench, Row, Study, relate

RATE = 1e-2
"""Peak rate on the corridor, whose doors are one token of many."""
WINDOWS = 4
"""Training windows on the corridor are this many times as long as it: most then show the key and the doors."""
OTHERWISE = 64
"""Window S, in tokens, of a task that is no corridor."""
ENOUGH = 0.95
"""Share of the dense return that sparse matching is asked to keep."""


def structure(sparsity: str, tokens: int) -> Structure:
    """Return how a window of `tokens` is looked at, the same way for every length.

    block : blocks of about sqrt(tokens / 8), a power of two: small ones, so that most of what is looked at is far.
    lsh : four tables of buckets of 8, as many as hold the window. The scale is near 2 over the most tokens looked at.
    """
    power = 2 ** math.floor(0.5 + math.log2(tokens / 8) / 2)
    choices = {
        "dense": {},
        "block": {"block": power},
        "lsh": {"block": 8, "hash_bits": max(1, round(math.log2(tokens / 8))), "hash_rounds": 4},
    }[sparsity]
    looked = {"dense": tokens, "block": 2 * power + tokens // power, "lsh": 5 * 8}[sparsity]
    return Structure(sparsity=sparsity, scale=2.0 ** math.floor(math.log2(2 / looked)), **choices)


def small(geometry: Geometry, tokens: int) -> Geometry:
    """Return a geometry as the study trains it: SSSA, two layers, two SNN steps, a small MLP."""
    changes = {"window": tokens, "layers": 2, "steps": 2, "mlp_ratio": 2}
    return dataclasses.replace(geometry.with_attention("sssa"), **changes)


def window_of(task: Task) -> int:
    """Return the window S that a task is given, in tokens: all of a corridor."""
    length = parse(task.environment)[1].get("length", OTHERWISE)
    return int(length)


def measure(bench: Bench) -> list[Row]:
    """Train dense, block-sparse and hashed matching for each seed; all reward comes at an episode's end."""
    task, tokens = bench.budget.task, window_of(bench.budget.task)
    geometry = small(bench.budget.geometry, tokens)
    corridor = task.suite == "recall"
    length = max(geometry.context, WINDOWS * tokens if corridor else 0)
    changes = {"geometry": geometry, "length": length, "delayed": True, **SPIKING}
    if corridor:
        changes["rate"] = RATE
    runs = bench.train(bench.each_seed([{"structure": structure(name, tokens)} for name in SPARSITIES], **changes))
    rows: list[Row] = [
        {
            "task": task.name,
            "tokens": tokens,
            "matching": run.config.structure.sparsity,
            "seed": run.config.seed,
            "validation_loss": run.loss,
            "return": score["mean_return"],
            "normalised": score["normalised_score"],
            "relative_return": None,
        }
        for run, score in zip(runs, bench.score_all(runs), strict=True)
    ]
    if bench.budget.episodes:
        relate(rows, "matching", "return", "relative_return")
    return rows


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draw each run's loss and return, and the share of the dense mean that is enough."""
    left, right = figure.subplots(1, 2)
    plots.dots(left, rows, "matching", "validation_loss", "validation loss")
    plots.dots(right, rows, "matching", "return", f"return on {rows[0]['task']} (dashed: {ENOUGH:.0%} of dense)")
    dense = [row["return"] for row in rows if row["matching"] == "dense" and row["return"] is not None]
    if dense:
        right.axvline(ENOUGH * float(np.mean(dense)), color="#5f6b7a", linestyle="--", linewidth=1)


STUDY = Study(
    "sparse",
    "dense, block-sparse and hashed (LSH) matching where all reward comes at the end: loss and return",
    measure,
    draw,
    keys=("task", "tokens", "matching"),
    values=("validation_loss", "return", "normalised", "relative_return"),
)
