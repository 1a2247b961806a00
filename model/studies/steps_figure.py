# SPDX-License-Identifier: MIT
"""The figure of the study `adaptive`."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from model.studies import plots
from model.studies.runs import Row

BINS = 20


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draw return and cycles over the price, return over cycles; live steps over step, return-to-go and gait phase."""
    grid = figure.subplots(2, 3)
    gated = [row for row in rows if row["step_cost"] is not None]
    fixed = [row for row in rows if row["step_cost"] is None]
    for axes, value, label in zip(grid[0], ("return", "cycles"), ("return", "cycles a decision"), strict=False):
        _over_price(axes, gated, fixed, value)
        axes.set(xlabel="price of a live step, λ", ylabel=label)
        plots.say_if_missing(axes, rows, value)
    _trade(grid[0][2], rows)
    if not rows or rows[0]["by_step"] is None:
        for axes in grid[1]:
            plots.say_if_missing(axes, rows, "by_step")
        return
    for number, cost in enumerate(plots.names(gated, "step_cost")):
        episodes = [e for row in gated if row["step_cost"] == cost for e in row["by_step"]]
        live = [np.mean(e["live"], axis=1) for e in episodes]
        sources = (
            [np.arange(len(e["live"])) for e in episodes],
            [e["to_go"] for e in episodes],
            [[np.nan if p is None else p for p in e["phase"]] for e in episodes],
        )
        for axes, source in zip(grid[1], sources, strict=True):
            _binned(axes, np.concatenate(source), np.concatenate(live), f"λ = {cost:g}", plots.COLOURS[number])
    labels = ("step of the episode", "return-to-go", "gait phase (0: the torso is lowest)")
    for axes, label in zip(grid[1], labels, strict=True):
        axes.set(xlabel=label, ylabel="live steps, mean of the layers")
    grid[1][1].invert_xaxis()
    grid[1][0].legend()


def _over_price(axes: Axes, gated: list[Row], fixed: list[Row], value: str) -> None:
    """Draw gates over their price, fixed steps as lines across."""
    costs = plots.names(gated, "step_cost")
    known = [row for row in gated if row[value] is not None]
    axes.plot([costs.index(r["step_cost"]) for r in known], [r[value] for r in known], "o", color=plots.COLOURS[0])
    means = [np.mean([r[value] for r in known if r["step_cost"] == cost]) for cost in costs] if known else []
    axes.plot(range(len(means)), means, color=plots.COLOURS[0], label="gates")
    for number, steps in enumerate(plots.names(fixed, "steps")):
        values = [row[value] for row in fixed if row["steps"] == steps and row[value] is not None]
        if values:
            style = {"color": plots.COLOURS[1 + number], "linestyle": "--", "label": f"fixed T = {steps}"}
            axes.axhline(float(np.mean(values)), **style)
    axes.set_xticks(range(len(costs)), [f"{cost:g}" for cost in costs])
    axes.legend()


def _trade(axes: Axes, rows: list[Row]) -> None:
    """Draw return over cycles, a point per training."""
    for row in rows:
        if row["cycles"] is None:
            continue
        gate = row["step_cost"] is not None
        axes.plot(row["cycles"], row["return"], "o" if gate else "s", color=plots.COLOURS[0 if gate else 1])
        name = f"λ {row['step_cost']:g}" if gate else f"T {row['steps']}"
        axes.annotate(name, (row["cycles"], row["return"]), xytext=(4, 4), textcoords="offset points")
    plots.say_if_missing(axes, rows, "cycles")
    axes.set(xlabel="cycles a decision (verilated circuit)", ylabel="return")


def _binned(axes: Axes, x: np.ndarray, y: np.ndarray, label: str, colour: str) -> None:
    """Draw the mean of y over equal shares of x's range; bins of fewer than 10 decisions are left out."""
    known = ~np.isnan(x)
    x, y = x[known], y[known]
    if not len(x):
        return
    edges = np.linspace(x.min(), x.max() + 1e-9, BINS + 1)
    number = np.digitize(x, edges) - 1
    full = [n for n in range(BINS) if (number == n).sum() >= 10]
    axes.plot(
        [(edges[n] + edges[n + 1]) / 2 for n in full], [y[number == n].mean() for n in full], color=colour, label=label
    )
