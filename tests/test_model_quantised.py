# SPDX-License-Identifier: MIT
"""The integer network in PyTorch and the golden one in numpy: equal in every spike, membrane and action."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.fold import from_policy, integer_tensors, quantise
from model.geometry import HOPPER_Z2, ODD, TINY, Geometry
from model.golden import GoldenNetwork
from model.layers import Structure, float_network
from model.network import Record
from model.norm import PTBN
from model.quantize import best_unit, floor_shift, tanh_table, to_grid
from model.random_policy import random_policy, random_tokens

GUARDED = Geometry(observation_size=4, action_size=2, d_model=16, layers=1, steps=8, window=4, group=8)
"""Eight SNN steps: more guard bits than single precision holds."""

torch.set_num_threads(1)


def compare(geometry: Geometry, seed: int, tokens: int) -> tuple[float, int]:
    """Assert equality over one random episode; return the share of spikes and the number of different actions."""
    policy = random_policy(geometry, seed)
    golden, stream = GoldenNetwork(policy), from_policy(policy).stream()
    spikes, actions = [], set()
    for token in random_tokens(policy, tokens, seed):
        trace, record = golden.decide(token), Record()
        action = stream.decide(torch.from_numpy(token)[None], record)
        assert (action[0].double().numpy() * 2**15 == trace.action).all()
        assert set(record.spikes) == set(trace.spikes)
        for name, expected in trace.spikes.items():
            assert (record.spikes[name][:, 0].numpy() == expected).all(), name
            spikes.append(expected.mean())
        for membrane, expected in zip(record.membranes, trace.membranes, strict=True):
            assert (membrane[:, 0].double().numpy() == expected).all()
        actions.add(tuple(trace.action))
    return float(np.mean(spikes)), len(actions)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), geometry=st.sampled_from([TINY, ODD, GUARDED]))
def test_equals_golden(seed: int, geometry: Geometry) -> None:
    compare(geometry, seed, tokens=geometry.context + 3)


def test_equals_golden_at_full_size() -> None:
    for seed in range(2):
        share, actions = compare(HOPPER_Z2, seed, tokens=26)
        assert 0.05 < share < 0.95
        assert actions > 20


@pytest.mark.parametrize("geometry", [TINY, ODD, GUARDED], ids=["tiny", "odd", "guarded"])
def test_what_is_compared_is_not_constant(geometry: Geometry) -> None:
    results = [compare(geometry, seed, tokens=12) for seed in range(4)]
    assert all(0.02 < share < 0.98 for share, _ in results)
    assert max(actions for _, actions in results) > 6


def test_wide_membranes_are_computed_in_double_precision() -> None:
    assert GUARDED.lif_bits > 24
    assert from_policy(random_policy(GUARDED, 0)).entry.dtype == torch.float64


@pytest.mark.parametrize("geometry", [TINY, ODD], ids=["tiny", "odd"])
def test_tensors_survive_the_way_through_the_network(geometry: Geometry) -> None:
    policy = random_policy(geometry, 3)
    tensors = integer_tensors(from_policy(policy))
    assert set(tensors) == set(policy.tensors)
    for name, tensor in tensors.items():
        assert np.array_equal(tensor, policy.tensors[name]), name


def test_a_smaller_environment_fits_a_geometry() -> None:
    policy = random_policy(TINY, 1, observation_size=4, action_size=1)
    golden, stream = GoldenNetwork(policy), from_policy(policy).stream()
    for token in random_tokens(policy, 5, 0):
        assert stream.decide(torch.from_numpy(token)[None]).item() * 2**15 == golden.decide(token).action.item()


def trained_by_chance(seed: int) -> torch.nn.Module:
    """Return a float network whose norms and weights are as spread as trained ones."""
    torch.manual_seed(seed)
    network = float_network(TINY, 15, 3, Structure())
    for module in network.modules():
        if isinstance(module, PTBN):
            module.bias.data.uniform_(0.0, 0.5)
            module.weight.data.fill_(0.8)
    for _ in range(30):
        network(torch.randn(16, 10, 15))
    for parameter in network.parameters():
        parameter.data *= torch.rand_like(parameter) + 0.6
    return network.eval()


def test_quantising_stays_near_the_float_network() -> None:
    network = trained_by_chance(0)
    fine = Geometry(
        observation_size=11,
        action_size=3,
        d_model=16,
        layers=2,
        window=4,
        group=8,
        weight_bits=8,
        membrane_bits=16,
        table_log2=12,
    )
    tokens = torch.randn(32, 9, 15).clamp(-3.9, 3.9)
    tokens = torch.round(tokens * 32) / 32
    coarse = quantise(network, torch.full((15,), 32.0), 8).eval()
    network.geometry = fine
    nearer = quantise(network, torch.full((15,), 32.0), 12).eval()
    expected = network(tokens)
    errors = [(q(q.prepare(tokens)) - expected).abs().mean().item() for q in (coarse, nearer)]
    assert expected.std() > 0.02
    assert errors[1] < errors[0]
    assert errors[1] < 0.1 * expected.std()


def test_gradients_reach_every_weight_of_the_quantised_network() -> None:
    network = quantise(trained_by_chance(1), torch.full((15,), 32.0), 8).train()
    loss = ((network(network.prepare(torch.randn(32, 9, 15))) - torch.rand(32, 9, 3)) ** 2).mean()
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


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
