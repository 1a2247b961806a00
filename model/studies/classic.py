# SPDX-License-Identifier: MIT
"""Classic control with the modules of SNN-DT off and on, beside the returns that its authors printed.

Float networks: the routing of the paper has no integer form.
"""

import dataclasses

from matplotlib.figure import Figure

from model.data.tasks import SNN_DT_RETURNS
from model.scores.suites import SPIKING
from model.studies import plots
from model.studies.runs import Bench, Row, Study, flown

HEADS = 4

VARIANTS: dict[str, Row] = {
    "none": {},
    "phase": {"phase": "query"},
    "routing": {"routing": "mlp"},
    "phase and routing": {"phase": "query", "routing": "mlp"},
    "adaptive": {"adaptive": True},
    "all": {"phase": "query", "routing": "mlp", "adaptive": True},
}
"""label -> changed fields of the geometry."""

STEP_COST = 0.002
"""Price of a live step where gates choose (the study `adaptive` says what it buys)."""

PRINTED = {"none": "Baseline", "phase": "Pos-only", "routing": "Route-only", "phase and routing": "Full"}
"""label -> what the authors of SNN-DT call it. Their returns are no measurements that could be checked."""


def measure(bench: Bench) -> list[Row]:
    """Train every variant for every seed and fly it."""
    fields = []
    for choices in VARIANTS.values():
        heads = HEADS if {"phase", "routing"} & set(choices) else 1
        geometry = dataclasses.replace(bench.budget.geometry, heads=heads, **choices)
        fields.append({"geometry": geometry, "step_cost": STEP_COST if geometry.adaptive else 0.0})
    runs = bench.train(bench.each_seed(fields, **SPIKING))
    labels = [label for label in VARIANTS for _ in range(bench.budget.seeds)]
    printed = SNN_DT_RETURNS.get(bench.budget.task.environment.split("-")[0], {})
    rows = []
    for label, run, score in zip(labels, runs, bench.score_all(runs), strict=True):
        found = printed.get(PRINTED.get(label, ""))
        row = flown(label, run, score) | {
            "printed_by_authors": "-" if found is None else "{:.1f} +- {:.1f}".format(*found)
        }
        row |= {"episode_std": score["std_return"], "rows": score["active_rows_per_decision"], "over_none": None}
        rows.append(row)
    plain = {row["seed"]: row["return"] for row in rows if row["variant"] == "none"}
    for row in rows:
        if row["variant"] != "none" and row["return"] is not None:
            row["over_none"] = row["return"] - plain[row["seed"]]
    return rows


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draw returns with intervals and what was printed, and the differences from none of the same seed."""
    returns, differences = figure.subplots(1, 2)
    label = "return (dot: a training seed, line: 95 % interval of the mean,\ndiamond: printed by SNN-DT's authors)"
    for axes, value, text in (
        (returns, "return", label),
        (differences, "over_none", "return less that of none, same seed"),
    ):
        plots.dots(axes, rows, "variant", value, text)
        plots.intervals(axes, rows, "variant", value)
    for number, name in enumerate(plots.names(rows, "variant")):
        printed = next(row["printed_by_authors"] for row in rows if row["variant"] == name)
        if printed != "-":
            returns.plot(float(printed.split()[0]), number - 0.2, "D", color="#39424e", fillstyle="none", markersize=6)
    differences.axvline(0, color="#5f6b7a", linewidth=0.8)
    differences.set_yticklabels([])


STUDY = Study(
    "classic",
    "phase codes, routing and step gates off and on, beside SNN-DT's printed returns (--task cartpole-mixed)",
    measure,
    draw,
    keys=("variant", "printed_by_authors"),
    values=("return", "over_none", "normalised", "episode_std", "validation_loss", "rows"),
    size=(11.0, 3.6),
    interval=True,
)
