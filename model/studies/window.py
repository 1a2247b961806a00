# SPDX-License-Identifier: MIT
"""Window S and SNN steps T: what a longer window and more steps buy, and what they cost beside it."""

import dataclasses

import torch
from matplotlib.figure import Figure

from model.network.network import Network, Record
from model.studies import plots
from model.studies.runs import Bench, Row, Study

WINDOWS = (2, 4, 8)
STEPS = (1, 2, 4, 8)
SAMPLES = 64
"""Held-out windows whose spikes are counted."""


@torch.no_grad()
def accumulates(network: Network, tokens: torch.Tensor) -> float:
    """Return the additions per decision that spikes cause: tokens [batch, length, inputs] without padding.

    A spike adds one weight to each output of its linear, a `key AND value` spike one tap to each token of its window.
    The embedding and the head multiply and are not counted.
    """
    record = Record()
    network(tokens, record=record)
    g, total = network.geometry, 0.0
    fan_out = {"entry": 3 * g.d_model, "window": g.d_model, "mlp": g.d_mlp, "fc1": g.d_model}
    for layer in range(g.layers):
        spikes = {name: record.spikes[f"layer{layer}.{name}"] for name in (*fan_out, "key", "value")}
        total += sum(float(spikes[name].sum()) * outputs for name, outputs in fan_out.items())
        total += float((spikes["key"] * spikes["value"]).sum()) * g.window
    return total / (tokens.shape[0] * tokens.shape[1])


def measure(bench: Bench) -> list[Row]:
    """Train each window at the geometry's steps, and each number of steps at its window."""
    g = bench.budget.geometry
    sizes = [(window, g.steps) for window in WINDOWS] + [(g.window, steps) for steps in STEPS]
    sizes = list(dict.fromkeys(sizes))
    geometries = [dataclasses.replace(g, window=window, steps=steps) for window, steps in sizes]
    # the same windows of data for all: as long as the widest needs
    length = max(24, *(geometry.context for geometry in geometries))
    configs = bench.each_seed([{"geometry": geometry} for geometry in geometries], length=length)
    runs = bench.train(configs)
    rows = []
    for run, score in zip(runs, bench.score_all(runs), strict=True):
        saved, geometry = run.load(), run.config.geometry
        tokens, _ = bench.held_out(saved, SAMPLES, length)
        fetched = score["active_rows_per_decision"]
        rows.append(
            {
                "window": geometry.window,
                "steps": geometry.steps,
                "seed": run.config.seed,
                "validation_loss": run.loss,
                "return": score["mean_return"],
                "normalised": score["normalised_score"],
                "ac_per_decision": accumulates(saved.network, tokens),
                # a bound, not a measurement: fetches of the linears' rows alone
                "fetch_cycles": None if fetched is None else fetched / geometry.rows_per_cycle,
                "context": geometry.context,
                "length": run.config.length,
            }
        )
    return rows


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draw loss, return and cost over S (top) and T (bottom)."""
    base = {key: _common(rows, key) for key in ("window", "steps")}
    panels = {
        "validation_loss": "validation loss",
        "return": "return",
        "ac_per_decision": "AC per decision",
        "fetch_cycles": "row-fetch cycles",
    }
    labels = {"window": "window S (tokens), T = {steps}", "steps": "SNN steps T, S = {window}"}
    grid = figure.subplots(2, len(panels), squeeze=False)
    for line, (varied, fixed) in zip(grid, (("window", "steps"), ("steps", "window")), strict=True):
        chosen = [row for row in rows if row[fixed] == base[fixed]]
        for axes, (value, label) in zip(line, panels.items(), strict=True):
            for number, seed in enumerate(plots.names(chosen, "seed")):
                mine = sorted((row for row in chosen if row["seed"] == seed), key=lambda row: row[varied])
                points = [row[varied] for row in mine], [row[value] for row in mine]
                axes.plot(*points, marker="o", markersize=4, color=plots.COLOURS[number], label=f"seed {seed}")
            plots.say_if_missing(axes, chosen, value)
            axes.set(xlabel=labels[varied].format(**base), ylabel=label)
            if value not in ("validation_loss", "return"):
                axes.set_ylim(0, 1.1 * axes.get_ylim()[1])  # a cost is read as a share of another
            axes.set_xscale("log", base=2)
            axes.set_xticks(sorted({row[varied] for row in chosen}))
            axes.xaxis.set_major_formatter("{x:.0f}")
    grid[0][0].legend()


def _common(rows: list[Row], key: str) -> int:
    """Return the value of the sweep's fixed side: the one that most rows have."""
    values = [row[key] for row in rows]
    return max(set(values), key=values.count)


STUDY = Study(
    "window",
    "window S and SNN steps T: loss and return, additions and row-fetch cycles beside them",
    measure,
    draw,
    keys=("window", "steps"),
    values=("validation_loss", "return", "ac_per_decision", "fetch_cycles"),
    size=(12.0, 5.4),
)
