# SPDX-License-Identifier: MIT
"""Draw the learning curves of runs: training and validation loss of the float and the quantised phase.

Reads log.csv in each run's folder, also while the run goes on, and prints where each phase stands.

  python -m model.curves runs/hopper --png curves.png
  python -m model.curves runs/a runs/b --png curves.png --json curves.json        (overlaid)
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from model.command import ended
from model.files import ready, save, write_json
from model.studies.plots import COLOURS, STYLE
from model.training.trainer import PHASES

TITLES = {"float": "float phase", "quant": "quantised phase"}
LINES: dict[str, dict[str, Any]] = {
    "validation": {"marker": "."},
    "training, the batch of that update": {"alpha": 0.4, "linewidth": 0.9},
}
FIGURES = ("step", "loss", "validation_loss")

Run = dict[str, Any]
"""name, and per phase that has begun a list of rows: step, loss, validation_loss (None without validation data)."""


class CurveError(ValueError):
    """A folder without learning curves; the message says why."""


def read(folder: Path) -> Run:
    """Return the curves of a run. Raises `CurveError`."""
    path = folder / "log.csv"
    run: Run = {"name": str(folder)}
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                step, *losses = (float(row[name]) for name in FIGURES)
                known = [loss if loss == loss else None for loss in losses]
                run.setdefault(row["phase"], []).append(dict(zip(FIGURES, (int(step), *known), strict=True)))
    except OSError as error:
        raise CurveError(f"{path} cannot be read ({error.strerror}); give the folder of a run of model.train") from None
    except (KeyError, TypeError, ValueError):
        raise CurveError(f"{path} is no log of model.train; give the folder of one of its runs") from None
    if not any(phase in run for phase in PHASES):
        raise CurveError(f"{path} holds no update yet; wait until the run has logged one")
    return run


def table(runs: Sequence[Run]) -> str:
    """Return where each phase stands, a line each."""
    lines = []
    for run in runs:
        for phase in filter(run.get, PHASES):
            last = run[phase][-1]
            held = last["validation_loss"]
            lines.append(
                f"{run['name']}: {TITLES[phase]}, {last['step']} updates, training loss {last['loss']:.4f}"
                + ("" if held is None else f", validation loss {held:.4f}")
            )
    return "\n".join(lines)


def draw(runs: Sequence[Run]) -> Figure:
    """Return the figure: a panel per phase, a colour per run."""
    phases = [phase for phase in PHASES if any(phase in run for run in runs)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * len(phases) + 0.6, 3.4), layout="constrained")
        panels = figure.subplots(1, len(phases), sharey=True, squeeze=False)[0]
        for axes, phase in zip(panels, phases, strict=True):
            for number, run in enumerate(runs):
                rows, colour = run.get(phase, []), COLOURS[number % len(COLOURS)]
                steps = [row["step"] for row in rows]
                for name, style in zip(("validation_loss", "loss"), LINES.values(), strict=True):
                    # not drawn where it is not known
                    values = [float("nan") if row[name] is None else row[name] for row in rows]
                    axes.plot(steps, values, color=colour, **style)
            axes.set(title=TITLES[phase], xlabel="updates", yscale="log")
            axes.yaxis.set_minor_formatter("{x:.3g}")
            axes.yaxis.set_major_formatter("{x:.3g}")
        panels[0].set_ylabel("loss")
        for label, style in LINES.items():
            panels[0].plot([], [], color="#5f6b7a", label=label, **style)
        for number, run in enumerate(runs):
            panels[0].plot([], [], "s", color=COLOURS[number % len(COLOURS)], label=run["name"])
        figure.legend(loc="outside upper center", ncols=2 * len(phases))
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m model.curves", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run of model.train")
    parser.add_argument("--png", type=Path, help="figure to write")
    parser.add_argument("--json", type=Path, help="also write the curves to this file")
    options = parser.parse_args(arguments)
    try:
        ready(options.png, options.json)
        runs = [read(folder) for folder in options.runs]
        if options.png:
            figure = draw(runs)
            save(options.png, lambda partial: figure.savefig(partial, format="png", metadata={"Software": None}))
        if options.json:
            write_json(options.json, runs)
    except (CurveError, OSError, KeyboardInterrupt) as error:
        return ended(error)
    print(table(runs))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
