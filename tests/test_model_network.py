# SPDX-License-Identifier: MIT
"""The float network: streaming against windows, padding, and its options."""

import copy
import dataclasses
import functools

import pytest
import torch

from model.deployed.geometry import ATTENTIONS, Geometry
from model.deployed.presets import TINY
from model.deployed.random_policy import random_policy, random_tokens
from model.integer.fold import from_policy
from model.network.layers import Structure, float_network
from model.network.network import Network, Record
from model.network.norm import PTBN, set_mixing
from model.network.window import absolute_sum, relative_sum

FORMS = {
    **{f"pssa-{taps}": (TINY, Structure(taps=taps)) for taps in ("channel", "head", "shared", "or")},
    **{name: (TINY.with_attention(name), Structure(scale=0.125)) for name in ("sssa", "tssa", "lrf-ssa")},
    "sssa-heads": (dataclasses.replace(TINY.with_attention("sssa"), heads=2), Structure(scale=0.25)),
    "lrf-dyn": (TINY.with_attention("lrf-dyn"), Structure()),
    "lrf-dyn-ungated": (dataclasses.replace(TINY.with_attention("lrf-dyn"), gate=False, dendrites=3), Structure()),
}
every_form = pytest.mark.parametrize("form", FORMS)

torch.set_num_threads(1)


def lively(form: str = "pssa-channel") -> Network:
    """Return a float network whose neurons fire, in evaluation mode.

    LRF-Dyn's is in double precision, where no membrane comes as near to a threshold as its two forms differ.
    """
    network = copy.deepcopy(_lively(*FORMS[form]))
    torch.manual_seed(1)
    return network.double() if network.geometry.unbounded else network


@functools.cache
def _lively(geometry: Geometry, structure: Structure) -> Network:
    torch.manual_seed(0)
    network = float_network(geometry, 15, 3, structure)
    for module in network.modules():
        if isinstance(module, PTBN):
            module.bias.data.uniform_(0.0, 0.5)
            module.weight.data.fill_(0.8)
    for _ in range(40):
        network(torch.randn(32, 12, 15))
    return network.eval()


@every_form
def test_streaming_equals_the_whole_window(form: str) -> None:
    network = lively(form)
    tokens = torch.randn(3, 20, 15)
    whole = Record()
    expected = network(tokens, record=whole)
    stream = network.stream(batch=3)
    for n in range(20):
        record = Record()
        action = stream.decide(tokens[:, n], record)
        torch.testing.assert_close(action, expected[:, n])
        assert record.spikes.keys() == whole.spikes.keys()
        for name, spikes in whole.spikes.items():
            assert torch.equal(record.spikes[name], spikes.unflatten(1, (3, 20))[:, :, n]), name
    rates = [spikes.mean().item() for spikes in whole.spikes.values()]
    assert min(rates) > 0.001
    assert max(rates) < 0.9


@every_form
def test_episodes_that_go_on_are_as_if_alone(form: str) -> None:
    network = lively(form)
    tokens = torch.randn(3, 16, 15)
    stream = network.stream(batch=3)
    for n in range(8):
        stream.decide(tokens[:, n])
    stream.keep(torch.tensor([2, 0]))
    for n in range(8, 16):
        together = stream.decide(tokens[[2, 0], n])
    for row, episode in enumerate((2, 0)):
        alone = network.stream()
        for token in tokens[episode]:
            action = alone.decide(token[None])
        torch.testing.assert_close(action[0], together[row])


@every_form
def test_recomputing_the_context_of_a_float_network_equals_streaming(form: str) -> None:
    network = lively(form)
    context, length = network.geometry.context, 60
    tokens = torch.randn(length, 15)
    stream = network.stream()
    streamed = torch.cat([stream.decide(token[None]) for token in tokens])[context:]
    differing = []
    for window in (context, context // 2):
        windows = torch.stack([tokens[n - window + 1 : n + 1] for n in range(context, length)])
        differing.append(bool(((network(windows)[:, -1] - streamed).abs() > 1e-5).any()))
    assert differing == [network.geometry.unbounded, True]


def test_recomputing_the_context_equals_streaming_and_less_does_not() -> None:
    differing = {TINY.context: 0, TINY.context - 1: 0}
    for seed in range(4):
        policy = random_policy(TINY, seed)
        network = from_policy(policy)
        tokens = torch.from_numpy(random_tokens(policy, 400, seed))
        stream = network.stream()
        streamed = torch.cat([stream.decide(token[None]) for token in tokens])
        for length in differing:
            windows = torch.stack([tokens[n - length + 1 : n + 1] for n in range(TINY.context, 400)])
            recomputed = network(windows)[:, -1]
            differing[length] += int((recomputed != streamed[TINY.context :]).any(1).sum())
    assert differing[TINY.context] == 0
    assert differing[TINY.context - 1] > 0


@every_form
@pytest.mark.parametrize(("training", "theta"), [(False, 0.0), (True, 0.0), (True, 0.5)])
def test_what_stands_in_the_padding_changes_nothing(form: str, training: bool, theta: float) -> None:
    real = torch.ones(6, 12, dtype=torch.bool)
    real[0, :5], real[3, :11] = False, False
    tokens = torch.randn(6, 12, 15)
    results = []
    for filling in (0.0, 1e6, float("nan")):
        network = lively(form)
        network.train(training)
        set_mixing(network, theta)
        padded = torch.where(real[..., None], tokens, torch.tensor(filling))
        actions = network(padded, real)
        gradients = torch.autograd.grad(actions[real].sum(), [p for p in network.parameters() if p.requires_grad])
        statistics = [b for m in network.modules() if isinstance(m, PTBN) for b in (m.running_mean, m.running_var)]
        results.append([actions, *gradients, *statistics])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)
    assert (results[0][0][~real] == 0).all()


@every_form
def test_padded_windows_equal_the_short_ones_they_hold(form: str) -> None:
    network = lively(form)
    tokens = torch.randn(1, 12, 15)
    real = torch.arange(12)[None] >= 5
    torch.testing.assert_close(network(tokens, real)[:, 5:], network(tokens[:, 5:]))


def test_statistics_are_those_of_the_real_tokens() -> None:
    network = float_network(TINY, 15, 3, Structure())
    real = torch.rand(8, 10) < 0.6
    real[:, -1] = True
    tokens = torch.randn(8, 10, 15) + 2
    network(tokens, real)
    linear = network.embed.linear(tokens[real]).detach()
    torch.testing.assert_close(network.embed.norm.running_mean, 0.1 * linear.mean(0))
    torch.testing.assert_close(network.embed.norm.running_var, 0.9 + 0.1 * linear.var(0))


@every_form
def test_no_token_sees_a_later_one(form: str) -> None:
    network = lively(form)
    tokens = torch.randn(2, 10, 15)
    changed = tokens.clone()
    changed[:, 6] += 3
    before, after = network(tokens), network(changed)
    # an FFT mixes all tokens, and the later ones cancel but for rounding
    torch.testing.assert_close(before[:, :6], after[:, :6], rtol=0, atol=1e-12 if network.geometry.unbounded else 0)
    assert (before[:, 6:] - after[:, 6:]).abs().max() > 1e-3


@every_form
def test_every_parameter_learns(form: str) -> None:
    network = lively(form).train()
    set_mixing(network, 0.5)
    network(torch.randn(16, 14, 15)).square().sum().backward()
    idle = {name.split(".")[2] for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    # the membranes behind an OR stand where the surrogate gradient is zero
    assert idle == ({"kvq"} if form == "pssa-or" else set())


@every_form
def test_nothing_stays_behind_on_the_cpu(form: str) -> None:
    # the meta device refuses tensors of another one, as a GPU does
    network = lively(form).to("meta")
    tokens = torch.empty(2, 14, 15, device="meta")
    network.train()(tokens).sum().backward()
    stream = network.eval().stream(2)
    for _ in range(2):
        assert stream.decide(tokens[:, 0]).device.type == "meta"
    assert {state.device.type for state in stream.state} == {"meta"}


def test_a_form_of_every_attention_is_tried_here() -> None:
    assert {geometry.attention for geometry, _ in FORMS.values()} == set(ATTENTIONS)


def test_window_sum_and_its_gradient_are_those_of_its_definition() -> None:
    torch.manual_seed(2)
    kv = torch.randn(3, 2, 9, 5, dtype=torch.double, requires_grad=True)
    taps = torch.randn(5, 4, dtype=torch.double, requires_grad=True)
    plain = torch.zeros(3, 2, 9, 5, dtype=torch.double)
    for n in range(9):
        for d in range(min(4, n + 1)):
            plain[:, :, n] += (taps[:, d] * kv[:, :, n - d]).detach()
    torch.testing.assert_close(relative_sum(kv, taps).detach(), plain)
    assert torch.autograd.gradcheck(relative_sum, (kv, taps))


def test_or_gate_fires_where_any_token_in_the_window_matches() -> None:
    network = lively("pssa-or")
    record = Record()
    network(torch.randn(4, 12, 15), record=record)
    for layer in range(TINY.layers):
        k, v, q, o = (record.spikes[f"layer{layer}.{n}"] for n in ("key", "value", "query", "window"))
        kv = (k * v).unflatten(1, (4, 12))
        seen = torch.stack([kv[:, :, max(0, n - 3) : n + 1].amax(2) for n in range(12)], 2).flatten(1, 2)
        assert torch.equal(o, q * seen)
        assert 0 < o.mean() < 0.9


@pytest.mark.parametrize(("taps", "groups"), [("shared", 1), ("head", 8), ("channel", 16)])
def test_absolute_positions_are_the_authors_matrix(taps: str, groups: int) -> None:
    network = copy.deepcopy(_lively(TINY, Structure(position="absolute", taps=taps, positions=12)))
    weights = network.blocks[0].attention.taps()
    assert weights.shape == (groups, 12, 12)
    # a token sees itself and the three before it
    assert int((weights != 0).sum()) == groups * (12 + 11 + 10 + 9)
    kv = torch.randn(4, 2, 9, 16)
    result = absolute_sum(kv, weights)
    for channel in range(16):
        matrix = weights[channel * groups // 16, 3:, 3:]
        torch.testing.assert_close(result[..., channel], kv[..., channel] @ matrix.t())
    assert network(torch.randn(2, 12, 15)).std() > 0
    with pytest.raises(ValueError, match="cannot stream"):
        network.stream()
    with pytest.raises(ValueError, match="13 tokens are more than the 12"):
        network(torch.randn(2, 13, 15))


def test_taps_below_the_threshold_learn_and_the_authors_ones_do_not() -> None:
    gradients = []
    for init in (None, 0.6):
        network = lively()
        for block in network.blocks:
            taps = block.attention.taps.weight.data
            taps.fill_(1.0) if init is None else taps.uniform_(0, init)
        network(torch.randn(16, 12, 15)).square().sum().backward()
        gradients.append(max(block.attention.taps.weight.grad.abs().max().item() for block in network.blocks))
    assert gradients[0] == 0
    assert gradients[1] > 0


def test_nonsensical_structures_are_refused() -> None:
    with pytest.raises(ValueError, match="position must be one of"):
        Structure(position="sideways")
    with pytest.raises(ValueError, match="taps must be one of"):
        Structure(taps="none")
    with pytest.raises(ValueError, match="cannot be shared among 7 heads"):
        float_network(TINY, 15, 3, Structure(taps="head", heads=7))


@pytest.mark.parametrize("form", ["pssa-channel", "lrf-dyn", "lrf-dyn-ungated"])
def test_projections_are_normalised_apart(form: str) -> None:
    network = lively(form).train()
    set_mixing(network, 1.0)
    tokens, keys = torch.randn(4, 12, 15), []
    for _ in range(2):
        record = Record()
        network(tokens, record=record)
        keys.append(record.spikes["layer0.key"])
        network.blocks[0].kvq.linear.weight.data[TINY.d_model :] *= 9
    assert torch.equal(*keys)
    assert keys[0].any()


@pytest.mark.parametrize("form", ["pssa-channel", "sssa", "tssa", "lrf-ssa", "lrf-dyn"])
def test_training_learns_what_only_past_tokens_tell(form: str) -> None:
    torch.manual_seed(0)
    network = float_network(FORMS[form][0], 15, 3, FORMS[form][1])
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(150):
        tokens = torch.randn(32, 12, 15)
        target = torch.tanh(tokens[..., :3].unfold(1, 4, 1).sum(-1) / 2)
        loss = (network(tokens)[:, 3:] - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    # what the best guess from the last token alone is off by
    guess = torch.tanh((torch.randn(1000) + torch.randn(500, 3, 1000).sum(1)) / 2).var(0).mean()
    assert sum(losses[-10:]) / 10 < 0.7 * guess
