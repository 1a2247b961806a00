# SPDX-License-Identifier: MIT
"""The window sum of PSSA: what the last tokens' `k AND v` spikes add up to."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from model.network import kernels


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


def newest_sum(kv: Tensor, taps: Tensor, distances: Sequence[int]) -> Tensor:
    """Sum `sum_i taps[:, i] kv[last - distances[i]]` without gradient, in the order of `relative_sum`.

    kv [steps, batch, length, d], taps [d, distances], length above every distance -> [steps, batch, d].
    """
    acc = torch.zeros_like(kv[:, :, -1])
    for i, d in enumerate(distances):
        acc.addcmul_(kv[:, :, -1 - d], taps[:, i])
    return acc


class _GatedSum(torch.autograd.Function):
    """Compiled, from packed rows to packed rows; nothing but the spikes is kept."""

    @staticmethod
    def forward(ctx: Any, key: Tensor, value: Tensor, query: Tensor, taps: Tensor, age: Tensor) -> Tensor:
        by_distance = taps.t().contiguous()
        ctx.save_for_backward(key, value, query, by_distance, age)
        result = torch.empty(key.shape)
        kernels.run(
            "window_forward",
            *(key, value, query, key.stride(0), key.stride(1), by_distance, age, result, *key.shape, taps.shape[1]),
        )
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        key, value, query, by_distance, age = ctx.saved_tensors
        steps, rows, d = key.shape
        gradient, to_taps = gradients[0].contiguous(), torch.empty_like(by_distance)
        to = torch.empty(steps, rows, 3 * d).chunk(3, dim=-1)
        kernels.run(
            "window_backward",
            *(key, value, query, key.stride(0), key.stride(1), by_distance, age, gradient),
            *(*to, to[0].stride(0), to[0].stride(1), to_taps, *key.shape, len(by_distance)),
        )
        return *to, to_taps.t(), None


def gated_sum_fits(key: Tensor, value: Tensor, query: Tensor, taps: Tensor) -> bool:
    """Return whether `gated_sum` takes these tensors: compiled functions, float32, CPU, channels side by side."""
    return (
        kernels.fit(taps)
        and key.stride() == value.stride() == query.stride()
        and key.stride(2) == 1
        and all(t.dtype == torch.float32 and t.device.type == "cpu" for t in (key, value, query))
    )


def gated_sum(key: Tensor, value: Tensor, query: Tensor, taps: Tensor, age: Tensor) -> Tensor:
    """Return `query[n] * sum_d taps[:, d] key[n-d] value[n-d]`, all of PSSA, over the rows of each window.

    key, value, query [steps, rows, d], taps [d, window], age [rows] int32: how many rows before this one, directly,
    are of its window -> [steps, rows, d].
    """
    return _GatedSum.apply(key, value, query, taps, age)


def absolute_sum(kv: Tensor, weights: Tensor) -> Tensor:
    """Sum `acc[i] = sum_j weights[group, i, j] kv[j]`, the authors' form, whose taps belong to positions of the window.

    kv [steps, batch, length, d], weights [groups, positions, positions] for equal shares of the channels; the last
    token sits at the last position.
    """
    length = kv.shape[2]
    if length > weights.shape[1]:
        raise ValueError(f"{length} tokens are more than the {weights.shape[1]} positions the network was trained with")
    shares = kv.unflatten(3, (len(weights), -1))
    return torch.einsum("gij,tbjgc->tbigc", weights[:, -length:, -length:], shares).flatten(3)
