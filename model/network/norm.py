# SPDX-License-Identifier: MIT
"""The norms of DSFormer: batch norm (tdBN), layer norm (tdLN), and two that turn from the one into the other (PTBN)."""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.network import kernels
from model.network.neuron import lif
from model.network.product import matrix_gradient, spike_linear

SCHEDULES = ("linear", "cosine", "step")


def mixing(schedule: str, step: int, transition_steps: int, hold_steps: int = 0) -> float:
    """Return theta, the share of layer norm: 1 for `hold_steps`, then down to 0 in `transition_steps`, then 0."""
    if step >= hold_steps + transition_steps:
        return 0.0
    if step < hold_steps:
        return 1.0
    done = (step - hold_steps) / transition_steps
    if schedule == "linear":
        return 1.0 - done
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    if schedule == "step":
        return 1.0
    raise ValueError(f"unknown PTBN schedule {schedule!r}; the schedules are {', '.join(SCHEDULES)}")


class _Norm(nn.Module, ABC):
    """Scale and offset per channel, the scale starting at the threshold, 0.5.

    Takes [steps, rows, channels], or [rows, channels] of a single step, where the rows are the real tokens: padding is
    not among them, so it cannot enter the statistics. `groups` equal shares of the channels have a layer norm each (q,
    k and v share one product).
    """

    def __init__(self, channels: int, groups: int = 1, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.groups, self.epsilon = groups, epsilon
        self.weight = nn.Parameter(torch.full((channels,), 0.5))
        self.bias = nn.Parameter(torch.zeros(channels))

    def _layer_norm(self, x: Tensor) -> Tensor:
        grouped = x.unflatten(-1, (self.groups, -1))
        layer = functional.layer_norm(grouped, grouped.shape[-1:], eps=self.epsilon).flatten(-2)
        return layer * self.weight + self.bias

    @abstractmethod
    def gain_and_offset(self) -> tuple[Tensor, Tensor]:
        """Return the evaluation's `gain * x + offset` per channel, to fold into the linear before or after it."""


class TdLN(_Norm):
    """Layer norm over the channels of each row, that is per SNN step and token; in evaluation too."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x."""
        return self._layer_norm(x)

    def gain_and_offset(self) -> tuple[Tensor, Tensor]:
        """Raise `ValueError`: the gain depends on the token."""
        raise ValueError("layer norm cannot be folded: it has no integer form; train with norm='ptbn' or 'tdbn'")


class TdBN(_Norm):
    """Batch norm of each channel over all rows, by running statistics in evaluation.

    frozen : running statistics in training too; scale and offset go on learning.
    """

    frozen = False

    def __init__(self, channels: int, groups: int = 1, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__(channels, groups, epsilon)
        self.momentum = momentum
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x."""
        # as an image of one pixel: torch is several times faster on that shape than on rows
        return functional.batch_norm(
            x.flatten(0, -2)[:, :, None, None],
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training and not self.frozen,
            self.momentum,
            self.epsilon,
        )[:, :, 0, 0].view_as(x)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return the `gain * x + offset` per channel of the running statistics, differentiable."""
        gain = self.weight / torch.sqrt(self.running_var + self.epsilon)
        return gain, self.bias - gain * self.running_mean

    def gain_and_offset(self) -> tuple[Tensor, Tensor]:
        """Return the evaluation's `gain * x + offset` per channel, to fold into the linear before or after it."""
        gain, offset = self.affine()
        return gain.detach(), offset.detach()


class PTBN(TdBN):
    """`theta * tdLN(x) + (1 - theta) * tdBN(x)` in training, tdBN alone in evaluation (the PTBN of DSFormer)."""

    theta = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x."""
        batch = super().forward(x)
        if not self.training or self.theta == 0.0:
            return batch
        return torch.lerp(batch, self._layer_norm(x), self.theta)


class PTRepBN(PTBN):
    """PTBN with `tdBN(x) + alpha x` for its batch norm, and one layer norm over all SNN steps of a token.

    The second PTBN of the authors' code (PTNorm_Advanced, remarked to do well on Adroit); a batch norm plus a share of
    its input is the RepBN of SLAB (arXiv 2405.11582). alpha [groups] starts at 1; each group has its own, as the
    authors' query, key and value have. Scale and offset per channel serve both norms, as in PTBN; the authors' layer
    norm has its own per step and channel, which are gone once it has turned.
    """

    def __init__(self, channels: int, groups: int = 1) -> None:
        super().__init__(channels, groups)
        self.alpha = nn.Parameter(torch.ones(groups))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x."""
        share = 1.0 - self.theta if self.training else 1.0
        return torch.addcmul(super().forward(x), x, self._alpha(), value=share)

    def _alpha(self) -> Tensor:
        return self.alpha.repeat_interleave(len(self.weight) // self.groups)

    def _layer_norm(self, x: Tensor) -> Tensor:
        # [rows, groups, steps, channels of a group]
        grouped = x.view(-1, *x.shape[-2:]).unflatten(2, (self.groups, -1)).permute(1, 2, 0, 3)
        layer = functional.layer_norm(grouped, grouped.shape[2:], eps=self.epsilon).permute(2, 0, 1, 3)
        return layer.reshape(x.shape) * self.weight + self.bias

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return the `gain * x + offset` per channel of the running statistics, differentiable."""
        gain, offset = super().affine()
        return gain + self._alpha(), offset


NORMS: dict[str, type[_Norm]] = {"ptbn": PTBN, "ptrepbn": PTRepBN, "tdbn": TdBN, "tdln": TdLN}


def set_mixing(module: nn.Module, theta: float) -> None:
    """Set theta on every PTBN below `module`."""
    for part in module.modules():
        if isinstance(part, PTBN):
            part.theta = theta


def set_frozen(module: nn.Module, frozen: bool) -> None:
    """Let every batch norm below `module` keep its running statistics in training, or measure batches again."""
    for part in module.modules():
        if isinstance(part, TdBN):
            part.frozen = frozen


class _LinearNorm(torch.autograd.Function):
    """Product, batch norm and what follows it as one node, which keeps the product's result and nothing after it."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        matrix: Tensor,
        weight: Tensor,
        bias: Tensor,
        threshold: Tensor | None,
        shortcut: Tensor | None,
        norm: TdBN,
    ) -> Tensor:
        sizes = (*x.shape[:2], len(matrix))
        count = sizes[0] * sizes[1]
        half = kernels.multiply(count, *matrix.shape)
        if norm.training:
            mean, variance = torch.empty_like(weight), torch.empty_like(weight)
        else:
            mean, variance = norm.running_mean, norm.running_var
        if half:
            x = x.bfloat16().contiguous()
            u = kernels.product(x, matrix, True, *((mean, variance) if norm.training else ()))
        else:
            u = functional.linear(x, matrix)
            if norm.training:
                kernels.run("statistics", u, mean, variance, count, sizes[2])
        if norm.training:
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
        ctx.save_for_backward(x, matrix, u, mean, variance, weight, bias, threshold)
        ctx.epsilon, ctx.half, ctx.sizes = norm.epsilon, half, sizes
        result, step = torch.empty_like(u), 0 if shortcut is None else shortcut.stride(0)
        statistics = (mean, variance, weight, bias, norm.epsilon)
        kernels.run("norm_forward", u, *statistics, threshold, shortcut, step, result, *sizes)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, matrix, u, mean, variance, weight, bias, threshold = ctx.saved_tensors
        gradient, to_weight, to_bias = gradients[0].contiguous(), torch.empty_like(weight), torch.empty_like(weight)
        to_u = torch.empty_like(u, dtype=torch.bfloat16 if ctx.half else u.dtype)
        targets = (None, to_u) if ctx.half else (to_u, None)
        statistics = (mean, variance, weight, bias, ctx.epsilon)
        kernels.run("norm_backward", u, *statistics, threshold, gradient, *targets, to_weight, to_bias, *ctx.sizes)
        to_matrix = matrix_gradient(to_u, x).to(matrix.dtype)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = kernels.product(to_u, matrix, False) if ctx.half else to_u @ matrix
        return to_x, to_matrix, to_weight, to_bias, None, gradients[0] if ctx.needs_input_grad[5] else None, None


def _batch_norm_alone(norm: nn.Module) -> bool:
    if not isinstance(norm, TdBN) or isinstance(norm, PTRepBN):
        return False
    # with fixed statistics the compiled gradient would be another one
    return getattr(norm, "theta", 0.0) == 0.0 if norm.training else not torch.is_grad_enabled()


def linear_norm(
    x: Tensor, matrix: Tensor, norm: nn.Module, threshold: Tensor | None = None, shortcut: Tensor | None = None
) -> Tensor:
    """Return `norm(x matrix^T)`, then fired at `threshold` [out], or added to `shortcut` [steps, rows, out].

    x [steps, rows, in], matrix [out, in] -> [steps, rows, out]. Compiled where it can be; layer norm, alone or in
    PTBN's turn to batch norm, and PTRepBN take the plain path. A frozen batch norm goes into the matrix, as it will
    when deployed.
    """
    if isinstance(norm, TdBN) and norm.frozen and norm.training:
        gain, offset = norm.affine()
        y = spike_linear(x, matrix * gain[:, None], offset)
        return _followed(y, threshold, shortcut)
    if _batch_norm_alone(norm) and kernels.fit(x, matrix, threshold, shortcut) and x.shape[0] * x.shape[1] > 1:
        return _LinearNorm.apply(x, matrix, norm.weight, norm.bias, threshold, shortcut, norm)
    return _followed(norm(functional.linear(x, matrix)), threshold, shortcut)


def _followed(y: Tensor, threshold: Tensor | None, shortcut: Tensor | None) -> Tensor:
    if threshold is not None:
        return lif(y, threshold)
    return y if shortcut is None else shortcut + y
