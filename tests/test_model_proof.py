# SPDX-License-Identifier: MIT
"""The proof that no sum of a policy leaves its register: its bounds hold, are reached, and name what exceeds them."""

import numpy as np
import pytest

from model.deployed.golden import lif
from model.deployed.presets import TINY
from model.deployed.random_policy import random_policy
from model.integer.proof import ExportError, prove, reach


def test_reach_bounds_every_sum() -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(-8, 8, (5, 30))
    least, most = reach(weight, -3, 2)
    for _ in range(300):
        sums = np.cumsum(weight * rng.integers(-3, 3, 30), axis=1)
        assert (sums >= least[:, None]).all()
        assert (sums <= most[:, None]).all()
    extreme = (weight * np.where(weight > 0, 2, -3)).sum(1)
    assert np.array_equal(extreme, most)


def test_the_proof_holds_for_the_worst_membrane() -> None:
    tensors = {name: tensor.astype(np.int64) for name, tensor in random_policy(TINY, 0).tensors.items()}
    most = max(
        int(reach(tensors[name])[1].max() + np.maximum(tensors.get(f"{name[:-7]}.bias", np.zeros(1)), 0).max())
        for name in tensors
        if name.endswith((".key.weight", ".fc1.weight"))
    )
    # driven that hard at every step, with a threshold that is never met
    worst = lif(np.full((TINY.steps, 1), most), np.array([1 << 20]))[1].max()
    assert (1 << (prove(TINY, tensors)["membrane of a neuron"] - 1)) > worst > (1 << TINY.guard_bits) * most


@pytest.mark.parametrize(
    ("name", "value", "part"), [("head.bias", 1 << 40, "head"), ("layer1.fc1.bias", 1 << 20, "layer1.fc1")]
)
def test_what_overflows_is_named(name: str, value: int, part: str) -> None:
    tensors = {key: tensor.astype(np.int64) for key, tensor in random_policy(TINY, 0).tensors.items()}
    needed = prove(TINY, tensors)
    assert 0 < needed["accumulator"] <= TINY.accumulator_bits
    tensors[name] = tensors[name] + value
    with pytest.raises(ExportError, match=f"^{part}: its .* can reach .* bits; there are"):
        prove(TINY, tensors)
