# SPDX-License-Identifier: MIT
"""The head's three-factor rule beside the gradient: does training reach its target sooner?

Source: SNN-DT (arXiv 2508.21505). Float networks; the rule alone, in integers, is the study `changed`.
"""

import numpy as np
from matplotlib.figure import Figure

from model.scores.suites import SPIKING
from model.studies import plots
from model.studies.runs import Bench, Row, Study, flown

RATES = (0.0, 0.01, 0.1)
SHARE = 0.8
"""Of the updates, after which the training without the rule has the loss that is the target of its seed."""
OVER = {"updates_to_target": "updates_over", "validation_loss": "loss_over", "return": "return_over"}
"""value -> the same less that of the training without the rule."""


def reached(curve: list[tuple[int, float, float]], target: float) -> float | None:
    """Return the update at which the validation loss first is the target or below, None if it never is.

    curve : (update, training loss, validation loss), in order; a line between two of them.
    """
    before: tuple[float, float] | None = None
    for update, _, loss in curve:
        if loss <= target:
            if before is None or before[1] == loss:
                return float(update)
            return before[0] + (update - before[0]) * (before[1] - target) / (before[1] - loss)
        before = (update, loss)
    return None


def measure(bench: Bench) -> list[Row]:
    """Train with every rate of the rule for every seed, and fly."""
    runs = bench.train(bench.each_seed([{"plasticity": rate} for rate in RATES], **SPIKING))
    targets = {}
    for run in runs[: bench.budget.seeds]:
        updates, _, losses = zip(*run.curve(), strict=True)
        targets[run.config.seed] = float(np.interp(SHARE * bench.budget.steps, updates, losses))
    rows = []
    for run, score in zip(runs, bench.score_all(runs), strict=True):
        target, rate = targets[run.config.seed], run.config.plasticity
        row = flown(f"{rate:g}" if rate else "without", run, score) | {"target": target}
        row["updates_to_target"] = reached(run.curve(), target)
        row["reached"] = float(row["updates_to_target"] is not None)
        row["curve"] = [(update, loss / target) for update, _, loss in run.curve()]
        rows.append(row)
    plain = {row["seed"]: row for row in rows if row["variant"] == "without"}
    for row in rows:
        for value, name in OVER.items():
            pair = row[value], plain[row["seed"]][value]
            row[name] = None if row["variant"] == "without" or None in pair else pair[0] - pair[1]
    return rows


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draw loss over updates, and what the rule adds to loss and return, with intervals."""
    curves, losses, returns = figure.subplots(1, 3)
    for number, name in enumerate(plots.names(rows, "variant")):
        lines = np.array([row["curve"] for row in rows if row["variant"] == name])
        curves.plot(lines[0, :, 0], lines[..., 1].mean(0), color=plots.COLOURS[number], label=name)
    curves.axhline(1, color="#5f6b7a", linewidth=0.8)
    curves.set(xlabel="update", ylabel="validation loss over target, mean over seeds")
    curves.legend(title="rate of the rule", fontsize=7)
    for axes, value, text in (
        (losses, "loss_over", "validation loss less that without the rule"),
        (returns, "return_over", "return less that without the rule"),
    ):
        plots.dots(axes, rows, "variant", value, text)
        plots.intervals(axes, rows, "variant", value)
        axes.axvline(0, color="#5f6b7a", linewidth=0.8)
    returns.set_yticklabels([])


STUDY = Study(
    "plasticity",
    "a three-factor rule of the head beside the gradient: updates to a target loss (--task acrobot-mixed)",
    measure,
    draw,
    keys=("variant",),
    values=("validation_loss", "loss_over", "updates_to_target", "updates_over", "reached", "return", "return_over"),
    size=(12.0, 3.6),
    interval=True,
)
