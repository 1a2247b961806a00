# SPDX-License-Identifier: MIT
"""The leaky integrate-and-fire neuron, over all SNN steps of a token at once."""

from typing import Any

import torch
from torch import Tensor


class _Fire(torch.autograd.Function):
    """LIF as one autograd node: it keeps the membranes and nothing else."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, threshold: Tensor) -> Tensor:
        membrane = _integrate(current, threshold)
        ctx.save_for_backward(membrane, threshold)
        return (membrane > threshold).to(current.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        membrane, threshold = ctx.saved_tensors
        # half the rectangle's width is the threshold itself; a threshold of 0 gets a width of 1 instead of none
        half = torch.where(threshold > 0, threshold, torch.ones_like(threshold))
        inside = (membrane - threshold).abs_() < half
        result = gradients[0] * inside
        result *= 0.5 / half
        silent = membrane <= threshold
        for t in range(len(result) - 2, -1, -1):
            # the reset is detached: a spike only cuts the path to the next step
            result[t].addcmul_(result[t + 1], silent[t], value=0.25)
        return result, None


def _integrate(current: Tensor, threshold: Tensor) -> Tensor:
    membrane = current.clone()
    for t in range(1, len(current)):
        previous = membrane[t - 1]
        membrane[t].addcmul_(previous, previous <= threshold, value=0.25)
    return membrane


def lif(current: Tensor, threshold: Tensor) -> Tensor:
    """Fire `s[t] = m[t] > threshold` with `m[t] = u[t] + m[t-1]/4 (1 - s[t-1])`, from rest (papers: LIF as executed).

    current [steps, ..., channels] and threshold (scalar or [channels]) share a unit -> spikes, zeros and ones of
    current's type. Gradient: the rectangle `ds/dm = 1[|m - threshold| < threshold] / (2 threshold)`, the authors' at
    threshold 0.5 and the same for the same neuron in any unit; through the reset no gradient flows.
    """
    return _Fire.apply(current, threshold)


def membranes(current: Tensor, threshold: Tensor) -> Tensor:
    """Return the membranes `m` of `lif` [steps, ..., channels], without gradient."""
    return _integrate(current.detach(), threshold)
