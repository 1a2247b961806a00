# SPDX-License-Identifier: MIT
"""The baselines' rates and whether they see their last action: the search behind `model.scores.suites.METHODS`."""

import dataclasses

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from model.scores import suites
from model.scores.suites import METHODS, configuration
from model.studies import plots
from model.studies.runs import Bench, Row, Study
from model.training.config import NETWORKS

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""Peak rates."""

SEARCHED = NETWORKS[1:]
"""The methods: what is no spiking network."""

HIDDEN = (0.0, 0.9)
"""Chances that a token does not show its previous action; BC never sees it."""


def measure(bench: Bench) -> list[Row]:
    """Train every method at every rate for each seed, all else as in a table of scores; validation loss and return."""
    budget, g = bench.budget, bench.budget.geometry
    size = suites.Budget(g.d_model, g.layers, g.window, batch=budget.batch, steps=budget.steps, quant_steps=0)
    cases = [
        (name, hidden, rate, seed)
        for name in SEARCHED
        for hidden in (HIDDEN[:1] if name == "bc" else HIDDEN)
        for rate in RATES
        for seed in range(budget.seeds)
    ]
    runs = bench.train(
        [
            dataclasses.replace(
                configuration(budget.task, METHODS[name], size, bench.episodes, seed), rate=rate, action_dropout=hidden
            )
            for name, hidden, rate, seed in cases
        ]
    )
    return [
        {
            "method": name,
            "action_dropout": hidden,
            "rate": rate,
            "seed": seed,
            "validation_loss": run.loss,
            "return": score["mean_return"],
            "normalised": score["normalised_score"],
        }
        for (name, hidden, rate, seed), run, score in zip(cases, runs, bench.score_all(runs), strict=True)
    ]


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draw loss and return over the rate, a line through each method's means; dashed where actions are hidden."""
    left, right = figure.subplots(1, 2)
    _over_rates(left, rows, "validation_loss", "validation loss (dot: a training seed, line: mean)")
    left.set_yscale("log")
    left.yaxis.set_minor_formatter("{x:.3g}")
    left.yaxis.set_major_formatter("{x:.3g}")
    _over_rates(right, rows, "return", "return")
    plots.say_if_missing(right, rows, "return")
    right.legend(*left.get_legend_handles_labels(), loc="center left", bbox_to_anchor=(1.02, 0.5))


def _over_rates(axes: Axes, rows: list[Row], value: str, label: str) -> None:
    for number, method in enumerate(plots.names(rows, "method")):
        colour = plots.COLOURS[number]
        for hidden in HIDDEN:
            known = [
                row
                for row in rows
                if row["method"] == method and row["action_dropout"] == hidden and row[value] is not None
            ]
            if not known:
                continue
            rates = sorted({row["rate"] for row in known})
            means = [np.mean([row[value] for row in known if row["rate"] == rate]) for rate in rates]
            style, name = ("--", f"{method}, action hidden") if hidden else ("-", method)
            axes.plot([row["rate"] for row in known], [row[value] for row in known], ".", color=colour, alpha=0.6)
            axes.plot(rates, means, style, color=colour, label=name)
    axes.set(xlabel="peak learning rate", ylabel=label, xscale="log")


STUDY = Study(
    "rates",
    "learning rates of the baselines, with their last action and without, for the tables' recipes: loss and return",
    measure,
    draw,
    keys=("method", "action_dropout", "rate"),
    values=("validation_loss", "return", "normalised"),
)
