# SPDX-License-Identifier: MIT
"""Step gates: how many of the T SNN steps of a token exist in a layer, chosen from the membranes at its entry.

A gate reads the first step's membranes of the first group of channels. In the circuit these come first, and the gate is
done when their spikes leave the neurons; what it needs to know training puts there (docs/modules.md).
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from model.deployed.geometry import Geometry
from model.network.neuron import straight_through

GAIN = 8.0
"""Of the sigmoid's argument: an optimiser that moves weights by a thousandth at a time, as Adam does, would hardly move
a gate without it."""

OPEN = 0.9
"""Share of the steps that a gate starts at, before it is rounded up: all are live and some can be lost."""


class Gate(nn.Module, ABC):
    """What a step gate offers: membranes x [steps, rows, d] at a layer's entry -> live steps and their mask."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    @abstractmethod
    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the live steps [rows], 1..T, and the real number that they are the rounding of."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the live steps T_i [rows] and the mask `1[t < T_i]` [steps, rows, 1], both straight-through.

        T_i has the gradient of what was rounded up; the mask's is 1/3 of it for the last two live steps and the first
        that is not, so that a step can be won as well as lost.
        """
        live, smooth = self.choose(x)
        step = torch.arange(self.steps, dtype=x.dtype, device=x.device)[:, None]
        mask = straight_through((step < live).to(x.dtype), torch.clamp((smooth - step + 1.0) / 3.0, 0.0, 1.0))
        return straight_through(live, smooth), mask[..., None]


class StepGate(Gate):
    """`T_i = ceil(T sigmoid(GAIN (w x[0] + b)))` over the first group of channels."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry.steps)
        self.weight = nn.Parameter(0.02 * torch.randn(geometry.group))
        self.bias = nn.Parameter(torch.tensor(math.log(OPEN / (1.0 - OPEN)) / GAIN))

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Choose."""
        smooth = self.steps * torch.sigmoid(GAIN * (x[0, :, : len(self.weight)] @ self.weight + self.bias))
        return torch.ceil(smooth.detach()).clamp(min=1.0), smooth

    def cuts(self) -> Tensor:
        """Return what `w x[0] + b` must exceed for each step after the first to be live [steps - 1], ascending."""
        share = torch.arange(1, self.steps, dtype=torch.float64) / self.steps
        return torch.logit(share) / GAIN
