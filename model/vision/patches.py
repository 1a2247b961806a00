# SPDX-License-Identifier: MIT
"""Spiking patch embedding: an image as tokens."""

import torch
from torch import Tensor, nn

from model.network.layers import THRESHOLD
from model.network.neuron import lif
from model.network.norm import TdBN
from model.vision.taps import Grid


class Patches(nn.Module):
    """Two convolutions with batch norms and neurons, as Spikformer's patch splitting has; the second steps by `patch`.

    The image is the same current in every SNN step. membranes : leave the last neurons out, for blocks that begin with
    neurons of their own. A learned vector per token tells where it is.
    """

    def __init__(self, channels: int, d_model: int, grid: Grid, patch: int, steps: int, membranes: bool) -> None:
        super().__init__()
        self.grid, self.steps, self.membranes = grid, steps, membranes
        self.first = nn.Conv2d(channels, d_model // 2, 3, padding=1, bias=False)
        side, border = (3, 1) if patch < 3 else (patch, 0)
        self.second = nn.Conv2d(d_model // 2, d_model, side, stride=patch, padding=border, bias=False)
        self.norms = nn.ModuleList([TdBN(d_model // 2), TdBN(d_model)])
        self.place = nn.Parameter(torch.zeros(grid.tokens, d_model))
        nn.init.normal_(self.place, std=0.1)
        self.thresholds = nn.ParameterList(
            nn.Parameter(torch.full((size,), THRESHOLD), requires_grad=False) for size in (d_model // 2, d_model)
        )

    def forward(self, images: Tensor) -> Tensor:
        """images [batch, channels, height, width] in 0..1 -> spikes or membranes [steps, batch * tokens, d]."""
        current = self.first(images).permute(0, 2, 3, 1)  # channels last, as norms and neurons take them
        size = current.shape[:3]
        current = self.norms[0](current.flatten(0, 2)).expand(self.steps, -1, -1)
        spikes = lif(current, self.thresholds[0]).unflatten(1, size).flatten(0, 1).permute(0, 3, 1, 2)
        tokens = self.second(spikes).permute(0, 2, 3, 1).reshape(self.steps, -1, self.second.out_channels)
        tokens = self.norms[1](tokens) + self.place.repeat(len(images), 1)
        return tokens if self.membranes else lif(tokens, self.thresholds[1])
