# SPDX-License-Identifier: MIT
"""PTRepBN, the second PTBN of the authors' code, against its equation; its turn, its gradients, its way to integers."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model.deployed.golden import GoldenNetwork
from model.deployed.presets import TINY
from model.deployed.random_policy import random_policy, random_tokens
from model.integer.fold import from_policy, integer_tensors, quantise
from model.integer.proof import prove
from model.network import kernels
from model.network.layers import Structure, float_network
from model.network.network import Network
from model.network.neuron import lif
from model.network.norm import PTBN, PTRepBN, linear_norm, mixing, set_frozen, set_mixing

torch.set_num_threads(1)

STEPS, ROWS, CHANNELS, GROUPS = 4, 30, 12, 3
TRAINED = {"trained": (0.7, -1.3, 0.2), "negative": (-3.0, -3.0, -3.0)}


def make(alpha: tuple[float, ...] = TRAINED["trained"], channels: int = CHANNELS) -> PTRepBN:
    norm = PTRepBN(channels, GROUPS)
    norm.weight.data.uniform_(0.2, 1.0)
    norm.bias.data.normal_()
    norm.alpha.data = torch.tensor(alpha)
    return norm


def written_out(norm: PTRepBN, x: Tensor, theta: float) -> Tensor:
    """Return the equation in training, a token and a channel at a time: x [steps, rows, channels] -> like x."""
    size, result = x.shape[2] // norm.groups, torch.empty_like(x)
    for channel in range(x.shape[2]):
        group = channel // size
        values = x[:, :, channel]
        centred = (values - values.mean()) / torch.sqrt(values.var(correction=0) + 1e-5)
        batch = norm.weight[channel] * centred + norm.bias[channel] + norm.alpha[group] * values
        for row in range(x.shape[1]):
            token = x[:, row, group * size : (group + 1) * size]
            layer = (x[:, row, channel] - token.mean()) / torch.sqrt(token.var(correction=0) + 1e-5)
            layer = norm.weight[channel] * layer + norm.bias[channel]
            result[:, row, channel] = theta * layer + (1 - theta) * batch[:, row]
    return result


def gradients(result: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    upstream = torch.randn(result.shape, generator=torch.Generator().manual_seed(7), dtype=result.dtype)
    return torch.autograd.grad(result, inputs, upstream)


@pytest.mark.parametrize("theta", [0.0, 0.25, 1.0])
def test_values_and_gradients_are_the_equation_s(theta: float) -> None:
    torch.manual_seed(0)
    norm = make().double()
    set_mixing(norm, theta)
    x = (2 * torch.randn(STEPS, ROWS, CHANNELS).double() + torch.arange(CHANNELS) / 4).requires_grad_()
    got, expected = norm(x), written_out(norm, x, theta)
    torch.testing.assert_close(got, expected)
    inputs = [x, norm.weight, norm.bias, norm.alpha]
    found = gradients(got, inputs)
    for one, other in zip(found, gradients(expected, inputs), strict=True):
        torch.testing.assert_close(one, other)
    assert bool(found[3].any()) == (theta < 1)


def test_layer_norm_sees_all_steps_of_a_token_together_and_no_other_token() -> None:
    torch.manual_seed(1)
    norm = make()
    set_mixing(norm, 1.0)
    x = torch.randn(STEPS, ROWS, CHANNELS)
    before = norm(x)
    x[2, 5, :4] += 3.0
    changed = (norm(x) != before).nonzero()
    # every step of that token, in the group that was touched
    assert {tuple(place) for place in changed.tolist()} == {(t, 5, c) for t in range(STEPS) for c in range(4)}
    # a single step has nothing to share with
    expected = functional.layer_norm(x[0].view(ROWS, 3, 4), (4,)).flatten(1) * norm.weight + norm.bias
    torch.testing.assert_close(norm(x[0]), expected)
    torch.testing.assert_close(norm(x[:1])[0], expected)


def test_alpha_starts_at_one_for_each_projection() -> None:
    network = float_network(TINY, 15, 3, Structure(), "ptrepbn")
    alphas = [module.alpha for module in network.modules() if isinstance(module, PTRepBN)]
    assert sorted(len(alpha) for alpha in alphas) == [1] * (2 + 3 * TINY.layers) + [3] * TINY.layers
    assert all((alpha == 1).all() for alpha in alphas)


@pytest.mark.parametrize("alpha", TRAINED.values(), ids=TRAINED)
def test_evaluation_folds_into_gain_and_offset(alpha: tuple[float, ...]) -> None:
    torch.manual_seed(2)
    norm = make(alpha)
    set_mixing(norm, 0.5)
    for _ in range(20):
        norm(2 * torch.randn(STEPS, ROWS, CHANNELS) + 1)
    norm.eval()
    x = torch.randn(STEPS, 7, CHANNELS)
    gain, offset = norm.gain_and_offset()
    by_hand = (x - norm.running_mean) / torch.sqrt(norm.running_var + 1e-5) * norm.weight + norm.bias
    by_hand = by_hand + torch.tensor(alpha).repeat_interleave(4) * x
    torch.testing.assert_close(norm(x), by_hand)
    torch.testing.assert_close(x * gain + offset, by_hand)
    assert (norm.running_mean > 0.5).all()
    assert bool((gain < 0).all()) == (alpha[0] < 0)


@pytest.mark.parametrize("kind", ["spiking", "residual"])
@pytest.mark.parametrize("theta", [0.0, 0.5])
def test_layer_equals_the_written_out_one_with_compiled_functions_on(kind: str, theta: float) -> None:
    torch.manual_seed(3)
    norm, matrix = make(), (torch.randn(CHANNELS, 16) / 4).requires_grad_()
    set_mixing(norm, theta)
    x = (torch.rand(STEPS, ROWS, 16) < 0.4).float().requires_grad_()
    shortcut = torch.randn(STEPS, ROWS, CHANNELS)
    fires = kind == "spiking"
    threshold = torch.full((CHANNELS,), 0.5)
    assert kernels.fit(x, matrix, threshold)
    y = written_out(norm, functional.linear(x, matrix), theta)
    expected = lif(y, threshold) if fires else shortcut + y
    got = linear_norm(x, matrix, norm, threshold if fires else None, None if fires else shortcut)
    if fires:
        assert torch.equal(got, expected)
        assert 0.1 < got.mean() < 0.9
    else:
        torch.testing.assert_close(got, expected)
    inputs = [x, matrix, norm.weight, norm.bias, norm.alpha]
    for one, other in zip(gradients(got, inputs), gradients(expected, inputs), strict=True):
        assert other.abs().max() > 0.1
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_decision_is_the_same_with_and_without_compiled_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(4)
    norm, matrix = make(), torch.randn(CHANNELS, 16) / 4
    x = (torch.rand(STEPS, ROWS, 16) < 0.4).float()
    results = []
    for switch in ("on", "off"):
        monkeypatch.setenv(kernels.SWITCH, switch)
        with torch.no_grad():
            results.append(linear_norm(x, matrix, norm.eval(), shortcut=torch.ones(STEPS, ROWS, CHANNELS)))
    assert torch.equal(*results)
    gain, offset = norm.gain_and_offset()
    torch.testing.assert_close(results[0], 1 + functional.linear(x, matrix * gain[:, None], offset))


def test_it_turns_from_layer_norm_to_batch_norm_as_ptbn_does() -> None:
    torch.manual_seed(5)
    norm, x = make(), torch.randn(STEPS, ROWS, CHANNELS)
    distances = []
    for step in (0, 25, 50, 75, 100):
        set_mixing(norm, mixing("linear", step, 100))
        distances.append((norm(x) - written_out(norm, x, 1.0)).norm())
    assert distances[0] < 1e-4
    torch.testing.assert_close(torch.stack(distances), distances[4] * torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    # and its batch norm is PTBN's where alpha is nothing
    plain = PTBN(CHANNELS, GROUPS)
    plain.load_state_dict({name: tensor for name, tensor in norm.state_dict().items() if name != "alpha"})
    norm.alpha.data.zero_()
    assert torch.equal(norm.eval()(x), plain.eval()(x))


def test_frozen_it_trains_as_it_is_evaluated() -> None:
    torch.manual_seed(6)
    norm, matrix = make(), torch.randn(CHANNELS, 16, requires_grad=True)
    x = (torch.rand(STEPS, ROWS, 16) < 0.4).float()
    for _ in range(10):
        linear_norm(x, matrix, norm)
    set_frozen(norm, True)
    frozen, plain = linear_norm(x, matrix, norm), norm(functional.linear(x, matrix))
    expected = norm.eval()(functional.linear(x, matrix))
    inputs = [matrix, norm.weight, norm.bias, norm.alpha]
    slopes = gradients(expected, inputs)
    for got in (frozen, plain):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        for one, other in zip(gradients(got, inputs), slopes, strict=True):
            assert other.abs().max() > 1
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def trained_by_chance(seed: int) -> Network:
    """Return a float network with alphas of both signs, its statistics measured."""
    torch.manual_seed(seed)
    network = float_network(TINY, 15, 3, Structure(), "ptrepbn")
    for module in network.modules():
        if isinstance(module, PTRepBN):
            module.bias.data.uniform_(0.0, 0.5)
            module.weight.data.fill_(0.8)
            module.alpha.data.uniform_(-20.0, 20.0)
    for _ in range(30):
        network(torch.randn(16, 10, 15))
    return network.eval()


def test_its_network_deploys_as_any_other_channels_of_negative_gain_too() -> None:
    network = trained_by_chance(0)
    gains = torch.cat([norm.gain_and_offset()[0] for norm in network.modules() if isinstance(norm, PTRepBN)])
    assert 0.1 < (gains < 0).float().mean() < 0.9
    tokens = torch.round(torch.randn(8, 19, 15).clamp(-3.9, 3.9) * 32) / 32
    integer = quantise(network, torch.full((15,), 32.0), 8).eval()
    nearer = dataclasses.replace(TINY, weight_bits=8, membrane_bits=16, table_log2=12)
    with torch.no_grad():
        expected, coarse = network(tokens), integer(integer.prepare(tokens))
        network.geometry = nearer
        fine = quantise(network, torch.full((15,), 32.0), 12).eval()
        errors = [(q - expected).abs().mean().item() for q in (coarse, fine(fine.prepare(tokens)))]
    assert expected.std() > 0.01
    assert errors[1] < errors[0]
    assert errors[1] < 0.1 * expected.std()

    # the integers, in PyTorch as trained, as loaded, and golden
    tensors = integer_tensors(integer)
    prove(TINY, tensors)
    policy = dataclasses.replace(random_policy(TINY, 0), tensors=tensors)
    drawn, actions = random_tokens(policy, 20, 1), set()
    golden, loaded, trained = GoldenNetwork(policy), from_policy(policy).stream(), integer.stream()
    for token in drawn:
        word = golden.decide(token).action
        for stream in (loaded, trained):
            action = stream.decide(torch.from_numpy(token)[None].float())[0]
            assert np.array_equal(action.double().numpy() * 2**15, word)
        actions.add(tuple(word))
    assert len(actions) > 10
