# SPDX-License-Identifier: MIT
"""How far a classifier's attention looks, how evenly, and what it keeps to do so."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.network.network import Record
from model.studies.field import field
from model.vision.attention import GridDynamics, GridMatch
from model.vision.classifier import Classifier
from model.vision.peak import peak_bytes
from model.vision.taps import Grid

SAMPLES = 32
"""Test images whose attention is described."""
FLOAT_BITS = 32


def described(weights: Tensor, grid: Grid) -> dict[str, float | None]:
    """Describe weights [images, tokens, tokens], those that look first, none negative, by Manhattan distance.

    Entropy and expected distance as `model.studies.field.field` has them for each token that looks, then the mean over
    tokens; empty : share of tokens and images that look nowhere. A token that looks nowhere in every image is left out.
    """
    distances, known = grid.distances().numpy(), weights.double().cpu().numpy()
    rows = [field(known[:, n], distances[n]) for n in range(grid.tokens)]
    looking = [row for row in rows if row["empty"] < 1]
    names = ("entropy", "expected_distance", "near")
    mean = {name: float(np.mean([row[name] for row in looking])) if looking else None for name in names}
    return mean | {"empty": float(np.mean([row["empty"] for row in rows]))}


def state_bits(looks: GridMatch | GridDynamics) -> int:
    """Return the bits a layer's attention keeps while tokens pass one by one, spikes one bit, numbers 32.

    Matches, as LRF counts them: per step and head the sums of k^T v, [d / heads, d / heads], which all queries share;
    taps that look ahead: all values of the image besides. LRF-Dyn: k dendrites a channel, and the values that its taps
    reach.
    """
    g = looks.geometry
    word = g.steps * g.d_model
    if isinstance(looks, GridDynamics):
        return word * (g.dendrites * FLOAT_BITS + looks.local.reach)
    tokens = g.window
    sums = word * (g.d_model // g.heads) * math.ceil(math.log2(tokens + 1)) if looks.scale else 0
    return sums + (0 if looks.local is None else word * tokens)


@torch.no_grad()
def measure(network: Classifier, images: Tensor) -> dict[str, Any]:
    """Return what the table says of a network in evaluation, apart from its accuracy: means over its attention layers.

    images [n, channels, height, width] : to look at, of which `SAMPLES` are taken.
    state_bits, peak_kib : of one layer; the peak is measured, of one image's whole attention, in single precision.
    rate : spikes per neuron and step, of key, value and query.
    """
    record, steps = Record(), network.geometry.steps
    images = images[:SAMPLES]
    network(images, record)
    found: list[dict[str, Any]] = []
    for layer, block in enumerate(network.blocks):
        looks = block.attention
        if not isinstance(looks, GridMatch | GridDynamics):
            continue
        spikes = {name: record.spikes[f"layer{layer}.{name}"] for name in ("key", "value", "query")}
        by_image = [x.unflatten(1, (len(images), network.grid.tokens)) for x in spikes.values()]
        key, _, query = by_image
        row = described(looks.weights(key, query), network.grid)
        row["state_bits"] = state_bits(looks)
        row["peak_kib"] = peak_bytes(looks, *(x[:, 0].contiguous() for x in by_image)) / 1024
        row["rate"] = float(torch.cat([x.reshape(steps, -1) for x in spikes.values()]).mean())
        found.append(row)
    return {name: _mean([row[name] for row in found]) for name in found[0]} | {"layers_described": len(found)}


def _mean(values: list[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
