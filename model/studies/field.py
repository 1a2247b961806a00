# SPDX-License-Identifier: MIT
"""Receptive field of attention: entropy and expected distance of SSA's maps against LRF-SSA's (the LRF theorems).

Theorem 1 writes the weights of LRF-SSA as a mixture (1 - lambda) SSA + lambda r of matches and local taps, so that the
expected distance falls when the taps look nearer than the matches do; Theorem 2 that the entropy does not rise. Here
both parts are read off trained networks, at the last token of whole windows: how much weight lies how far back.
"""

import math

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from model.deployed.geometry import Geometry
from model.network.match import Match
from model.network.network import Network, Record
from model.studies import plots
from model.studies.entropy import attend
from model.studies.runs import Bench, Row, Study

Floats = NDArray[np.float64]

NEAR = 5
"""Distance within which the weight is summed, as in the paper's figure 2."""
SAMPLES = 512


def matches(query: Tensor, key: Tensor) -> Tensor:
    """Return how the last token of each window matches every token, mean over the SNN steps, by distance.

    query, key : spikes [steps, batch, length, d] -> [batch, length], distance 0 first.
    """
    counts = torch.einsum("tbd,tbjd->tbj", query[:, :, -1], key)
    return counts.mean(0).flip(1)


def local_weights(attention: Match, geometry: Geometry, length: int) -> Tensor:
    """Return the mean size of the local taps over the channels by distance, [length]; zeros where there are none."""
    result = torch.zeros(length)
    if attention.local is not None:
        sizes = attention.local().detach().abs().mean(0)
        for size, distance in zip(sizes, geometry.local_distances, strict=True):
            if distance < length:
                result[distance] += size
    return result


def field(weights: Floats, distance: NDArray[np.int64] | None = None) -> Row:
    """Describe weights [windows, length], none negative, by distance: each window's normalised to 1, then the mean.

    distance [length] : of every weight, in tokens; None: 0, 1, 2, ...

    expected_distance in tokens; near : share within `NEAR` tokens; entropy over its largest value, the log of the
    length (0..1); r2 : of a straight line through the mean profile, the theorem's model of SSA. Windows without any
    weight are left out and counted in `empty`.
    """
    total = weights.sum(1)
    known = weights[total > 0]
    if not len(known):
        return {"empty": 1.0, "profile": [0.0] * weights.shape[1]}
    share = known / known.sum(1, keepdims=True)
    distance = np.arange(weights.shape[1]) if distance is None else distance
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    profile = share.mean(0)
    slope, offset = np.polyfit(distance, profile, 1)
    spread = ((profile - profile.mean()) ** 2).sum()
    error = ((profile - offset - slope * distance) ** 2).sum()
    return {
        "expected_distance": float((share * distance).sum(1).mean()),
        "near": float(share[:, distance <= NEAR].sum(1).mean()),
        "entropy": float((-(share * logs).sum(1)).mean() / math.log(weights.shape[1])),
        "r2": float(1 - error / spread) if spread > 1e-18 else None,
        "empty": float((total <= 0).mean()),
        "profile": profile.tolist(),
    }


def mixture(whole: Floats, part: Floats, local: Floats) -> tuple[float, float]:
    """Fit lambda in `whole = (1 - lambda) part + lambda local` by least squares, all profiles [length] that sum to 1.

    Returns lambda and the root of the mean squared residual.
    """
    direction = local - part
    size = float(direction @ direction)
    share = float((whole - part) @ direction) / size if size else 0.0
    residual = whole - part - share * direction
    return share, float(np.sqrt(np.mean(residual**2)))


@torch.no_grad()
def maps(network: Network, tokens: Tensor) -> list[tuple[Floats, Floats]]:
    """Return per layer the weights of matches [windows, length] and of local taps [length], in units of current.

    tokens [windows, length, inputs] without padding.
    """
    record, result = Record(), []
    network(tokens, record=record)
    for layer, block in enumerate(network.blocks):
        query, key = (record.spikes[f"layer{layer}.{name}"].unflatten(1, tokens.shape[:2]) for name in ("query", "key"))
        local = local_weights(block.attention, network.geometry, tokens.shape[1])
        result.append(((matches(query, key) * block.attention.scale).double().numpy(), local.double().numpy()))
    return result


def measure(bench: Bench) -> list[Row]:
    """Train SSSA and LRF-SSA for each seed and describe the field of every layer, LRF-SSA's parts apart too."""
    rows: list[Row] = []
    for attention in ("sssa", "lrf-ssa"):
        for run in bench.train(bench.each_seed([attend(bench, attention)])):
            saved = run.load()
            tokens, _ = bench.held_out(saved, SAMPLES, run.config.length)
            for layer, (match, local) in enumerate(maps(saved.network, tokens)):
                at = {"seed": run.config.seed, "layer": layer, "validation_loss": run.loss}
                if attention == "sssa":
                    rows.append({"weights": "SSSA"} | at | field(match))
                    continue
                whole, part, taps = field(match + local), field(match), field(local[None])
                share, residual = mixture(*(np.array(f["profile"]) for f in (whole, part, taps)))
                fit: Row = {"lambda": share, "residual": residual}
                if part["empty"] < 1:
                    distances = part["expected_distance"], taps["expected_distance"]
                    fit["mixture_distance"] = (1 - share) * distances[0] + share * distances[1]
                rows.append({"weights": "LRF-SSA"} | at | whole | fit)
                rows.append({"weights": "its matches"} | at | part)
                rows.append({"weights": "its local taps"} | at | taps)
    return rows


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draw the mean profile over distance per layer, and expected distance and entropy."""
    layers = plots.names(rows, "layer")
    panels = figure.subplots(1, len(layers) + 2, width_ratios=[1.2] * len(layers) + [1, 1])
    order = ("SSSA", "LRF-SSA", "its matches", "its local taps")
    length = len(rows[0]["profile"])
    for axes, layer in zip(panels, layers, strict=False):
        for number, name in enumerate(order):
            mine = [row["profile"] for row in rows if (row["weights"], row["layer"]) == (name, layer)]
            look = {"color": plots.COLOURS[number], "label": name, "linestyle": ("-", "-", ":", "none")[number]}
            axes.plot(100 * np.mean(mine, axis=0), marker="." if number < 3 else "o", **look)
        axes.axhline(100 / length, color="#5f6b7a", linewidth=1, linestyle="--")
        axes.set(title=f"layer {layer}", xlabel="distance (tokens)", yscale="log", ylim=(0.1, 100))
    panels[0].set_ylabel("share of the weight (%); dashed: uniform")
    panels[0].legend(fontsize=8)
    for axes, (value, label, even) in zip(
        panels[len(layers) :],
        (("expected_distance", "expected distance (tokens)", (length - 1) / 2), ("entropy", "normalised entropy", 1.0)),
        strict=True,
    ):
        for number, name in enumerate(order):
            for layer in layers:
                mine = [row.get(value) for row in rows if (row["weights"], row["layer"]) == (name, layer)]
                x = layer + 0.14 * (number - 1.5)
                axes.plot([x] * len(mine), mine, "o", color=plots.COLOURS[number], alpha=0.7, markersize=4)
        axes.axhline(even, color="#5f6b7a", linewidth=1, linestyle="--")
        axes.set(xlabel="layer", ylabel=label, xticks=layers, ylim=(0, None))


STUDY = Study(
    "field",
    "expected distance and entropy of the attention of SSSA against LRF-SSA, and the mixture of the LRF theorems",
    measure,
    draw,
    keys=("weights", "layer"),
    values=("expected_distance", "near", "entropy", "r2", "lambda", "residual", "mixture_distance", "empty"),
    size=(13.0, 3.6),
)
