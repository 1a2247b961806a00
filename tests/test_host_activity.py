# SPDX-License-Identifier: MIT
"""Spike counts of a flown episode, beside those of the golden network token by token."""

import numpy as np

from host.activity import Activity
from host.check import BEHIND
from model.deployed.golden import GoldenNetwork
from model.deployed.presets import TINY
from model.deployed.random_policy import random_policy, random_tokens


def test_activity_counts_every_spike_of_every_decision() -> None:
    policy = random_policy(TINY, 3)
    tokens = list(random_tokens(policy, BEHIND + 9, 0))
    activity, network = Activity.replay(policy, tokens), GoldenNetwork(policy)
    layers = range(TINY.layers)
    for number, token in enumerate(tokens):
        spikes = network.decide(token).spikes
        of = [sum(int(s.sum()) for name, s in spikes.items() if name.startswith(f"layer{layer}.")) for layer in layers]
        assert activity.layer_spikes[number] == of
        for part, rows in (("entry", activity.entry), ("fc1", activity.hidden)):
            expected = np.concatenate([spikes[f"layer{layer}.{part}"].sum(0) for layer in layers])
            assert np.array_equal(rows[number], expected)
    assert len(activity.layer_spikes) == len(activity.entry) == len(activity.hidden) == len(tokens)
