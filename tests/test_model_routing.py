# SPDX-License-Identifier: MIT
"""Routing: both equations written out, gradients, streams, integers that are shifts, and what is refused."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from model.deployed.artifact import ArtifactError
from model.deployed.geometry import Geometry, GeometryError
from model.deployed.golden import GoldenNetwork, lif, shift_of_heads
from model.deployed.presets import HOPPER_Z2, ODD, TINY
from model.deployed.random_policy import random_policy, random_tokens
from model.integer import nir_graph
from model.integer.fold import from_policy, integer_tensors, quantise
from model.network.layers import Structure, float_network
from model.network.network import Network, Record
from model.network.norm import PTBN
from model.network.routing import WIDTH, CountRouting, MlpRouting
from model.training.config import ConfigError, TrainConfig

torch.set_num_threads(1)

COUNT = dataclasses.replace(TINY, heads=4, routing="count")
MLP = dataclasses.replace(TINY, heads=4, routing="mlp")


def lively(geometry: Geometry) -> Network:
    """Return a float network in training whose neurons fire."""
    torch.manual_seed(0)
    network = float_network(geometry, 15, 3, Structure(tap_floor=0.4, tap_init=0.8))
    for module in network.modules():
        if isinstance(module, PTBN):
            module.bias.data.uniform_(0.1, 0.6)
            module.weight.data.fill_(0.8)
        if isinstance(module, MlpRouting):
            torch.nn.init.normal_(module.score.weight)
    for _ in range(20):
        network(torch.randn(32, 12, 15))
    return network


@pytest.mark.parametrize("geometry", [COUNT, dataclasses.replace(ODD, heads=5, routing="count")], ids=["tiny", "odd"])
def test_counts_choose_powers_of_two_head_by_head(geometry: Geometry) -> None:
    g, size = geometry, geometry.d_model // geometry.heads
    torch.manual_seed(1)
    routing = CountRouting(g)
    routing.share.data.mul_(3)
    routing.share.data[0, 0] = -0.1
    query = (torch.rand(g.steps, 40, g.d_model) < torch.rand(40, 1)).float()
    current = torch.randint(-40, 40, query.shape).float()
    thresholds = routing.thresholds().tolist()
    expected, shifts = torch.empty_like(current), np.zeros((40, g.d_model), np.int64)
    for row in range(40):
        for head in range(g.heads):
            count = sum(int(query[t, row, c]) for t in range(g.steps) for c in range(head * size, (head + 1) * size))
            shift = sum(count <= each[head] for each in thresholds)
            shifts[row, head * size : (head + 1) * size] = shift
            for c in range(head * size, (head + 1) * size):
                expected[:, row, c] = current[:, row, c] / 2**shift
    assert set(shifts.flatten()) == {0, 1, 2}
    assert thresholds[0][0] == -1
    assert torch.equal(routing(current, query), expected)
    assert torch.equal(routing.eval()(current, query), expected)
    spikes = query.numpy().astype(bool)
    assert np.array_equal(shift_of_heads(spikes, np.array(thresholds, np.int64), g.heads), shifts)


def test_a_smaller_current_fires_as_a_larger_threshold_does() -> None:
    rng = np.random.default_rng(0)
    current, threshold = rng.integers(-90, 90, (4, 500, 16)), rng.integers(0, 60, 16)
    shift = rng.integers(0, 3, (500, 16))
    spikes, _ = lif(current, threshold << shift)
    membrane = np.zeros((500, 16))
    for t in range(4):  # in real numbers, the current made smaller
        membrane = current[t] / 2.0**shift + np.where(membrane > threshold, 0, membrane / 4) * (t > 0)
        assert np.array_equal(spikes[t], membrane > threshold)
    assert 0.1 < spikes.mean() < 0.6


def test_the_mlp_is_the_papers_softmax_times_the_heads() -> None:
    torch.manual_seed(2)
    routing = MlpRouting(MLP)
    current = torch.randn(4, 5, 16)
    # it starts without a preference
    torch.testing.assert_close(routing(current, None), current)
    torch.nn.init.normal_(routing.score.weight)
    torch.nn.init.normal_(routing.score.bias)
    routed = routing(current, None)
    w1, b1, w2, b2 = (p.detach().double().numpy() for p in routing.parameters())
    for t, row in np.ndindex(4, 5):
        scores = []
        for head in range(4):
            y = current[t, row, 4 * head : 4 * head + 4].double().numpy()
            scores.append(float(w2[0] @ np.maximum(w1 @ y + b1, 0) + b2[0]))
        total = sum(math.exp(score) for score in scores)
        for c in range(16):
            gain = 4 * math.exp(scores[c // 4]) / total
            assert routed[t, row, c].item() == pytest.approx(gain * current[t, row, c].item(), rel=1e-4)


def test_the_gradient_of_a_threshold_is_its_sigmoid_s() -> None:
    torch.manual_seed(3)
    routing = CountRouting(COUNT)
    query = (torch.rand(4, 6, 16) < 0.2).float().requires_grad_()
    current = torch.randn(4, 6, 16, requires_grad=True)
    upstream = torch.randn(4, 6, 16)
    routing(current, query).backward(upstream)
    share, counts = routing.share.detach(), query.detach().sum(0).unflatten(-1, (4, 4)).sum(-1)
    slopes = torch.zeros(2, 4)
    for row in range(6):
        for head in range(4):
            at = slice(4 * head, 4 * head + 4)
            flow = float((upstream[:, row, at] * current.detach()[:, row, at]).sum())
            hard = [0.5 if counts[row, head] <= math.floor(float(s) * 16) else 1.0 for s in share[:, head]]
            for number in range(2):
                soft = 1 / (1 + math.exp(-(float(share[number, head]) - float(counts[row, head]) / 16) / WIDTH))
                slopes[number, head] += flow * hard[1 - number] * -0.5 * soft * (1 - soft) / WIDTH
    torch.testing.assert_close(routing.share.grad, slopes, rtol=1e-3, atol=1e-4)
    assert (query.grad != 0).any()
    gain = routing(torch.ones(4, 6, 16), query).detach()
    torch.testing.assert_close(current.grad, upstream * gain)
    assert len(gain.unique()) > 1


@pytest.mark.parametrize("geometry", [COUNT, MLP], ids=["count", "mlp"])
def test_streaming_equals_the_whole_window(geometry: Geometry) -> None:
    network, tokens, whole = lively(geometry).eval(), torch.randn(3, 20, 15), Record()
    with torch.no_grad():
        expected = network(tokens, record=whole)
        stream = network.stream(batch=3)
        for n in range(20):
            torch.testing.assert_close(stream.decide(tokens[:, n]), expected[:, n])
    assert 0 < whole.spikes["layer0.window"].mean() < 0.95
    # and it is not the network without
    for block in network.blocks:
        block.routing = None
    assert (network(tokens) - expected).abs().max() > 1e-3


def test_gradients_reach_the_routing_through_a_whole_network() -> None:
    for geometry in (COUNT, MLP):
        network = lively(geometry)
        network(torch.randn(8, 12, 15)).pow(2).sum().backward()
        for name, parameter in network.blocks[0].routing.named_parameters():
            # the same bias for all heads' scores is nothing to a softmax
            assert name == "score.bias" or (parameter.grad != 0).any(), name


def test_thresholds_that_all_counts_exceed_do_nothing_and_others_do() -> None:
    policy = random_policy(COUNT, 4)
    tensors = {part: tensor for part, tensor in policy.tensors.items() if ".routing." not in part}
    plain = dataclasses.replace(policy, geometry=TINY, tensors=tensors)
    tokens, same = random_tokens(policy, 20, 0), {}
    for threshold in (-1, 16):
        for layer in range(2):
            policy.tensors[f"layer{layer}.routing.threshold"][:] = threshold
        routed, without = GoldenNetwork(policy), GoldenNetwork(plain)
        pairs = [(routed.decide(token), without.decide(token)) for token in tokens]
        same[threshold] = all(np.array_equal(a.spikes["layer0.window"], b.spikes["layer0.window"]) for a, b in pairs)
    assert same == {-1: True, 16: False}


def test_folding_keeps_the_thresholds_and_the_choices() -> None:
    network = lively(COUNT).eval()
    folded = quantise(network, torch.full((15,), 32.0), 8)
    tensors = integer_tensors(folded)
    for number, block in enumerate(network.blocks):
        # 16 spikes are a head's most: 4 channels in 4 steps
        expected = np.floor(block.routing.share.detach().numpy() * 16)
        assert np.array_equal(tensors[f"layer{number}.routing.threshold"], expected)
        assert len(np.unique(expected)) > 2
    # the copy trains on without moving the float network's
    folded.blocks[0].routing.share.data += 1
    assert network.blocks[0].routing.share.max() < 0.5


def test_wide_membranes_with_a_gain_are_computed_in_double_precision() -> None:
    # 23 bits and the gain's two places
    narrow = dataclasses.replace(HOPPER_Z2, d_model=32, mlp_ratio=16, steps=5)
    assert narrow.lif_bits == 23
    assert from_policy(random_policy(narrow, 0)).entry.dtype == torch.float32
    routed = dataclasses.replace(narrow, heads=4, routing="count")
    assert from_policy(random_policy(routed, 0)).entry.dtype == torch.float64


def test_geometries_without_routing_are_what_they_were() -> None:
    assert "routing" not in json.loads(HOPPER_Z2.to_json())
    assert len({TINY.digest, COUNT.digest, MLP.digest, dataclasses.replace(TINY, routing="count").digest}) == 4
    for g in (COUNT, MLP):
        assert Geometry.from_json(g.to_json()) == g
        assert g.with_attention("tssa").with_attention("pssa") == g


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"routing": "softmax"}, r"routing must be one of none, count, mlp, not 'softmax'"),
        ({"routing": "mlp"}, r"routing mlp is a softmax over heads: set heads to 2 or more"),
        (
            {"attention": "lrf-dyn", "window": 8, "gate": False, "routing": "count"},
            r"routing count counts query spikes, which this geometry lacks: set gate true",
        ),
    ],
)
def test_routings_that_cannot_be_are_refused(choices: dict, says: str) -> None:
    with pytest.raises(GeometryError, match=f"^{says}"):
        dataclasses.replace(TINY, **choices)


def test_what_does_not_deploy_says_so() -> None:
    with pytest.raises(ValueError, match=r"^routing mlp has no integer form; set quant_steps to 0, or choose count$"):
        quantise(lively(MLP), torch.full((15,), 32.0), 8)
    with pytest.raises(ArtifactError, match=r"^routing mlp has no integer form; choose count or none$"):
        random_policy(MLP, 0)
    with pytest.raises(ConfigError, match=r"^routing mlp has no integer form; set quant_steps to 0"):
        TrainConfig(geometry=MLP)
    with pytest.raises(ConfigError, match=r"^routing is about the spiking network; choose a geometry without for bc$"):
        TrainConfig(geometry=COUNT, network="bc", inference="recompute", quant_steps=0)
    with pytest.raises(GeometryError, match=r"^there is no circuit for routing yet: score this policy with"):
        COUNT.require_circuit()
    with pytest.raises(nir_graph.NirError, match=r"^NIR cannot express routing: "):
        nir_graph.to_nir(random_policy(COUNT, 0))
