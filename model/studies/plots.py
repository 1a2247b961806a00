# SPDX-License-Identifier: MIT
"""A study's figure as a file, and panels that several draw: loss curves and scores, mean and spread over seeds."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from model.files import save
from model.studies.runs import Row, Study, half_width

COLOURS = ("#1f6feb", "#d9730d", "#2f9e63", "#b0308c", "#7a5cc7", "#8a6d3b", "#5f6b7a", "#c4342d")

STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#c5ccd6",
    "axes.grid": True,
    "axes.labelcolor": "#39424e",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.dpi": 100,
    "font.size": 9,
    "grid.color": "#e9edf2",
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "xtick.color": "#39424e",
    "ytick.color": "#39424e",
}


def draw(study: Study, rows: list[Row], path: Path) -> None:
    """Write a study's figure, whole or not at all."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=study.size, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # type: ignore[union-attr]
        study.draw(figure, rows)
        save(path, lambda partial: figure.savefig(partial, format="png", metadata={"Software": None}))


def names(rows: Sequence[Row], key: str) -> list[str]:
    """Return the different values of a column in order of appearance."""
    return list(dict.fromkeys(row[key] for row in rows))


def loss_curves(axes: Axes, rows: Sequence[Row], key: str) -> None:
    """Draw every variant's validation loss over updates, the mean of its seeds.

    Rows need `key` and `curve`, a list of (update, training loss, validation loss).
    """
    for number, name in enumerate(names(rows, key)):
        curves = np.array([row["curve"] for row in rows if row[key] == name])
        axes.plot(curves[0, :, 0], curves[:, :, 2].mean(0), color=COLOURS[number], label=name, marker=".")
    axes.set(xlabel="updates", ylabel="validation loss, mean of seeds (MSE of actions)", yscale="log")
    axes.yaxis.set_minor_formatter("{x:.3g}")
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.legend()


def dots(axes: Axes, rows: Sequence[Row], key: str, value: str, label: str) -> None:
    """Draw one dot per row and a bar at the mean of each variant, variants from top to bottom."""
    order = names(rows, key)
    for number, name in enumerate(order):
        values = [row[value] for row in rows if row[key] == name and row[value] is not None]
        colour = COLOURS[number % len(COLOURS)]
        if not values:
            continue
        axes.plot(values, [number] * len(values), "o", color=colour, alpha=0.6, markersize=5)
        axes.plot([np.mean(values)] * 2, [number - 0.3, number + 0.3], color=colour, linewidth=2.5)
    axes.set_yticks(range(len(order)), [str(name) for name in order])
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlabel(label)
    say_if_missing(axes, rows, value)


def intervals(axes: Axes, rows: Sequence[Row], key: str, value: str) -> None:
    """Add to `dots` the 95 % confidence interval of each variant's mean, where it has several rows."""
    for number, name in enumerate(names(rows, key)):
        values = [row[value] for row in rows if row[key] == name and row[value] is not None]
        if len(values) > 1:
            half = half_width(float(np.std(values, ddof=1)), len(values))
            colour = COLOURS[number % len(COLOURS)]
            axes.errorbar(np.mean(values), number + 0.2, xerr=half, color=colour, capsize=3)


def say_if_missing(axes: Axes, rows: Sequence[Row], value: str) -> None:
    """Say in an empty panel why it is: a study may be run without episodes."""
    if all(row[value] is None for row in rows):
        axes.text(0.5, 0.5, "no episodes flown", transform=axes.transAxes, ha="center", va="center", color="#5f6b7a")
