# SPDX-License-Identifier: MIT
"""Count what a decision costs, layer by layer, and turn the counts into energy.

Reads policy artifacts and checkpoints (spiking or baseline) and watches their decisions on real tokens: from the data
set where it is local, else from an episode. Counts come from what PyTorch executes (`model.cost.observer`).
Dense synaptic slots and real spikes are apart. Energy is reported two ways: operations in the papers' convention, and
operations at their own widths with the memory accesses. Both are models at 45 nm; nothing was measured on a board.

  python -m model.energy hopper-medium runs/bc/float.pt --json energy.json --png energy.png
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from model.command import check_least, ended
from model.cost.account import Cost, measure
from model.cost.energy_model import AC_PJ, FETCHES, MAC_PJ, PUBLISHED, papers_uj
from model.cost.subject import Subject
from model.data.environments import DataError
from model.deployed import zoo
from model.deployed.artifact import ArtifactError
from model.files import ready, save, write_json
from model.training.checkpoint import CheckpointError

PARTS = {
    "embedding, head": ("embed", "head"),
    "projections": ("kvq", "proj"),
    "attention": ("attention", ""),
    "MLP": ("fc1", "fc2", "body"),
    "rest": (),
}
"""Parts of a network for the picture -> the layers they consist of."""


def tables(costs: Sequence[Cost]) -> str:
    """Return the layers of every cost and one table over all, as text."""
    text = []
    for cost in costs:
        text.append(f"{cost.name} ({cost.kind}), {cost.inference}: per decision, mean of {cost.decisions}")
        heading = ("layer", "dense slots", "spikes read", "accumulates", "multiply-accumulates")
        rows = [heading] + [
            (c.layer, f"{c.slots:,.0f}", f"{c.spikes:,.0f}", f"{c.accumulates:,.0f}", f"{c.multiplies:,.0f}")
            for c in cost.layers
            if c.slots or c.multiplies
        ]
        text += [*_aligned(rows, 1), ""]
    heading = ("network", "decides by", "weights", "dense slots", "AC", "MAC", "papers' uJ")
    heading += tuple(f"with memory, per {fetch}" for fetch in FETCHES)
    rows = [heading]
    for cost in costs:
        totals = (f"{cost.total(name) / 1e6:.3f} M" for name in ("slots", "accumulates", "multiplies"))
        modelled = (f"{sum(cost.modelled_uj[fetch].values()):.3f}" for fetch in FETCHES)
        label = f"{cost.name} ({cost.kind})"
        rows.append((label, cost.inference, f"{cost.weights:,}", *totals, f"{cost.papers_uj:.3f}", *modelled))
    text += _aligned(rows, 2)
    text += [
        f"papers' uJ: {AC_PJ} pJ per accumulate whose spike is there, {MAC_PJ} pJ per multiply-accumulate, no memory",
        "with memory: own widths, SRAM by size; weights fetched once per decision, token (as the circuit does) or step",
        "models at 45 nm; nothing was measured on a board",
    ]
    text += [f"published: {what} {energy} uJ ({source})" for what, energy, source in PUBLISHED]
    return "\n".join(text)


def _aligned(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    width = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, width, strict=True)))
        for row in rows
    ]


def part_of(layer: str) -> str:
    """Return the part of the network, one of `PARTS`, that a layer belongs to."""
    # a baseline's block attends by itself
    last = layer.partition(".")[2] if layer.startswith("layer") else layer
    return next((part for part, names in PARTS.items() if last in names), "rest")


def draw(costs: Sequence[Cost], path: Path) -> None:
    """Write the picture: energies on one logarithmic scale, and what they consist of."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    labels = [f"{cost.name}\n{cost.kind}, {cost.inference}" for cost in costs]
    figure, axes = pyplot.subplots(1, 3, figsize=(15, 1.8 + 0.5 * len(costs)), sharey=True)
    marks = [("operations, the papers' convention", "o", [cost.papers_uj for cost in costs])]
    for fetch, mark in zip(FETCHES[:2], "<s", strict=True):
        totals = [sum(cost.modelled_uj[fetch].values()) for cost in costs]
        marks.append((f"with memory, weights once per {fetch}", mark, totals))
    for name, mark, values in marks:
        axes[0].plot(values, labels, mark, label=name, markerfacecolor="none" if mark == "s" else None)
    axes[0].set_xscale("log")
    axes[0].set_xlabel("µJ per decision, modelled at 45 nm")
    axes[0].grid(axis="x", which="both", alpha=0.3)
    spent = [
        {part: sum(papers_uj(layer) for layer in cost.layers if part_of(layer.layer) == part) for part in PARTS}
        for cost in costs
    ]
    _shares(axes[1], labels, spent, "% of the operations, the papers' convention")
    _shares(
        axes[2], labels, [cost.modelled_uj["decision"] for cost in costs], "% with memory, weights once per decision"
    )
    axes[0].invert_yaxis()
    axes[0].tick_params(axis="y", labelsize=8)
    for axis in axes:
        axis.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=1 if axis is axes[0] else 3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    save(path, lambda partial: figure.savefig(partial, dpi=150, format="png"))
    pyplot.close(figure)


def _shares(axis: Any, labels: list[str], bars: list[dict[str, float]], title: str) -> None:
    start = [0.0] * len(bars)
    for name in bars[0]:
        sizes = [100 * bar[name] / sum(bar.values()) for bar in bars]
        if any(sizes):
            axis.barh(labels, sizes, left=start, label=name)
        start = [a + b for a, b in zip(start, sizes, strict=True)]
    axis.set_xlabel(title)
    axis.set_xlim(0, 100)


def report(costs: Sequence[Cost], seed: int) -> dict[str, Any]:
    """Return the costs as JSON-able facts."""
    return {
        "label": "modelled at 45 nm, not measured",
        "seed": seed,
        "published_uj": [{"what": w, "energy_uj": e, "source": s} for w, e, s in PUBLISHED],
        "costs": [asdict(cost) for cost in costs],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m model.energy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = f"names of shipped policies: {zoo.listing()}"
    parser.add_argument("files", nargs="+", help=f"policy artifacts (.safetensors), checkpoints (.pt), {names}")
    parser.add_argument("--tokens", type=int, default=16, help="decisions to watch, on one episode (default 16)")
    parser.add_argument("--seed", type=int, default=0, help="of the episode (default 0)")
    parser.add_argument("--json", type=Path, help="also write counts and energies to this file")
    parser.add_argument("--png", type=Path, help="also draw them into this file")
    options = parser.parse_args(arguments)
    check_least(parser, options, tokens=1, seed=0)
    torch.set_num_threads(1)
    try:
        ready(options.json, options.png)
        subjects = [Subject.load(zoo.find(file)) for file in options.files]
        costs = [cost for subject in subjects for cost in measure(subject, options.tokens, options.seed)]
        if options.json:
            write_json(options.json, report(costs, options.seed))
        if options.png:
            draw(costs, options.png)
    except (ArtifactError, CheckpointError, DataError, OSError, KeyboardInterrupt) as error:
        return ended(error)
    print(tables(costs))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
