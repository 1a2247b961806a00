# SPDX-License-Identifier: MIT
"""Progressive threshold-dependent batch normalisation (PTBN): layer norm that turns into foldable batch norm."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

SCHEDULES = ("linear", "cosine", "step")


def mixing(schedule: str, step: int, transition_steps: int) -> float:
    """Return theta, the share of layer norm: 1 at step 0, 0 from `transition_steps` on."""
    if step >= transition_steps:
        return 0.0
    done = step / transition_steps
    if schedule == "linear":
        return 1.0 - done
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    if schedule == "step":
        return 1.0
    raise ValueError(f"unknown PTBN schedule {schedule!r}; the schedules are {', '.join(SCHEDULES)}")


class PTBN(nn.Module):
    """`theta * tdLN(x) + (1 - theta) * tdBN(x)` in training, tdBN alone in evaluation (the PTBN of DSFormer).

    Takes [rows, channels] where the rows are the real tokens of all SNN steps: padding is not among them, so it cannot
    enter the statistics. `groups` equal shares of the channels have a layer norm each (q, k and v share one product).
    The scale starts at the threshold, 0.5.
    """

    def __init__(self, channels: int, groups: int = 1, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.groups, self.momentum, self.epsilon = groups, momentum, epsilon
        self.theta = 0.0
        self.weight = nn.Parameter(torch.full((channels,), 0.5))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [rows, channels]."""
        batch = self._batch_norm(x)
        if not self.training or self.theta == 0.0:
            return batch
        grouped = x.view(len(x), self.groups, -1)
        layer = functional.layer_norm(grouped, grouped.shape[2:], eps=self.epsilon).flatten(1)
        return torch.lerp(batch, layer * self.weight + self.bias, self.theta)

    def _batch_norm(self, x: Tensor) -> Tensor:
        # as an image of one pixel: torch is several times faster on that shape than on rows
        return functional.batch_norm(
            x[:, :, None, None],
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.epsilon,
        )[:, :, 0, 0]

    def gain_and_offset(self) -> tuple[Tensor, Tensor]:
        """Return the evaluation's `gain * x + offset` per channel, to fold into the linear before or after it."""
        gain = self.weight.detach() / torch.sqrt(self.running_var + self.epsilon)
        return gain, self.bias.detach() - gain * self.running_mean


def set_mixing(module: nn.Module, theta: float) -> None:
    """Set theta on every PTBN below `module`."""
    for part in module.modules():
        if isinstance(part, PTBN):
            part.theta = theta
