# SPDX-License-Identifier: MIT
"""PTBN, tdBN and tdLN: what they compute, PTBN's schedules, folding."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from model.deployed.presets import TINY
from model.integer.fold import quantise
from model.network.layers import Structure, float_network
from model.network.neuron import lif
from model.network.norm import NORMS, PTBN, mixing, set_mixing
from model.training.config import ConfigError, TrainConfig

torch.set_num_threads(1)


def test_scale_starts_at_the_threshold() -> None:
    assert torch.equal(PTBN(3).weight, torch.full((3,), 0.5))


@pytest.mark.parametrize("theta", [0.0, 0.25, 1.0])
def test_mixes_layer_and_batch_norm(theta: float) -> None:
    torch.manual_seed(0)
    x = 3 * torch.randn(40, 12) + torch.arange(12)
    norm = PTBN(12, groups=3)
    norm.weight.data.uniform_(0.2, 1.0)
    norm.bias.data.normal_()
    set_mixing(norm, theta)
    by_batch = (x - x.mean(0)) / torch.sqrt(x.var(0, correction=0) + 1e-5)
    by_layer = functional.layer_norm(x.view(40, 3, 4), (4,)).flatten(1)
    expected = (theta * by_layer + (1 - theta) * by_batch) * norm.weight + norm.bias
    torch.testing.assert_close(norm(x), expected)


def test_evaluation_is_batch_norm_whatever_theta_and_folds_into_gain_and_offset() -> None:
    torch.manual_seed(1)
    norm = PTBN(5)
    set_mixing(norm, 0.5)
    for _ in range(20):
        norm(2 * torch.randn(64, 5) + 1)
    norm.eval()
    x = torch.randn(7, 5)
    gain, offset = norm.gain_and_offset()
    torch.testing.assert_close(norm(x), x * gain + offset)
    assert (norm.running_mean > 0.5).all()
    assert (norm.running_var > 2).all()


@pytest.mark.parametrize(
    ("schedule", "middle"), [("linear", 0.5), ("cosine", 0.5), ("step", 1.0)], ids=["linear", "cosine", "step"]
)
def test_schedules_run_from_layer_to_batch_norm(schedule: str, middle: float) -> None:
    assert mixing(schedule, 0, 100) == 1.0
    assert mixing(schedule, 50, 100) == pytest.approx(middle)
    assert mixing(schedule, 100, 100) == 0.0
    values = [mixing(schedule, step, 100) for step in range(101)]
    assert values == sorted(values, reverse=True)
    assert mixing("cosine", 25, 100) > mixing("linear", 25, 100)


def test_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="linear, cosine, step"):
        mixing("sudden", 0, 10)


def test_tdbn_is_ptbn_without_layer_norm() -> None:
    torch.manual_seed(2)
    tdbn, ptbn = NORMS["tdbn"](12, groups=3), NORMS["ptbn"](12, groups=3)
    set_mixing(nn.ModuleList([tdbn, ptbn]), 1.0)
    x = 2 * torch.randn(30, 12) + 1
    assert not torch.equal(tdbn(x), ptbn(x))
    ptbn.load_state_dict(tdbn.state_dict())
    set_mixing(ptbn, 0.0)
    assert torch.equal(tdbn(x), ptbn(x))
    for norm in (tdbn, ptbn):
        norm.eval()
    assert torch.equal(tdbn(x), ptbn(x))


def test_tdln_is_a_layer_norm_of_each_group_in_evaluation_too() -> None:
    torch.manual_seed(3)
    norm = NORMS["tdln"](12, groups=3)
    norm.weight.data.uniform_(0.2, 1.0)
    norm.bias.data.normal_()
    x = 3 * torch.randn(40, 12) + torch.arange(12)
    by_torch = [
        functional.layer_norm(part, (4,), weight, bias)
        for part, weight, bias in zip(x.split(4, 1), norm.weight.split(4), norm.bias.split(4), strict=True)
    ]
    for mode in (norm.train(), norm.eval()):
        torch.testing.assert_close(mode(x), torch.cat(by_torch, 1))
    # no statistics of a batch: a row alone gives what it gives among others
    assert dict(norm.named_buffers()) == {}
    torch.testing.assert_close(norm(x[5:6]), norm(x)[5:6])


@pytest.mark.parametrize("kind", list(NORMS))
def test_a_network_has_the_norm_it_is_asked_for(kind: str) -> None:
    torch.manual_seed(4)
    network = float_network(TINY, 15, 3, Structure(), kind)
    norms = [module for module in network.modules() if isinstance(module, tuple(NORMS.values()))]
    assert {type(norm) for norm in norms} == {NORMS[kind]}
    assert len(norms) == 2 + 4 * TINY.layers
    assert norms[1].groups == 3
    tokens = torch.randn(4, 9, 15)
    for _ in range(3):
        network(tokens)
    network.eval()
    with torch.no_grad():
        alone = torch.cat([network(window[None]) for window in tokens])
        torch.testing.assert_close(network(tokens), alone)


@pytest.mark.parametrize("kind", ["ptbn", "ptrepbn", "tdbn"])
def test_folded_layers_equal_the_evaluation(kind: str) -> None:
    torch.manual_seed(5)
    network = float_network(TINY, 15, 3, Structure(), kind)
    for _ in range(20):
        network(torch.randn(16, 10, 15))
    network.eval()
    block = network.blocks[1]
    spikes = (torch.rand(4, 50, 16) < 0.3).float()
    weight, bias = block.kvq.folded()
    assert torch.equal(block.kvq(spikes), lif(functional.linear(spikes, weight, bias), block.kvq.threshold))
    weight, bias = block.proj.folded()
    x = torch.randn(4, 50, 16)
    torch.testing.assert_close(block.proj(spikes, x), x + functional.linear(spikes, weight, bias))
    weight, bias = network.head.folded()
    expected = torch.tanh(functional.linear(x.double().mean(0), weight, bias))
    torch.testing.assert_close(network.head(x).double(), expected, atol=1e-6, rtol=1e-6)


def test_layer_norm_has_no_integer_form() -> None:
    network = float_network(TINY, 15, 3, Structure(), "tdln").eval()
    with pytest.raises(ValueError, match=r"layer norm cannot be folded.*norm='ptbn' or 'tdbn'"):
        quantise(network, torch.full((15,), 32.0), 8)


@pytest.mark.parametrize(
    ("schedule", "thetas"),
    [("linear", [1.0, 1.0, 0.75, 0.25, 0.0]), ("cosine", [1.0, 1.0, 0.8536, 0.1464, 0.0]), ("step", [1, 1, 1, 1, 0.0])],
)
def test_a_held_schedule_starts_later(schedule: str, thetas: list[float]) -> None:
    seen = [mixing(schedule, step, 8, hold_steps=10) for step in (0, 10, 12, 16, 18)]
    assert seen == pytest.approx(thetas, abs=1e-4)
    # nothing in between: layer norm, then batch norm
    assert [mixing(schedule, step, 0, hold_steps=10) for step in (9, 10)] == [1.0, 0.0]


def test_a_schedule_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="before PTBN is a batch norm"):
        TrainConfig(geometry=TINY, norm_hold=0.6, norm_ratio=0.5)


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"norm": "tdbn", "norm_schedule": "step"}, "norm_schedule goes with ptbn, ptrepbn alone: leave it at linear"),
        ({"norm": "tdln", "quant_steps": 0, "norm_ratio": 0.2}, "norm_ratio goes with ptbn, ptrepbn alone"),
        ({"norm": "tdbn", "norm_hold": 0.2}, "norm_hold goes with ptbn, ptrepbn alone: leave it at 0.0 for tdbn"),
        ({"network": "bc", "norm": "ptrepbn"}, "norm is about the spiking network: leave it at ptbn for bc"),
        ({"network": "bc", "norm_hold": 0.2}, "norm_hold is about the spiking network: leave it at 0.0 for bc"),
    ],
)
def test_choices_that_would_do_nothing_are_refused(choices: dict, says: str) -> None:
    if "network" in choices:
        choices = {"quant_steps": 0, "inference": "recompute"} | choices
    with pytest.raises(ConfigError, match=f"^{says}"):
        TrainConfig(geometry=TINY, **choices)


def test_both_forms_of_ptbn_take_a_schedule() -> None:
    for norm in ("ptbn", "ptrepbn"):
        config = TrainConfig(geometry=TINY, norm=norm, norm_schedule="cosine", norm_ratio=0.3, norm_hold=0.1)
        assert TrainConfig.from_json(config.to_json()) == config
