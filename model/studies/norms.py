# SPDX-License-Identifier: MIT
"""Norms: layer norm, batch norm and both PTBN between them; and how PTBN should turn from one into the other."""

import dataclasses

from matplotlib.figure import Figure

from model.studies import plots
from model.studies.runs import Bench, Row, Study, flown, relate

NORM_VARIANTS = {
    "PTBN": {"norm": "ptbn"},
    "PTRepBN": {"norm": "ptrepbn"},
    "tdBN only": {"norm": "tdbn"},
    "tdLN only": {"norm": "tdln"},
}

SCHEDULE_VARIANTS = {
    "linear 10 %": {},
    "cosine 10 %": {"norm_schedule": "cosine"},
    "step 10 %": {"norm_schedule": "step"},
    "linear 50 %": {"norm_ratio": 0.5},
    "hold 25 %, linear 10 %": {"norm_hold": 0.25},
}
"""All of PTBN; shares are of the float phase's updates."""


def compare(bench: Bench, variants: dict[str, Row]) -> list[Row]:
    """Train each variant (label -> changed fields) for each seed: loss curve, validation loss and return per run."""
    configs = bench.each_seed(variants.values())
    runs = bench.train(configs)
    labels = [label for label in variants for _ in range(bench.budget.seeds)]
    rows = []
    for label, run, score in zip(labels, runs, bench.score_all(runs), strict=True):
        rows.append(flown(label, run, score) | {"curve": run.curve()})
    relate(rows, "variant")
    return rows


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draw loss curves, losses seed by seed, and returns."""
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.4, 1, 1))
    plots.loss_curves(left, rows, "variant")
    first = rows[0]["variant"]
    plots.dots(middle, rows, "variant", "relative_loss", f"final loss / loss of {first}, same seed")
    plots.dots(right, rows, "variant", "return", "return (dot: a training seed, bar: mean)")
    right.set_yticklabels([])


NORMS = Study(
    "norms",
    "PTBN against its second form, batch norm alone and layer norm alone",
    lambda bench: compare(bench, NORM_VARIANTS),
    draw,
    keys=("variant",),
    values=("validation_loss", "relative_loss", "return", "normalised"),
    size=(11.5, 3.8),
)

SCHEDULE = dataclasses.replace(
    NORMS,
    name="schedule",
    summary="how PTBN turns from layer norm into batch norm: schedule, share of the updates, hold before",
    measure=lambda bench: compare(bench, SCHEDULE_VARIANTS),
)
