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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from model.command import check_least, ended
from model.cost.energy_model import AC_PJ, FETCHES, MAC_PJ, PUBLISHED, Counts, Sizes, Widths, modelled_uj, papers_uj
from model.cost.observer import Operation
from model.cost.operations import ADD, AND, COMPARE, FLOAT, GATE, MULTIPLY, SATURATE, SELECT, UNKNOWN
from model.cost.subject import Observation, Subject
from model.data.environments import DataError
from model.deployed import zoo
from model.deployed.artifact import ArtifactError
from model.deployed.geometry import Geometry
from model.files import ready, save, write_json
from model.training.checkpoint import CheckpointError

SPIKING = ("deployed", "quantised", "float")
ELEMENTWISE = (ADD, COMPARE, GATE, SATURATE)
PARTS = {
    "embedding, head": ("embed", "head"),
    "projections": ("kvq", "proj"),
    "attention": ("attention", ""),
    "MLP": ("fc1", "fc2", "body"),
    "rest": (),
}
"""Parts of a network for the picture -> the layers they consist of."""


@dataclass
class Cost:
    """One network in one way of deciding: per decision.

    inference : "stream", "24-token window" or "24 tokens cached", in the network's own tokens.
    papers_uj : operations in the papers' convention; modelled_uj : by `FETCHES`, the model's parts.
    """

    name: str
    kind: str
    inference: str
    weights: int
    decisions: int
    tokens: str
    layers: list[Counts]
    papers_uj: float
    modelled_uj: dict[str, dict[str, float]]

    def total(self, quantity: str) -> float:
        """Sum a count over the layers."""
        return float(sum(getattr(layer, quantity) for layer in self.layers))


def layer_of(operation: Operation) -> str:
    """Return the layer that an operation's counts belong to: "embed", "layer0.kvq", "layer0" for its neurons."""
    parts = operation.layer.split(".")
    return ".".join(parts[:2]) if parts[0].startswith("layer") else parts[0]


def fetched(operation: Operation, steps: int) -> tuple[float, float, float]:
    """Return the weights that an operation fetches, by `FETCHES`."""
    verdict = operation.verdict
    if not verdict.weights:
        return (0.0, 0.0, 0.0)
    if verdict.selector is None:
        per_token = float(verdict.dense)
        return (float(verdict.weights), per_token, per_token)
    spikes = verdict.selector.reshape(steps, -1, verdict.selector.shape[-1])
    fired = (spikes.any(0).any(0).sum(), spikes.any(0).sum(), spikes.sum())
    once, token, step = (float(count) * verdict.fan_out for count in fired)
    return (once, token, step)


def count(observation: Observation, g: Geometry, spiking: bool, rows: int) -> list[Counts]:
    """Count per layer and decision. rows : tokens that a decision computes. Raises `DataError` for unknown operations.

    Residual membranes are written by embedding, proj and fc2 and read by the neurons or the head behind, and once more
    where a shortcut adds to them.
    """
    layers: dict[str, Counts] = {}
    for operation in observation.operations:
        verdict = operation.verdict
        if verdict.kind == UNKNOWN:
            raise DataError(f"cannot count {operation.layer}: {operation.name} {verdict.complaint}")
        layer = layers.setdefault(layer_of(operation), Counts(layer_of(operation)))
        once = fetched(operation, g.steps)
        layer.fetched = tuple(a + b for a, b in zip(layer.fetched, once, strict=True))  # type: ignore[assignment]
        real = verdict.dense if verdict.real is None else verdict.real
        if verdict.kind == SELECT:
            layer.slots += verdict.dense
            layer.accumulates += real
            if verdict.selector is not None:
                layer.spikes += float(verdict.selector.sum())
                layer.spike_bits += verdict.selector.numel()
        elif verdict.kind == MULTIPLY and verdict.outputs:
            layer.multiplies += real
            layer.activations += verdict.inputs + (0 if spiking else verdict.outputs)
        elif verdict.kind in ELEMENTWISE or verdict.kind == MULTIPLY:
            layer.elementwise += real
        elif verdict.kind == FLOAT:
            layer.functions += real
        elif verdict.kind == AND:
            layer.spike_bits += 2 * verdict.dense
        if spiking and operation.name == "gt":
            layer.spike_bits += verdict.dense
    for layer in layers.values():
        for name, value in asdict(layer).items():
            if isinstance(value, float):
                setattr(layer, name, value / observation.decisions)
        layer.fetched = tuple(value / observation.decisions for value in layer.fetched)  # type: ignore[assignment]
        last = layer.layer.split(".")[-1]
        if spiking and last in ("embed", "proj", "fc2", "head"):
            uses = {"embed": 2, "proj": 3, "fc2": 3, "head": 0}[last]
            layer.membranes = float(uses * rows * g.steps * g.d_model)
    return [layer for layer in layers.values() if any(v for k, v in asdict(layer).items() if k != "layer")]


def widths(subject: Subject) -> Widths:
    """Return the widths that a subject computes with."""
    g = subject.geometry
    if subject.kind not in ("deployed", "quantised"):
        return Widths(integer=False)
    return Widths(
        integer=True,
        weight=g.weight_bits,
        dense_weight=g.dense_weight_bits,
        membrane=g.membrane_bits,
        accumulator=g.accumulator_bits,
        neuron=g.lif_bits,
        activation=g.input_bits,
    )


def sizes(subject: Subject, w: Widths, rows: int, cached: float) -> Sizes:
    """Return how large each memory is, for `rows` tokens at a time. `cached` : numbers kept in a key-value cache."""
    g = subject.geometry
    if subject.kind in SPIKING:
        names = {name: parameter.numel() for name, parameter in subject.network.named_parameters()}
        dense = sum(size for name, size in names.items() if name.startswith(("embed", "head")))
        weights = dense * w.dense_weight + (sum(names.values()) - dense) * w.weight
        membranes = rows * g.steps * g.d_model * w.membrane
        spikes = g.layers * g.state_bits if rows == 1 else rows * g.steps * (g.d_mlp + 3 * g.d_model)
        return Sizes(weights, spikes, membranes, rows * g.input_size * w.activation)
    numbers = sum(parameter.numel() for parameter in subject.network.parameters())
    widest = max(m.out_features for m in subject.network.modules() if isinstance(m, torch.nn.Linear))
    return Sizes(numbers * 32, 1, 1, max(rows * widest, cached) * 32)


def _cost(
    subject: Subject, inference: str, layers: list[Counts], observation: Observation, source: str, memory: Sizes
) -> Cost:
    w = widths(subject)
    modelled = {}
    for fetch in FETCHES:
        parts = [modelled_uj(layer, w, memory, fetch) for layer in layers]
        modelled[fetch] = {name: sum(part[name] for part in parts) for name in parts[0]}
    return Cost(
        name=subject.name,
        kind=subject.kind,
        inference=inference,
        weights=sum(parameter.numel() for parameter in subject.network.parameters()),
        decisions=observation.decisions,
        tokens=source,
        layers=layers,
        papers_uj=sum(map(papers_uj, layers)),
        modelled_uj=modelled,
    )


def cached(layers: list[Counts], length: int) -> tuple[list[Counts], float]:
    """Return the counts of a window's newest step alone, keys and values of the others kept, and how many are kept.

    A bound from below: the baselines' positions count from the window's start, so what is kept would be of other
    positions. Every product over the window's rows costs its `length`-th part; attention reads all keys and values.
    """
    shared: list[Counts] = []
    kept = 0.0
    for layer in layers:
        small = {k: v / length for k, v in asdict(layer).items() if isinstance(v, float)}
        once, token, step = layer.fetched
        numbers = 0.0
        if layer.layer.startswith("layer") and layer.layer.count(".") == 0:
            numbers = layer.activations / 2  # of query, key, value and result, keys and values
        kept += numbers
        small["cached"] = numbers
        shared.append(replace(layer, **small, fetched=(once, token / length, step / length)))
    return shared, kept


def measure(subject: Subject, count_tokens: int, seed: int) -> list[Cost]:
    """Return what a subject's decisions cost, in every way it can decide. Raises `DataError`."""
    spiking = subject.kind in SPIKING
    g, w = subject.geometry, widths(subject)
    if subject.kind == "bc":
        subject.length = 1
    tokens, source = subject.tokens(count_tokens + subject.length - 1, seed)
    costs = []
    if subject.streams:
        seen = subject.observe(tokens, True)
        layers = count(seen, g, spiking, 1)
        costs.append(_cost(subject, "stream", layers, seen, source, sizes(subject, w, 1, 0)))
    seen = subject.observe(tokens, False)
    rows = subject.length
    layers = count(seen, g, spiking, rows)
    rows *= 3 if subject.kind == "dt-3-token" else 1
    name = "one token" if rows == 1 else f"{rows}-token window"
    costs.append(_cost(subject, name, layers, seen, source, sizes(subject, w, rows, 0)))
    if subject.kind.startswith("dt-"):
        newest, kept = cached(layers, subject.length)
        name = f"{rows} tokens cached"
        costs.append(_cost(subject, name, newest, seen, source, sizes(subject, w, rows // subject.length, kept)))
    return costs


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
