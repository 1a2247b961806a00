# SPDX-License-Identifier: MIT
"""Entropy of spike trains: of the T SNN steps together, against the sum of each step's own (Theorem 1 of DSFormer).

The joint entropy is below the sum of the marginals for any steps that depend on each other, whatever couples them; the
difference is their total correlation. What is measured here is how large it is, where, and with which attention.
"""

import dataclasses
import math

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from model.network.network import Record
from model.studies import plots
from model.studies.runs import Bench, Row, Study

ATTENTIONS = ("pssa", "sssa", "tssa")
NEURONS = ("entry", "key", "value", "query", "window", "mlp", "fc1")
SAMPLES = 256
"""Held-out windows; each of their tokens is a sample."""


def codes(spikes: Tensor) -> Tensor:
    """Return the spike pattern of the steps as a number: spikes [steps, rows, channels] -> [rows, channels]."""
    weights = 2 ** torch.arange(len(spikes))
    return (spikes.long() * weights[:, None, None]).sum(0)


def entropy(values: Tensor, kinds: int) -> tuple[Tensor, Tensor]:
    """Return the plug-in entropy in bits of each column and its Miller-Madow correction, (seen - 1) / (2 n) nats.

    values [rows, columns] in 0..kinds-1 -> [columns], [columns]. The plug-in is too small by about that correction.
    """
    counts = torch.zeros(kinds, values.shape[1], dtype=torch.float64)
    counts.scatter_add_(0, values, torch.ones_like(values, dtype=torch.float64))
    share = counts / len(values)
    bits = -torch.special.xlogy(share, share).sum(0) / math.log(2)
    return bits, ((counts > 0).sum(0) - 1) / (2 * len(values) * math.log(2))


def total_correlation(spikes: Tensor) -> Row:
    """Return joint and summed step-wise entropy of spikes [steps, rows, channels], in bits per channel and token.

    Means over channels, corrected by Miller-Madow; `gap_bits` is their difference, `correction_bits` what of it is
    correction.
    """
    steps = len(spikes)
    joint, joint_correction = entropy(codes(spikes), 2**steps)
    own, own_correction = entropy(spikes.long().permute(1, 0, 2).flatten(1), 2)
    own, own_correction = own.view(steps, -1).sum(0), own_correction.view(steps, -1).sum(0)
    gap = (own + own_correction - joint - joint_correction).mean().item()
    marginal = (own + own_correction).mean().item()
    return {
        "samples": spikes.shape[1],
        "rate": spikes.double().mean().item(),
        "marginal_bits": marginal,
        "joint_bits": (joint + joint_correction).mean().item(),
        "gap_bits": gap,
        "gap_share": gap / marginal if marginal else None,
        "correction_bits": (own_correction - joint_correction).mean().item(),
    }


def independent(spikes: Tensor, generator: torch.Generator) -> Tensor:
    """Shuffle each step's tokens apart from the others': the same marginals, nothing in common."""
    return torch.stack([step[torch.randperm(len(step), generator=generator)] for step in spikes])


def measure(bench: Bench) -> list[Row]:
    """Train each attention; measure the entropies of every layer's neurons on held-out windows."""
    g, rows = bench.budget.geometry, []
    for attention in ATTENTIONS:
        for run in bench.train(bench.each_seed([attend(bench, attention)])):
            saved, record = run.load(), Record()
            tokens, _ = bench.held_out(saved, SAMPLES, run.config.length)
            with torch.no_grad():
                saved.network(tokens, record=record)
            generator = torch.Generator().manual_seed(run.config.seed)
            for layer in range(g.layers):
                for neurons in NEURONS:
                    spikes = record.spikes[f"layer{layer}.{neurons}"]
                    shuffled = total_correlation(independent(spikes, generator))["gap_bits"]
                    at = {"attention": attention, "seed": run.config.seed, "layer": layer, "neurons": neurons}
                    rows.append(at | total_correlation(spikes) | {"shuffled_gap_bits": shuffled})
    return rows


def attend(bench: Bench, attention: str) -> Row:
    """Return the changed fields of an attention; one by matches sees the whole training window, as in its paper."""
    g, length = bench.budget.geometry, bench.budget.config(0).length
    if attention == "pssa":
        return {}
    return {"geometry": dataclasses.replace(g, attention=attention, window=length), "inference": "recompute"}


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draw per layer and neurons the joint entropy, and on top of it what the marginals add."""
    layers = plots.names(rows, "layer")
    present = plots.names(rows, "attention")
    for axes, layer in zip(figure.subplots(1, len(layers), sharey=True, squeeze=False)[0], layers, strict=True):
        for number, attention in enumerate(present):
            for place, neurons in enumerate(NEURONS):
                at = (attention, layer, neurons)
                mine = [row for row in rows if (row["attention"], row["layer"], row["neurons"]) == at]
                joint, marginal = (sum(row[key] for row in mine) / len(mine) for key in ("joint_bits", "marginal_bits"))
                x, colour = place + 0.27 * (number - (len(present) - 1) / 2), plots.COLOURS[number]
                axes.bar(x, joint, 0.25, color=colour)
                axes.bar(x, marginal - joint, 0.25, bottom=joint, color=colour, alpha=0.3)
        names = ["attention" if name == "window" else name for name in NEURONS]
        axes.set_xticks(range(len(NEURONS)), names, rotation=35, ha="right")
        axes.set_title(f"layer {layer}")
        axes.grid(visible=False, axis="x")
    figure.axes[0].set_ylabel("entropy (bits per channel and token)")
    shades = [Patch(color=plots.COLOURS[n], label=name.upper()) for n, name in enumerate(present)]
    shades += [
        Patch(color="#5f6b7a", label="joint, H(X¹..Xᵀ)"),
        Patch(color="#5f6b7a", alpha=0.3, label="to the sum of H(Xᵗ)"),
    ]
    figure.legend(handles=shades, loc="outside upper center", ncols=len(shades))


STUDY = Study(
    "entropy",
    "joint against step-wise spike entropy over the SNN steps, per layer, of PSSA, SSSA and TSSA networks",
    measure,
    draw,
    keys=("attention", "layer", "neurons"),
    values=("rate", "marginal_bits", "joint_bits", "gap_bits", "gap_share", "shuffled_gap_bits"),
    size=(11.5, 4.2),
)
