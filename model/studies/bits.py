# SPDX-License-Identifier: MIT
"""Weight bits: what quantisation-aware training to 2, 3, 4, 6 and 8 bits costs in loss and in deployed return."""

import dataclasses
from pathlib import Path

from matplotlib.figure import Figure

from model.studies import plots
from model.studies.runs import Bench, Row, Run, Study, branch
from model.training.config import TrainConfig
from model.training.deployment import export

BITS = (2, 3, 4, 6, 8)
"""Of the spiking linears and the window taps; embedding and head keep `Geometry.dense_weight_bits`."""


def measure(bench: Bench) -> list[Row]:
    """Fine-tune each seed's float network to every width; score the artifact on the golden network."""
    budget, geometry = bench.budget, bench.budget.geometry
    floats = bench.train(bench.each_seed([{}]))
    origin = {run.config.seed: run for run in floats}

    def prepare(config: TrainConfig, folder: Path) -> None:
        branch(origin[config.seed], config, folder)

    variants = [
        {"geometry": dataclasses.replace(geometry, weight_bits=bits), "quant_steps": budget.quant_steps}
        for bits in BITS
    ]
    rows = [_row(run, bench.score(run.file), "float", None) for run in floats]
    for run in bench.train(bench.each_seed(variants), prepare):
        artifact = run.folder / "policy.safetensors"
        if not artifact.exists():
            export(run.file)[0].save(artifact)
        g = run.config.geometry
        rows.append(_row(run, bench.score(artifact), "golden", g.weight_bits))
    return rows


def _row(run: Run, score: Row, network: str, bits: int | None) -> Row:
    g = run.config.geometry
    return {
        "network": network,
        "weight_bits": bits,
        "seed": run.config.seed,
        "validation_loss": run.loss,
        "return": score["mean_return"],
        "normalised": score["normalised_score"],
        "weight_kib": g.weight_rows * g.d_model * (bits or 32) / 8192,
    }


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draw loss and return over bits, the float network's as a band."""
    panels = {"validation_loss": "validation loss (MSE of actions)", "return": "return of the deployed policy"}
    for axes, (value, label) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for number, seed in enumerate(plots.names(rows, "seed")):
            mine = [row for row in rows if row["seed"] == seed]
            colour = plots.COLOURS[number]
            quantised = [row for row in mine if row["weight_bits"] is not None]
            bits = [row["weight_bits"] for row in quantised]
            axes.plot(bits, [row[value] for row in quantised], color=colour, marker="o", label=f"training seed {seed}")
            before = next(row[value] for row in mine if row["weight_bits"] is None)
            if before is not None:
                axes.axhline(before, color=colour, linestyle=":", linewidth=1)
        plots.say_if_missing(axes, rows, value)
        axes.set(xlabel="weight bits (dotted: float)", ylabel=label, xticks=list(BITS))
    figure.axes[0].legend()


STUDY = Study(
    "bits",
    "weight bits 2, 3, 4, 6, 8: loss of quantisation-aware training and return on the golden network",
    measure,
    draw,
    keys=("network", "weight_bits", "weight_kib"),
    values=("validation_loss", "return", "normalised"),
)
