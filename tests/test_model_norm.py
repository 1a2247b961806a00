# SPDX-License-Identifier: MIT
"""PTBN: its two norms, its schedules, its folding."""

import pytest
import torch
from torch.nn import functional

from model.norm import PTBN, mixing, set_mixing

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
