# SPDX-License-Identifier: MIT
"""The SNN steps that step gates leave live, as a term of the loss: `lambda E[T_i]` over tokens and layers."""

from collections.abc import Mapping

import torch
from torch import Tensor


def mean_live_steps(live_steps: Mapping[str, Tensor]) -> Tensor:
    """Return the mean of the live steps over tokens and layers, 1..T, differentiable.

    live_steps : "layer0" and so on -> [rows], as `network.Record` notes them.
    """
    return torch.stack([live.mean() for live in live_steps.values()]).mean()
