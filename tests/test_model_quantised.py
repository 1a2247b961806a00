# SPDX-License-Identifier: MIT
"""The integer network beside the float one: how near, what it learns by, how it rounds."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from model.deployed.geometry import Geometry
from model.deployed.presets import TINY
from model.integer.fold import quantise
from model.integer.fold_attention import form
from model.integer.quant_dynamics import from_code, signed_power, to_code
from model.integer.quantize import Quantised, best_unit, floor_shift, tanh_table, to_grid
from model.network import layers
from model.network.dynamics import convolve
from model.network.layers import Structure, float_network
from model.network.network import Network
from model.network.norm import PTBN

torch.set_num_threads(1)


FORMS = {attention: TINY.with_attention(attention) for attention in ("pssa", "sssa", "tssa", "lrf-dyn")}
FORMS["tssa, 4 heads"] = dataclasses.replace(FORMS["tssa"], heads=4)
FORMS["ungated"] = dataclasses.replace(FORMS["lrf-dyn"], gate=False)


def trained_by_chance(geometry: Geometry, seed: int) -> Network:
    """Return a float network whose norms and weights are as spread as trained ones."""
    torch.manual_seed(seed)
    # at the usual scale a few random channels hardly ever match often enough
    structure = Structure(scale=0.5) if geometry.attention in ("sssa", "tssa") else Structure()
    network = float_network(geometry, 15, 3, structure)
    for module in network.modules():
        if isinstance(module, PTBN):
            module.bias.data.uniform_(0.0, 0.5)
            module.weight.data.fill_(0.8)
    for _ in range(30):
        network(torch.randn(16, 10, 15))
    for parameter in network.parameters():
        parameter.data *= torch.rand_like(parameter) + 0.6
    return network.eval()


@pytest.mark.parametrize("name", FORMS)
def test_quantising_stays_near_the_float_network(name: str) -> None:
    network = trained_by_chance(FORMS[name], 0)
    tokens = torch.randn(32, 19, 15).clamp(-3.9, 3.9)
    tokens = torch.round(tokens * 32) / 32
    coarse = quantise(network, torch.full((15,), 32.0), 8).eval()
    network.geometry = dataclasses.replace(FORMS[name], weight_bits=8, membrane_bits=16, table_log2=12)
    nearer = quantise(network, torch.full((15,), 32.0), 12).eval()
    with torch.no_grad():
        expected = network(tokens)
        errors = [(q(q.prepare(tokens)) - expected).abs().mean().item() for q in (coarse, nearer)]
    assert expected.std() > 0.01
    assert errors[1] < errors[0]
    # leaks and couplings are powers of two whatever the weights' bits
    assert errors[1] < (0.1 if name == "pssa" else 0.25) * expected.std()


@pytest.mark.parametrize("name", FORMS)
def test_symmetric_weights_of_two_bits_are_ternary(name: str) -> None:
    network = trained_by_chance(dataclasses.replace(FORMS[name], weight_bits=2), 4)
    drawn = {}
    for symmetric in (False, True):
        # wherever training takes them
        parts = quantise(network, torch.full((15,), 32.0), 8, symmetric).named_modules()
        spiking = [part for path, part in parts if isinstance(part, Quantised) and path.startswith("blocks")]
        for part in spiking:
            part.weight.data = 2.0 * torch.randn_like(part.weight) / part.unit
        drawn[symmetric] = [set(part.integers()[0].flatten().tolist()) for part in spiking]
    assert all(values == {-1.0, 0.0, 1.0} for values in drawn[True])
    assert all(values == {-2.0, -1.0, 0.0, 1.0} for values in drawn[False])


@pytest.mark.parametrize("name", FORMS)
def test_gradients_reach_every_weight_of_the_quantised_network(name: str) -> None:
    network = quantise(trained_by_chance(FORMS[name], 1), torch.full((15,), 32.0), 8).train()
    loss = ((network(network.prepare(torch.randn(32, 19, 15))) - torch.rand(32, 19, 3)) ** 2).mean()
    loss.backward()
    for part, parameter in network.named_parameters():
        assert parameter.grad is not None, part
        assert torch.isfinite(parameter.grad).all(), part
        assert parameter.grad.abs().max() > 0, part


def test_integer_dendrites_follow_the_float_ones() -> None:
    torch.manual_seed(0)
    attention = layers.attention(FORMS["lrf-dyn"], Structure())
    integer = form(FORMS["lrf-dyn"]).quantise(attention, FORMS["lrf-dyn"]).dendrites
    spikes = (torch.rand(4, 8, 40, 16) < 0.2).float()
    with torch.no_grad():
        expected = attention.dendrites(spikes) * integer.current_unit[:, 0]
        # the recurrence without floors and limits: what is left are floors of at most one
        smooth = convolve(spikes, integer.coefficients())
        got = integer(spikes)
    assert torch.equal(got, got.round())
    assert got.std() > 16
    assert (got - smooth).abs().mean() < 0.1 * smooth.std()
    assert (got - expected).abs().mean() < 0.2 * expected.std()


def test_folding_scales_dendrites_until_their_readouts_are_powers_of_two() -> None:
    torch.manual_seed(2)
    attention = layers.attention(FORMS["lrf-dyn"], Structure())
    with torch.no_grad():
        # leaks of 2**-3 and no couplings: nothing but read-outs and drives could be rounded
        attention.dendrites.shift.fill_(math.log(0.4 / 0.6))
        attention.dendrites.upper.zero_()
        attention.dendrites.lower.zero_()
        integer = form(FORMS["lrf-dyn"]).quantise(attention, FORMS["lrf-dyn"]).dendrites
        spikes = (torch.rand(4, 8, 40, 16) < 0.2).float()
        expected = attention.dendrites(spikes) * integer.current_unit[:, 0]
        smooth = convolve(spikes, integer.coefficients())
    assert (smooth - expected).abs().mean() < 0.01 * expected.std()


def test_integer_dendrites_have_the_gradient_of_the_smooth_ones() -> None:
    torch.manual_seed(1)
    g = FORMS["lrf-dyn"]
    integer = form(g).quantise(layers.attention(g, Structure()), g).dendrites
    spikes = (torch.rand(4, 2, 12, 16) < 0.2).float().requires_grad_()
    upstream = torch.randn(4, 2, 12, 16)
    parameters = [spikes, *integer.parameters()]
    got = torch.autograd.grad((integer(spikes) * upstream).sum(), parameters)
    expected = torch.autograd.grad((convolve(spikes, integer.coefficients()) * upstream).sum(), parameters)
    assert all(torch.equal(a, b) and a.abs().max() > 0 for a, b in zip(got, expected, strict=True))


def test_signed_powers_round_in_the_exponent_and_clip() -> None:
    x = torch.tensor([-3.0, 0.4, 0.3, -0.17, 0.0, 0.04, 0.045, 2.0], requires_grad=True)
    power = signed_power(x, 0, 4)
    power.sum().backward()
    assert power.tolist() == [-1, 0.5, 0.25, -0.125, 0, 0, 0.0625, 1]
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 1, 1, 0]
    assert to_code(power.detach()).tolist() == [-1, 2, 3, -4, 0, 0, 5, 1]
    assert torch.equal(from_code(to_code(power.detach(), -2), -2), power)


def test_an_attention_without_integer_form_is_refused() -> None:
    network = trained_by_chance(TINY.with_attention("lrf-ssa"), 0)
    with pytest.raises(ValueError, match=r"^lrf-ssa has no integer form; set quant_steps to 0, or choose pssa, sssa"):
        quantise(network, torch.full((15,), 32.0), 8)


def test_rounding_is_straight_through_and_clipping_is_not() -> None:
    x = torch.tensor([-9.0, -8.0, 0.4, 2.5, 3.5, 7.4, 8.0], requires_grad=True)
    y = to_grid(x, 4)
    y.sum().backward()
    assert y.tolist() == [-8, -8, 0, 2, 4, 7, 7]
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 1, 0]


def test_shift_rounds_down() -> None:
    shifted = floor_shift(torch.tensor([-5.0, -4.0, 5.0, 7.0]), torch.tensor(2.0))
    assert shifted.tolist() == [-2, -1, 1, 1]


def test_best_unit_finds_the_grid_a_row_came_from() -> None:
    integers = torch.tensor([[7.0, -8.0, 3.0], [7.0, 1.0, -5.0]])
    units = torch.tensor([4.0, 10.0])
    candidates = torch.arange(1.0, 33.0)
    assert candidates[best_unit(integers / units[:, None], candidates, 4)].tolist() == units.tolist()


def test_action_table_is_odd_and_monotonous() -> None:
    table = tanh_table(256, 8.0)
    assert torch.equal(table, -table.flip(0))
    assert (table.diff() > 0).all()
    assert table[-1] == round(32767 * np.tanh(4 - 8 / 512))
