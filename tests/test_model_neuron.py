# SPDX-License-Identifier: MIT
"""The neuron and its surrogate, against the equations written out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.network.neuron import lif, membranes

torch.set_num_threads(1)


def by_the_book(current: torch.Tensor, threshold: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One number at a time."""
    spikes, potentials = torch.zeros_like(current), torch.zeros_like(current)
    steps, rows, channels = current.shape
    for row in range(rows):
        for channel in range(channels):
            m = s = 0.0
            for t in range(steps):
                m = float(current[t, row, channel]) + 0.25 * m * (1.0 - s)
                s = float(m > threshold[channel])
                potentials[t, row, channel], spikes[t, row, channel] = m, s
    return spikes, potentials


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), steps=st.integers(1, 6), unit=st.sampled_from([1, 7, 40]))
def test_equals_the_written_out_neuron(seed: int, steps: int, unit: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # integers, so that meeting the threshold exactly happens; and it must not fire there
    current = torch.randint(-2 * unit, 3 * unit, (steps, 5, 8), generator=generator).double()
    threshold = torch.randint(0, unit + 1, (8,), generator=generator).double()
    spikes, potentials = by_the_book(current, threshold)
    assert torch.equal(lif(current, threshold), spikes)
    assert torch.equal(membranes(current, threshold), potentials)


def test_meeting_the_threshold_is_silent_and_a_spike_resets() -> None:
    current = torch.tensor([0.5, 0.5, 0.0, 0.375])[:, None, None]
    # 0.5 stays silent; 0.5 + 0.125 fires and resets; so the last step has no past
    assert lif(current, torch.tensor(0.5)).flatten().tolist() == [0, 1, 0, 0]
    assert membranes(current, torch.tensor(0.5)).flatten().tolist() == [0.5, 0.625, 0.0, 0.375]


def test_gradient_is_the_authors_rectangle_with_a_detached_reset() -> None:
    torch.manual_seed(0)
    current = torch.randn(4, 50, 6, dtype=torch.double, requires_grad=True)
    upstream = torch.randn(4, 50, 6, dtype=torch.double)
    (got,) = torch.autograd.grad(lif(current, torch.tensor(0.5, dtype=torch.double)), current, upstream)
    with torch.no_grad():
        spikes, m = by_the_book(current, torch.full((6,), 0.5))
        rectangle = ((m - 0.5).abs() < 0.5).double()
        expected = torch.zeros_like(current)
        carried = torch.zeros(50, 6, dtype=torch.double)
        for t in reversed(range(4)):
            expected[t] = upstream[t] * rectangle[t] + carried
            carried = expected[t] * 0.25 * (1 - spikes[t - 1])
    assert 0.05 < rectangle.mean() < 0.95
    torch.testing.assert_close(got, expected)


def test_the_same_neuron_in_any_unit_has_the_same_gradient() -> None:
    torch.manual_seed(1)
    real = torch.randn(4, 20, 3, dtype=torch.double, requires_grad=True)
    units = torch.tensor([2.0, 14.0, 64.0], dtype=torch.double)
    upstream = torch.randn(4, 20, 3, dtype=torch.double)
    half = torch.tensor(0.5, dtype=torch.double)
    (plain,) = torch.autograd.grad(lif(real, half), real, upstream)
    (scaled,) = torch.autograd.grad(lif(real * units, half * units), real, upstream)
    assert plain.abs().max() > 0.1
    torch.testing.assert_close(plain, scaled)


@pytest.mark.parametrize("threshold", [torch.tensor(0.0), torch.zeros(3)])
def test_threshold_zero_has_a_finite_gradient(threshold: torch.Tensor) -> None:
    current = torch.randn(4, 5, 3, requires_grad=True)
    lif(current, threshold).sum().backward()
    assert current.grad is not None
    assert torch.isfinite(current.grad).all()
    assert current.grad.abs().max() > 0
