# SPDX-License-Identifier: MIT
"""What a subject's decisions cost, in every way it can decide: counts layer by layer, and the energies they come to."""

from dataclasses import asdict, dataclass, replace

import torch

from model.cost.energy_model import FETCHES, Counts, Sizes, Widths, modelled_uj, papers_uj
from model.cost.observer import Operation
from model.cost.operations import ADD, AND, COMPARE, FLOAT, GATE, MULTIPLY, SATURATE, SELECT, UNKNOWN
from model.cost.subject import Observation, Subject
from model.data.environments import DataError
from model.deployed.geometry import Geometry

SPIKING = ("deployed", "quantised", "float")
ELEMENTWISE = (ADD, COMPARE, GATE, SATURATE)


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
