# SPDX-License-Identifier: MIT
"""Which neurons fired in an episode, gathered from the golden network."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from host.check import BEHIND
from model.deployed.artifact import Policy
from model.deployed.golden import GoldenNetwork, Trace

Counts = NDArray[np.uint8]


class Activity:
    """Spike counts, one entry per decision.

    layer_spikes : per decision, spikes of all neurons of each layer [layers].
    entry, hidden : per decision, spikes of each neuron at the blocks' entry and in the MLPs, over the steps of the
        token, layer after layer [layers * channels].
    """

    def __init__(self) -> None:
        self.layer_spikes: list[list[int]] = []
        self.entry: list[Counts] = []
        self.hidden: list[Counts] = []

    @classmethod
    def replay(cls, policy: Policy, tokens: Sequence[NDArray[Any]]) -> "Activity":
        """Return the activity of an episode from its tokens."""
        network, activity = GoldenNetwork(policy), cls()
        with threadpool_limits(1, user_api="blas"):
            for start in range(0, len(tokens), BEHIND):
                activity._add(network.decide_all(np.stack(tokens[start : start + BEHIND])))
        return activity

    def _add(self, trace: Trace) -> None:
        layers = sum(name.endswith(".entry") for name in trace.spikes)
        totals = np.zeros((len(trace.action), layers), np.int64)
        for name, spikes in trace.spikes.items():
            totals[:, int(name.removeprefix("layer").split(".")[0])] += np.count_nonzero(spikes, axis=(0, 2))
        self.layer_spikes += totals.tolist()
        for part, rows in (("entry", self.entry), ("fc1", self.hidden)):
            counts = [trace.spikes[f"layer{layer}.{part}"].sum(axis=0, dtype=np.uint8) for layer in range(layers)]
            rows.extend(np.concatenate(counts, axis=1))
