# SPDX-License-Identifier: MIT
"""The head's plasticity: PyTorch and golden learn the same integers, and what goes wrong says so in a sentence."""

import dataclasses

import numpy as np
import pytest
import torch

from model.deployed.geometry import Geometry, GeometryError
from model.deployed.golden import GoldenNetwork
from model.deployed.golden_plasticity import PlasticNetwork
from model.deployed.presets import ODD, TINY
from model.deployed.random_policy import random_policy
from model.deployed.sizes import Plasticity
from model.integer.quant_plasticity import QuantPlasticity

RULES = [Plasticity(), Plasticity(trace_bits=6, trace_shift=2, rate_shift=3, factor_bits=6, most_change=5)]


def tokens(geometry, seed, number):
    limit = 1 << (geometry.input_bits - 1)
    return np.random.default_rng(seed).integers(-limit, limit, (number, geometry.input_size))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sizes", [TINY, ODD])
@pytest.mark.parametrize("seed", range(2))
def test_pytorch_and_golden_learn_alike(sizes, rule, seed):
    g = dataclasses.replace(sizes, plasticity=rule)
    policy = random_policy(g, seed)
    network = PlasticNetwork(policy)
    p = {name: torch.from_numpy(t.astype(np.int64)) for name, t in policy.tensors.items()}
    ours = QuantPlasticity(rule, p["head.weight"][None].clone(), g.dense_weight_bits)
    rng = np.random.default_rng(seed)
    limit = 1 << (rule.factor_bits - 1)
    saw_traces, clipped = set(), False
    for n, token in enumerate(tokens(g, seed, 60)):
        membrane = torch.from_numpy(np.array(network.decide(token).membranes[-1]))[:, None]
        total = (membrane.sum(0)[:, None] * ours.weight).sum(-1) + p["head.bias"]
        ours.observe(membrane, p["entry.threshold"], total // 2 ** p["head.shift"])
        np.testing.assert_array_equal(ours.eligibility[0].numpy(), network.eligibility)
        saw_traces.update(np.sign(network.eligibility).ravel().tolist())
        clipped |= bool((network.eligibility == (1 << (rule.trace_bits - 1)) - 1).any())
        if n % 5 == 4:
            factor = int(rng.integers(-limit, limit))
            network.learn(factor)
            ours.learn(torch.tensor([factor]))
            np.testing.assert_array_equal(ours.weight[0].numpy(), network.weight)
        if n == 39:
            network.reset()
            ours.reset()
    assert saw_traces == {-1, 0, 1}
    assert clipped == (rule.trace_bits == 6)
    assert (network.weight != policy.tensors["head.weight"]).any()


def test_tokens_together_are_tokens_in_turn():
    g = dataclasses.replace(TINY, plasticity=RULES[1])
    policy = random_policy(g, 0)
    together, one_by_one = PlasticNetwork(policy), PlasticNetwork(policy)
    for part in np.split(tokens(g, 3, 30), 3):
        actions = together.decide_all(part).action
        np.testing.assert_array_equal(actions, [one_by_one.decide(token).action for token in part])
        np.testing.assert_array_equal(together.eligibility, one_by_one.eligibility)
        together.learn(17)
        one_by_one.learn(17)
        np.testing.assert_array_equal(together.weight, one_by_one.weight)
    assert together.eligibility.any()


def test_weights_saturate():
    g = dataclasses.replace(TINY, plasticity=RULES[1])
    network = PlasticNetwork(random_policy(g, 0))
    for token in tokens(g, 1, 100):
        network.decide(token)
        network.learn(-32)
    assert network.weight.min() == -128
    assert network.weight.max() == 127


def test_frozen_and_reset():
    g = dataclasses.replace(TINY, plasticity=RULES[1])
    policy = random_policy(g, 0)
    network, plain = PlasticNetwork(policy), GoldenNetwork(policy)
    network.frozen = True
    for token in tokens(g, 2, 20):
        np.testing.assert_array_equal(network.decide(token).action, plain.decide(token).action)
        network.learn(31)
    assert not network.eligibility.any()
    np.testing.assert_array_equal(network.weight, policy.tensors["head.weight"])
    network.frozen = False
    network.decide(tokens(g, 2, 1)[0])
    network.learn(31)
    learned = network.weight.copy()
    assert network.eligibility.any()
    network.reset()
    assert not network.eligibility.any()
    np.testing.assert_array_equal(network.weight, learned)


def test_geometry_keeps_its_digest_without_and_travels_with():
    assert "plasticity" not in TINY.to_json()
    g = dataclasses.replace(TINY, plasticity=RULES[1])
    assert Geometry.from_json(g.to_json()) == g
    assert g.digest != TINY.digest


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("trace_shift", 9, "plasticity's trace_shift must be 1 to 8, not 9"),
        ("rate_shift", -1, "plasticity's rate_shift must be 0 to 24, not -1"),
        ("most_change", 128, "plasticity's most_change must be 1 to 127, not 128"),
    ],
)
def test_out_of_range(name, value, sentence):
    with pytest.raises(GeometryError, match=sentence):
        dataclasses.replace(TINY, plasticity=Plasticity(**{name: value}))


def test_refusals():
    g = dataclasses.replace(TINY, plasticity=Plasticity())
    with pytest.raises(GeometryError, match="head does not learn"):
        PlasticNetwork(random_policy(TINY, 0))
    with pytest.raises(GeometryError, match="unknown_field"):
        Geometry.from_json(g.to_json().replace("trace_shift", "unknown_field"))
    network = PlasticNetwork(random_policy(g, 0))
    with pytest.raises(ValueError, match="third factor must be -128 to 127, not 128"):
        network.learn(128)
    with pytest.raises(ValueError, match="one episode at a time"):
        network.decide(tokens(g, 0, 2))
