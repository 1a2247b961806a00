# SPDX-License-Identifier: MIT
"""The leaky integrate-and-fire neuron, over all SNN steps of a token at once, and gradients straight through."""

from typing import Any

import torch
from torch import Tensor

from model.network import kernels


class _Fire(torch.autograd.Function):
    """LIF as one autograd node: it keeps the membranes and nothing else."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, threshold: Tensor) -> Tensor:
        membrane = membranes(current, threshold)
        ctx.save_for_backward(membrane, threshold)
        # a comparison that writes floats is several times faster than one that makes booleans
        return torch.gt(membrane, threshold, out=torch.empty_like(membrane))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        membrane, threshold = ctx.saved_tensors
        # half the rectangle's width is the threshold itself; a threshold of 0 gets a width of 1 instead of none
        half = torch.where(threshold > 0, threshold, torch.full_like(threshold, 0.5))
        result = (membrane - threshold).abs_()
        torch.lt(result, half, out=result).mul_(gradients[0]).mul_(0.5 / half)
        silent = torch.empty_like(membrane[0])
        for t in range(len(result) - 2, -1, -1):
            # the reset is detached: a spike only cuts the path to the next step
            torch.le(membrane[t], threshold, out=silent)
            result[t].addcmul_(result[t + 1], silent, value=0.25)
        return result, None


class _CompiledFire(torch.autograd.Function):
    """The same compiled; it keeps the current alone, which is often kept anyway, and charges the membranes again."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, threshold: Tensor) -> Tensor:
        ctx.save_for_backward(current, threshold)
        spikes = torch.empty(current.shape)
        kernels.run("lif_forward", current, current.stride(0), threshold, spikes, *_sizes(current))
        return spikes

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        current, threshold = ctx.saved_tensors
        gradient, result = gradients[0].contiguous(), torch.empty(current.shape)
        kernels.run("lif_backward", current, current.stride(0), threshold, gradient, result, *_sizes(current))
        return result, None


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, smooth: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


def straight_through(value: Tensor, smooth: Tensor) -> Tensor:
    """Return `value` with the gradient of `smooth` (both of one shape)."""
    return _StraightThrough.apply(value.detach(), smooth)


def _sizes(current: Tensor) -> tuple[int, int, int]:
    steps, channels = current.shape[0], current.shape[-1]
    return steps, current[0].numel() // channels, channels


def _per_channel(threshold: Tensor, channels: int) -> Tensor:
    # comparisons against one number are slower than against a row of equal ones
    return threshold.expand(channels).contiguous()


def membranes(current: Tensor, threshold: Tensor) -> Tensor:
    """Return the membranes of `lif` [steps, ..., channels], without gradient."""
    membrane = current.detach().clone(memory_format=torch.contiguous_format)
    threshold = _per_channel(threshold, current.shape[-1])
    silent = torch.empty_like(membrane[0])
    for t in range(1, len(membrane)):
        torch.le(membrane[t - 1], threshold, out=silent)
        membrane[t].addcmul_(membrane[t - 1], silent, value=0.25)
    return membrane


def lif(current: Tensor, threshold: Tensor) -> Tensor:
    """Fire `s[t] = m[t] > threshold` with `m[t] = u[t] + m[t-1]/4 (1 - s[t-1])`, from rest (the LIF of DSFormer).

    current [steps, ..., channels] and threshold (scalar or [channels]) share a unit -> spikes, zeros and ones of
    current's type. Gradient: the rectangle `ds/dm = 1[|m - threshold| < threshold] / (2 threshold)`, the authors' at
    threshold 0.5 and the same for the same neuron in any unit; through the reset no gradient flows.
    """
    threshold = _per_channel(threshold, current.shape[-1])
    fire = _CompiledFire if kernels.fit(current, threshold) and current.numel() else _Fire
    return fire.apply(current, threshold)
