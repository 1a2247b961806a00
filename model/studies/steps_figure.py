# SPDX-License-Identifier: MIT
"""The figure of the study `adaptive`."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from model.studies import plots
from model.studies.runs import Row

FEWEST = 10
PROFILES = {"step": "step of the episode", "to_go": "return-to-go", "phase": "gait phase (0: the torso is lowest)"}
"""profile of `adaptive.profiles` -> what it is over."""


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
    for axes, name in zip(grid[1], PROFILES, strict=True):
        plots.say_if_missing(axes, rows, "profiles")
        for number, cost in enumerate(plots.names(gated, "step_cost")):
            known = [row["profiles"] for row in gated if row["step_cost"] == cost and row["profiles"]]
            _profile(axes, [p for profile in known for p in profile[name]], f"λ = {cost:g}", plots.COLOURS[number])
    for axes, label in zip(grid[1], PROFILES.values(), strict=True):
        axes.set(xlabel=label, ylabel="live steps, mean of the layers")
    grid[1][1].invert_xaxis()
    if any(row["profiles"] for row in gated):
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


def _profile(axes: Axes, points: list[list[float]], label: str, colour: str) -> None:
    """Draw the mean of all seeds at the bins of a profile; bins of fewer than `FEWEST` decisions are left out.

    points : (lower edge, mean, decisions) of every seed.
    """
    drawn = []
    for edge in sorted({point[0] for point in points}):
        means, counts = np.array([point[1:] for point in points if point[0] == edge]).T
        if counts.sum() >= FEWEST:
            drawn.append((edge, np.average(means, weights=counts)))
    if drawn:
        axes.plot(*zip(*drawn, strict=True), color=colour, label=label)
