# SPDX-License-Identifier: MIT
"""Which neurons fired in an episode, gathered from golden traces."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

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

    def __len__(self) -> int:
        return len(self.layer_spikes)

    def add(self, trace: Trace) -> None:
        """Add a decision."""
        layers = sum(name.endswith(".entry") for name in trace.spikes)
        totals = [0] * layers
        for name, spikes in trace.spikes.items():
            totals[int(name.removeprefix("layer").split(".")[0])] += int(np.count_nonzero(spikes))
        self.layer_spikes.append(totals)
        for part, rows in (("entry", self.entry), ("fc1", self.hidden)):
            counts = [trace.spikes[f"layer{layer}.{part}"].sum(axis=0, dtype=np.uint8) for layer in range(layers)]
            rows.append(np.concatenate(counts))

    @classmethod
    def replay(cls, policy: Policy, tokens: Iterable[NDArray[Any]]) -> "Activity":
        """Return the activity of an episode that was flown unchecked, from its tokens."""
        network, activity = GoldenNetwork(policy), cls()
        for token in tokens:
            activity.add(network.decide(token))
        return activity
