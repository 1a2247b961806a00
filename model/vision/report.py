# SPDX-License-Identifier: MIT
"""The results of classifiers as a table and as a figure."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from model.files import save
from model.studies import plots
from model.studies.runs import summed_up

Row = dict[str, Any]

KEYS = ("data", "style", "attention")
COLUMNS = {
    "accuracy": ("accuracy (%)", 100.0, ".1f"),
    "entropy": ("entropy (0..1)", 1.0, ".3f"),
    "expected_distance": ("expected distance (tokens)", 1.0, ".2f"),
    "near": ("within 5 (%)", 100.0, ".1f"),
    "empty": ("looks nowhere (%)", 100.0, ".1f"),
    "state_bits": ("state (KiB)", 1 / 8192, ".2f"),
    "peak_kib": ("peak (KiB)", 1.0, ".0f"),
    "parameters": ("parameters", 1.0, ",.0f"),
}
"""Measured value -> its heading, what it is multiplied by there, and how it is written."""
FIXED = ("state_bits", "peak_kib", "parameters")
"""The same for every seed."""
PANELS = ("accuracy", "entropy", "expected_distance", "state_bits")


def markdown(rows: list[Row]) -> str:
    """Return rows averaged over seeds as a Markdown table, `mean +- deviation`."""
    heads = [*KEYS, *(heading for heading, *_ in COLUMNS.values()), "seeds"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in summed_up(rows, KEYS, tuple(COLUMNS)):
        cells = [str(row[key]) for key in KEYS]
        for name, (_, factor, form) in COLUMNS.items():
            mean, spread = row[name], row[f"{name}_std"]
            text = "-" if mean is None else f"{factor * mean:{form}}"
            cells.append(text if spread is None or name in FIXED else f"{text} +- {factor * spread:{form}}")
        lines.append("| " + " | ".join([*cells, str(row["n"])]) + " |")
    return "\n".join(lines) + "\n"


def draw(rows: list[Row], path: Path) -> None:
    """Draw accuracy, entropy, expected distance and state of every attention, a dot per run; a line of panels per set.

    Written whole or not at all.
    """
    sets, styles, attentions = (plots.names(rows, key) for key in KEYS)
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(3.2 * len(PANELS), 0.9 + 2.3 * len(sets)), layout="constrained")
        grid = figure.subplots(len(sets), len(PANELS), squeeze=False)
        for line, data in zip(grid, sets, strict=True):
            for axes, name in zip(line, PANELS, strict=True):
                heading, factor, _ = COLUMNS[name]
                for place, style in enumerate(styles):
                    for number, attention in enumerate(attentions):
                        case = (data, style, attention)
                        mine = [row[name] for row in rows if tuple(row[key] for key in KEYS) == case]
                        known = [factor * value for value in mine if value is not None]
                        x = place + 0.17 * (number - (len(attentions) - 1) / 2)
                        look = {"color": plots.COLOURS[number], "label": attention if place == 0 else None}
                        axes.plot([x] * len(known), known, "o", markersize=5, alpha=0.7, **look)
                axes.set_xticks(range(len(styles)), styles)
                axes.set_xlim(-0.5, len(styles) - 0.5)
                axes.set(title=data, ylabel=heading)
                if name != "accuracy":
                    shown = [factor * row[name] for row in rows if row["data"] == data and row[name] is not None]
                    axes.set_ylim(0, 1.1 * max(shown, default=1.0))
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(attentions))
        save(path, lambda partial: figure.savefig(partial, format="png", metadata={"Software": None}))
