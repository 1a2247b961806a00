# SPDX-License-Identifier: MIT
"""The recipe: what makes the float network stronger, steadier at its last update, and obedient to the return asked for.

Every variant departs from the first in one thing; the last ones put together what helped.
"""

from matplotlib.figure import Figure

from model.studies import plots
from model.studies.runs import Bench, Row, Study, flown, relate

FROZEN: Row = {"norm_freeze": 1 / 3}
AVERAGED: Row = {"average": 0.995}

VARIANTS: dict[str, Row] = {
    "as before": {},
    "norms frozen, last third": FROZEN,
    "weights averaged": AVERAGED,
    "frozen and averaged": FROZEN | AVERAGED,
    "batch 24": {"batch": 24},
    "rate 3e-4": {"rate": 3e-4},
    "rate 3e-3": {"rate": 3e-3},
    "linear decay": {"rate_decay": "linear"},
    "constant rate": {"rate_decay": "constant"},
    "observation noise 0.05": {"observation_noise": 0.05},
    "action dropout 0.3": {"action_dropout": 0.3},
    "to-go jitter 0.1": {"to_go_jitter": 0.1},
    "to-go four times as large": {"return_scale": 0.25},
}
"""label -> changed fields of `TrainConfig`; of `return_scale` the factor on the task's."""

LOW_TARGET = 0.5
"""Share of the task's target return that the second score asks for."""


def measure(bench: Bench) -> list[Row]:
    """Train each variant for each seed; fly it with the task's target and with half of it."""
    scale = bench.budget.task.return_scale
    fields = [
        changes | ({"return_scale": scale * changes["return_scale"]} if "return_scale" in changes else {})
        for changes in VARIANTS.values()
    ]
    runs = bench.train(bench.each_seed(fields))
    low = LOW_TARGET * bench.budget.task.target_return
    labels = [label for label in VARIANTS for _ in range(bench.budget.seeds)]
    rows = []
    for label, run, score in zip(labels, runs, bench.score_all(runs), strict=True):
        more = {"episode_std": score["std_return"], "return_low": bench.score(run.file, low)["mean_return"]}
        rows.append(flown(label, run, score) | more)
    relate(rows, "variant")
    return rows


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draw losses seed by seed, returns, and returns with half the target."""
    left, middle, right = figure.subplots(1, 3)
    first = rows[0]["variant"]
    plots.dots(left, rows, "variant", "relative_loss", f"final loss / loss of {first}, same seed")
    plots.dots(middle, rows, "variant", "return", "return (dot: a training seed, bar: mean)")
    plots.dots(right, rows, "variant", "return_low", f"return when {LOW_TARGET:g} of the target is asked for")
    for axes in (middle, right):
        axes.set_yticklabels([])


STUDY = Study(
    "recipe",
    "norm freezing, weight averaging, rate, decay, batch, noise, dropout of the action, jitter: loss and return",
    measure,
    draw,
    keys=("variant",),
    values=("validation_loss", "relative_loss", "return", "episode_std", "normalised", "return_low"),
    size=(12.5, 4.6),
)
