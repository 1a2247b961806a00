# SPDX-License-Identifier: MIT
"""The window sum of PSSA: what the last tokens' `k AND v` spikes add up to."""

from typing import Any

import torch
from torch import Tensor


class _RelativeSum(torch.autograd.Function):
    """Shifted adds; autograd through the slices would copy the whole tensor once per tap."""

    @staticmethod
    def forward(ctx: Any, kv: Tensor, taps: Tensor) -> Tensor:
        ctx.save_for_backward(kv, taps)
        acc = kv * taps[:, 0]
        for d, tap in _later(taps, kv.shape[2]):
            acc[:, :, d:].addcmul_(kv[:, :, :-d], tap)
        return acc

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        kv, taps = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        to_kv, to_taps = gradient * taps[:, 0], torch.zeros_like(taps)
        to_taps[:, 0] = (gradient * kv).flatten(0, 2).sum(0)
        for d, tap in _later(taps, kv.shape[2]):
            to_kv[:, :, :-d].addcmul_(gradient[:, :, d:], tap)
            to_taps[:, d] = (gradient[:, :, d:] * kv[:, :, :-d]).flatten(0, 2).sum(0)
        return to_kv, to_taps


def _later(taps: Tensor, length: int) -> list[tuple[int, Tensor]]:
    # a tap spread over the tokens lets the inner loop run over tokens and channels together
    return [(d, taps[:, d].expand(length - d, -1).contiguous()) for d in range(1, min(taps.shape[1], length))]


def relative_sum(kv: Tensor, taps: Tensor) -> Tensor:
    """Sum `acc[n] = sum_d taps[:, d] kv[n-d]`: kv [steps, batch, length, d], taps [d, window] -> like kv."""
    return _RelativeSum.apply(kv, taps)


def absolute_sum(kv: Tensor, weights: Tensor) -> Tensor:
    """Sum `acc[i] = sum_j weights[i, j] kv[j]`, the authors' form: one matrix [tokens, tokens] for all channels.

    kv [steps, batch, length, d]; the last token sits at the matrix's last row.
    """
    length = kv.shape[2]
    if length > len(weights):
        raise ValueError(f"{length} tokens are more than the {len(weights)} positions the network was trained with")
    return torch.matmul(weights[-length:, -length:], kv)
