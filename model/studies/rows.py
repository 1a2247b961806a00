# SPDX-License-Identifier: MIT
"""Weight rows against return: training against the rows that a decision fetches, at several weight widths."""

import dataclasses
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from model.cost.account import measure as account
from model.cost.subject import Subject
from model.scores.suites import SPIKING
from model.studies import plots
from model.studies.runs import Bench, Row, Run, Study, branch
from model.training.config import TrainConfig
from model.training.deployment import export

ROW_COSTS = (0.0, 0.02, 0.05, 0.1, 0.2)
WEIGHTS = {"W4": (4, False), "W3": (3, False), "W2": (2, False), "ternary": (2, True)}
"""Weight bits, and whether they are symmetric: of 2 bits, -1, 0 and 1."""
TOKENS = 100
"""Decisions over which energy is modelled."""


def measure(bench: Bench) -> list[Row]:
    """Train every row cost for each seed, fine-tune to every width, score the artifacts on the golden network."""
    budget = bench.budget
    floats = bench.train(bench.each_seed([{"row_cost": cost} for cost in ROW_COSTS], **SPIKING))
    origin = {(run.config.row_cost, run.config.seed): run for run in floats}

    def prepare(config: TrainConfig, folder: Path) -> None:
        branch(origin[config.row_cost, config.seed], config, folder)

    variants = [
        {
            "row_cost": cost,
            "geometry": dataclasses.replace(budget.geometry, weight_bits=bits),
            "symmetric_weights": symmetric,
            "quant_steps": budget.quant_steps,
        }
        for bits, symmetric in WEIGHTS.values()
        for cost in ROW_COSTS
    ]
    return [_row(bench, run) for run in bench.train(bench.each_seed(variants, **SPIKING), prepare)]


def _row(bench: Bench, run: Run) -> Row:
    artifact = run.folder / "policy.safetensors"
    if not artifact.exists():
        export(run.file)[0].save(artifact)
    score, g = bench.score(artifact), run.config.geometry
    (stream, *_) = account(Subject.load(artifact), TOKENS, run.config.seed)
    return {
        "task": bench.budget.task.name,
        "weights": next(
            name for name, kind in WEIGHTS.items() if kind == (g.weight_bits, run.config.symmetric_weights)
        ),
        "row_cost": run.config.row_cost,
        "seed": run.config.seed,
        "validation_loss": run.loss,
        "return": score["mean_return"],
        "normalised": score["normalised_score"],
        "rows": score["active_rows_per_decision"],
        "share": score["active_rows_per_decision"] and score["active_rows_per_decision"] / g.weight_rows,
        # a bound, not a measurement: fetches of the linears' rows alone
        "fetch_cycles": score["fetch_cycles_per_decision"],
        # modelled, with memory, weights fetched once per token
        "energy_uj": sum(stream.modelled_uj["token"].values()),
        "rows_per_linear": score.get("rows_per_linear"),
    }


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draw return over rows, over the least cycles and over energy, and where the rows are, by layer and linear."""
    grid = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.3))
    panels = {
        "rows": "weight rows a decision",
        "fetch_cycles": "least cycles a decision (row fetches)",
        "energy_uj": "µJ a decision, modelled at 45 nm",
    }
    for axes, (value, label) in zip(grid[:3], panels.items(), strict=True):
        for number, weights in enumerate(plots.names(rows, "weights")):
            mine = [row for row in rows if row["weights"] == weights and row["return"] is not None]
            if not mine:
                continue
            colour = plots.COLOURS[number]
            axes.plot(
                [r[value] for r in mine], [r["return"] for r in mine], "o", color=colour, alpha=0.35, markersize=4
            )
            costs = plots.names(mine, "row_cost")
            means = [
                [np.mean([r[name] for r in mine if r["row_cost"] == cost]) for cost in costs]
                for name in (value, "return")
            ]
            axes.plot(*means, color=colour, marker="s", label=weights)
        plots.say_if_missing(axes, rows, "return")
        axes.set(xlabel=label, ylabel="return of the deployed policy" if value == "rows" else "")
    grid[0].legend()
    _stacks(grid[3], [row for row in rows if row["weights"] == rows[0]["weights"]])


def _stacks(axes: Axes, rows: list[Row]) -> None:
    """Draw per row cost the rows of each layer, one on the other, mean over the seeds."""
    known = [row for row in rows if row["rows_per_linear"]]
    plots.say_if_missing(axes, rows, "rows_per_linear")
    if not known:
        return
    costs = plots.names(known, "row_cost")
    linears = list(known[0]["rows_per_linear"])
    kinds = {"q, k, v": ("query", "key", "value"), "proj": ("proj",), "fc1": ("fc1",), "fc2": ("fc2",)}
    layers = sorted({linear.split(".")[0] for linear in linears})
    base = np.zeros(len(costs))
    for number, (kind, names) in enumerate(kinds.items()):
        for layer in layers:
            height = np.array(
                [
                    np.mean(
                        [
                            sum(row["rows_per_linear"].get(f"{layer}.{name}", 0.0) for name in names)
                            for row in known
                            if row["row_cost"] == cost
                        ]
                    )
                    for cost in costs
                ]
            )
            shade = 0.9 - 0.25 * layers.index(layer)
            axes.bar(range(len(costs)), height, bottom=base, color=plots.COLOURS[number], alpha=shade, width=0.7)
            base = base + height
        axes.bar(0, 0, color=plots.COLOURS[number], label=kind)
    axes.set_xticks(range(len(costs)), [f"{cost:g}" for cost in costs])
    axes.set(xlabel="row cost (lighter: later layers)", ylabel=f"weight rows a decision, {rows[0]['weights']}")
    axes.legend()


STUDY = Study(
    "rows",
    "training against the weight rows a decision fetches, at 4, 3, 2 bits and ternary: return, rows, cycles, energy",
    measure,
    draw,
    keys=("task", "weights", "row_cost"),
    values=("validation_loss", "return", "normalised", "rows", "share", "fetch_cycles", "energy_uj"),
    size=(15.0, 4.0),
)
