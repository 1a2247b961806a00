# SPDX-License-Identifier: MIT
"""The picture of a measurement: each window's power over time, drawn from the result alone."""

from typing import Any

from matplotlib.figure import Figure

COLOURS = {"idle": "#8b95a3", "configured": "#d9730d", "running": "#1f6feb"}

MOST_RAILS = 3
"""Shown; the first are the board's 12 V and the rails that change most."""


def shown_rails(result: dict[str, Any]) -> list[str]:
    """Return the rails worth a picture: the whole board's, then those in which running differs most from idle."""
    rails = result["rails"]
    order = sorted(rails, key=lambda rail: (rail != "12V", -abs(rails[rail]["incremental_mw"]["mean"])))
    return order[:MOST_RAILS]


def draw_power(figure: Figure, result: dict[str, Any]) -> None:
    """Draw the windows of a result that has rails."""
    names = shown_rails(result)
    rows = figure.subplots(len(names), sharex=True, squeeze=False)[:, 0]
    for axes, rail in zip(rows, names, strict=True):
        for window in result["windows"]:
            if rail in window["mw"]:
                span, level = (window["begin_s"], window["end_s"]), window["mw"][rail]
                axes.plot(span, (level, level), color=COLOURS[window["state"]], linewidth=3, solid_capstyle="butt")
        axes.set_ylabel(f"{rail}, mW")
        axes.margins(x=0.01)
    for state, colour in COLOURS.items():
        rows[0].plot([], [], color=colour, linewidth=3, label=state)
    rows[0].legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    rows[-1].set_xlabel("seconds; a line is the mean of a window")
