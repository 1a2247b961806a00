# SPDX-License-Identifier: MIT
"""What holds PSSA back where one good agent is imitated: one thing changed at a time, beside the baselines."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from model.scores import suites
from model.scores.suites import METHODS, configuration
from model.studies import plots
from model.studies.runs import Bench, Row, Study, flown

AS_IN_THE_TABLES = "PSSA as in the tables"
PSSA: dict[str, dict[str, Any]] = {
    AS_IN_THE_TABLES: {},
    "T = 1 SNN step": {"steps": 1},
    "T = 2": {"steps": 2},
    "T = 8": {"steps": 8},
    "window of 2 tokens": {"window": 2},
    "window of 16": {"window": 16},
}
"""What is changed in the geometry."""
TRAINED: dict[str, dict[str, Any]] = {
    "rate 3e-3": {"rate": 3e-3},
    "previous action hidden, 90 %": {"action_dropout": 0.9},
    "observation noise 0.05": {"observation_noise": 0.05},
}
"""What is changed in the training."""
BASELINES: dict[str, tuple[str, dict[str, Any]]] = {
    "DT, one token": ("dt-1-token", {}),
    "DT that looks back 8 tokens": ("dt-1-token", {"length": 8}),
    "DT that sees its previous action": ("dt-1-token", {"action_dropout": 0.0}),
    "BC": ("bc", {}),
}


def measure(bench: Bench) -> list[Row]:
    """Train every variant for each seed, in floating point; validation loss and return."""
    budget, g = bench.budget, bench.budget.geometry
    size = suites.Budget(g.d_model, g.layers, g.window, batch=budget.batch, steps=budget.steps, quant_steps=0)
    variants: Mapping[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
        **{name: ("pssa", change, {}) for name, change in PSSA.items()},
        **{name: ("pssa", {}, change) for name, change in TRAINED.items()},
        **{name: (method, {}, change) for name, (method, change) in BASELINES.items()},
    }
    names, configs = [], []
    for name, (method, geometry, training) in variants.items():
        for seed in range(budget.seeds):
            config = configuration(budget.task, METHODS[method], size, bench.episodes, seed)
            changed = dataclasses.replace(config.geometry, **geometry)
            reach = {"length": max(config.length, changed.context)} if geometry else {}
            names.append(name)
            configs.append(dataclasses.replace(config, **{"geometry": changed} | reach | training))
    runs = bench.train(configs)
    return [
        flown(name, run, score) | {"episode_std": score["std_return"]}
        for name, run, score in zip(names, runs, bench.score_all(runs), strict=True)
    ]


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draw loss, return and the deviation within a run, a line of dots per variant."""
    axes = figure.subplots(1, 3)
    plots.dots(axes[0], rows, "variant", "validation_loss", "validation loss")
    plots.dots(axes[1], rows, "variant", "return", "return")
    plots.dots(axes[2], rows, "variant", "episode_std", "deviation of the return within a run")
    for other in axes[1:]:
        other.set_yticklabels([])


STUDY = Study(
    "expert",
    "what holds PSSA back where an expert is imitated: SNN steps, window, rate, previous action, beside DT and BC",
    measure,
    draw,
    keys=("variant",),
    values=("validation_loss", "return", "episode_std", "normalised"),
    size=(12.5, 4.6),
)
