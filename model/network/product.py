# SPDX-License-Identifier: MIT
"""The product of spikes and a matrix, by the fastest way that is allowed to round as little."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model.network import kernels

ROWS = 512
"""Products with rows as their inner dimension get a multiple of these."""


def matrix_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """Return the sum over all rows of gradient [..., out] times x [..., in]: [out, in].

    Every batch has another number of rows, and torch keeps a compiled product per shape: zeros keep the shapes few.
    """
    gradient, x = gradient.flatten(0, -2), x.flatten(0, -2)
    lacking = -len(x) % ROWS
    return functional.pad(gradient, (0, 0, 0, lacking)).t() @ functional.pad(x, (0, 0, 0, lacking))


class _Product(torch.autograd.Function):
    """Operands and gradients in bfloat16, sums in single precision."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor) -> Tensor:
        x = x.bfloat16().contiguous()
        ctx.save_for_backward(x, matrix)
        return kernels.product(x, matrix, True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor]:
        x, matrix = ctx.saved_tensors
        gradient = gradients[0].bfloat16().contiguous()
        to_x = kernels.product(gradient, matrix, False) if ctx.needs_input_grad[0] else None
        return to_x, matrix_gradient(gradient, x).to(matrix.dtype)


@contextlib.contextmanager
def unrounded() -> Iterator[None]:
    """Multiply in single precision in here: what a network decides then depends neither on the batch nor on its CPU."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def spike_linear(x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `x matrix^T + bias`: x [..., in], matrix [out, in], bias [out] -> [..., out].

    Where `torch.set_float32_matmul_precision("medium")` lets products round their operands to bfloat16, which neither
    spikes nor integers of 8 bits feel (real weights do), this is twice as fast as torch's.
    """
    if kernels.fit(x, matrix) and kernels.multiply(x.numel() // x.shape[-1], *matrix.shape):
        result = _Product.apply(x, matrix)
        return result if bias is None else result.add_(bias)
    return functional.linear(x, matrix, bias)
