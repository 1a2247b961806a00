# SPDX-License-Identifier: MIT
"""Local taps of LRF attention: a causal, dilated, depthwise convolution of the value spikes over tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.deployed.geometry import Geometry
from model.network.window import relative_sum


class LocalTaps(nn.Module):
    """Weights of the local taps, one per channel and distance, uniform in 0..`init` at first."""

    def __init__(self, geometry: Geometry, init: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(geometry.d_model, len(geometry.local_distances)) * init)

    def forward(self) -> Tensor:
        """Return the weights [d, distances]."""
        return self.weight


def local_sum(value: Tensor, taps: Tensor, distances: Sequence[int]) -> Tensor:
    """Sum `acc[n] = sum_i taps[:, i] value[n - distances[i]]`.

    value [steps, batch, length, d], taps [d, distances] -> like value.
    """
    index = torch.tensor(distances, device=taps.device)
    spread = taps.new_zeros(len(taps), 1 + max(distances)).index_copy(1, index, taps)
    return relative_sum(value, spread)
