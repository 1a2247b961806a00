# SPDX-License-Identifier: MIT
"""The weight rows that a decision fetches, as a term of the loss.

The circuit fetches the weight row of an input that spikes in any SNN step, once for each of query, key and value and
once for each d_model outputs of fc1; that is what its cycles are made of (docs/architecture.md). A neuron's spike in
any step is the largest of its spikes; its gradient goes to the spikes that are as large, in equal shares, and through
the neuron's surrogate to a silent neuron near its threshold too.
"""

from collections.abc import Mapping

from torch import Tensor

from model.deployed.geometry import Geometry


def reads(geometry: Geometry) -> dict[str, int]:
    """Return how often a spike of a layer's neurons ("entry", "window", "mlp", "fc1") makes its row be fetched."""
    return {"entry": len(geometry.projections), "window": 1, "mlp": geometry.mlp_ratio, "fc1": 1}


def share_of_rows(geometry: Geometry, spikes: Mapping[str, Tensor]) -> Tensor:
    """Return the mean share of all weight rows that a token fetches, 0..1, differentiable.

    spikes : "layer0.entry" and so on -> [steps, rows, channels], as `network.Record` notes them.
    """
    times = reads(geometry)
    fetched = sum(
        times[source] * spikes[f"layer{layer}.{source}"].amax(0).sum(-1).mean()
        for layer in range(geometry.layers)
        for source in times
    )
    return fetched / geometry.weight_rows
