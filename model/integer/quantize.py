# SPDX-License-Identifier: MIT
"""Layers that compute in the integers of the number format and still train: rounding is straight-through.

Each holds its weights in real units beside a fixed `unit` (integers per real unit), so that an optimiser sees the same
gradients as in the float network; `integers()` returns what the artifact stores. Every forward value is an integer
(a neuron's membrane a multiple of a power of four below it), which the floating-point type holds exactly.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.network.neuron import lif, straight_through
from model.network.product import spike_linear


def limits(bits: int, symmetric: bool = False) -> tuple[int, int]:
    """Return the lowest and highest signed integer of that many bits; symmetric: the lowest is left out."""
    highest = (1 << (bits - 1)) - 1
    return -highest - (not symmetric), highest


def to_grid(x: Tensor, bits: int, symmetric: bool = False) -> Tensor:
    """Round and clip to signed `bits`; no gradient flows into what is clipped."""
    return torch.clamp(straight_through(torch.round(x), x), *limits(bits, symmetric))


def floor_shift(x: Tensor, shift: Tensor) -> Tensor:
    """Return `floor(x / 2**shift)` with the gradient of the division."""
    scaled = x * torch.exp2(-shift)
    return straight_through(torch.floor(scaled), scaled)


def best_unit(weight: Tensor, candidates: Tensor, bits: int, symmetric: bool = False) -> Tensor:
    """Return per row of weight [rows, n] the candidate unit whose grid of signed `bits` has the least squared error.

    candidates [k] or [rows, k] in integers per real unit; ties go to the first. -> index [rows]
    """
    errors = []
    for unit in candidates.expand(len(weight), -1).T:
        unit = unit[:, None].to(weight.dtype)
        errors.append(((torch.clamp(torch.round(weight * unit), *limits(bits, symmetric)) / unit - weight) ** 2).sum(1))
    return torch.stack(errors, 1).argmin(1)


class Quantised(nn.Module):
    """Weight [out, in] and bias [out] in real units, on grids of `unit` and `bias_unit` [out] integers each.

    unit [out] or [out, in]. Real units are those of the float network: an optimiser that moves every weight by the same
    amount, as Adam does, would throw weights a thousand times smaller against the ends of their grid.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        unit: Tensor,
        bias_unit: Tensor,
        weight_bits: int,
        bias_bits: int,
        symmetric: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.weight_bits, self.bias_bits, self.symmetric = weight_bits, bias_bits, symmetric
        self.unit: Tensor
        self.bias_unit: Tensor
        self.register_buffer("unit", unit.to(weight.dtype).view(len(weight), -1))
        self.register_buffer("bias_unit", bias_unit.to(weight.dtype))

    def integers(self) -> tuple[Tensor, Tensor | None]:
        """Return the integer weight [out, in] and bias [out], differentiable."""
        weight = to_grid(self.weight * self.unit, self.weight_bits, self.symmetric)
        bias = None if self.bias is None else to_grid(self.bias * self.bias_unit, self.bias_bits)
        return weight, bias


class QuantEmbedding(Quantised):
    """`floor(W token / 2**shift) + bias`, saturated: quantised tokens [rows, in] -> membranes [rows, out]."""

    def __init__(self, *tensors: Any, shift: Tensor, membrane_bits: int) -> None:
        super().__init__(*tensors)
        self.membrane_bits = membrane_bits
        self.shift: Tensor
        self.register_buffer("shift", shift.to(self.weight.dtype))

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed."""
        weight, bias = self.integers()
        return torch.clamp(
            floor_shift(functional.linear(tokens, weight), self.shift) + bias, *limits(self.membrane_bits)
        )


class QuantSpiking(Quantised):
    """Linear and neuron, an integer threshold per channel: spikes [steps, rows, in] -> spikes [steps, rows, out]."""

    def __init__(self, *tensors: Any, threshold: Tensor) -> None:
        super().__init__(*tensors)
        self.threshold: Tensor
        self.register_buffer("threshold", threshold.to(self.weight.dtype))

    def forward(self, spikes: Tensor) -> Tensor:
        """Fire."""
        return lif(spike_linear(spikes, *self.integers()), self.threshold)


class QuantTaps(Quantised):
    """Window taps [channels, window] and the threshold of the neurons behind them."""

    def __init__(self, *tensors: Any, threshold: Tensor) -> None:
        super().__init__(*tensors)
        self.threshold: Tensor
        self.register_buffer("threshold", threshold.to(self.weight.dtype))

    def forward(self) -> Tensor:
        """Return the integer taps [channels, window]."""
        return self.integers()[0]


class QuantResidual(Quantised):
    """`saturate(x + (W s << shift) + bias)`: spikes [steps, rows, in], membranes x [steps, rows, out] -> membranes."""

    def __init__(self, *tensors: Any, shift: Tensor, membrane_bits: int) -> None:
        super().__init__(*tensors)
        self.membrane_bits = membrane_bits
        self.shift: Tensor
        self.register_buffer("shift", shift.to(self.weight.dtype))

    def forward(self, spikes: Tensor, x: Tensor) -> Tensor:
        """Add to the shortcut."""
        weight, bias = self.integers()
        # scaling the weights rather than the sums: the same integers for a hundredth of the work
        added = spike_linear(spikes, weight * torch.exp2(self.shift)[:, None], bias)
        return torch.clamp(x + added, *limits(self.membrane_bits))


class QuantHead(Quantised):
    """`table[clip(floor((W sum_t x[t] + bias) / 2**shift) + entries/2)]`: membranes [steps, rows, in] -> [rows, out].

    In double precision: its sums outgrow the 24 bits of a float. Its `unit` is table indices times 2**shift per real
    unit of the tanh's argument; an index is worth `span / entries` of that argument. The gradient is tanh's.
    """

    def __init__(self, *tensors: Any, shift: Tensor, table: Tensor, span: float) -> None:
        super().__init__(*tensors)
        self.span = span
        self.shift: Tensor
        self.table: Tensor
        self.register_buffer("shift", shift.double())
        self.register_buffer("table", table.double())

    def forward(self, x: Tensor) -> Tensor:
        """Look the actions up, in -1..1, in x's type."""
        weight, bias = self.integers()
        scaled = functional.linear(x.sum(0).double(), weight, bias) * torch.exp2(-self.shift)
        entries = len(self.table)
        index = torch.clamp(torch.floor(scaled.detach()) + entries // 2, 0, entries - 1).long()
        smooth = torch.tanh((scaled + 0.5) * (self.span / entries))
        return straight_through(self.table[index] / 2.0**15, smooth).to(x.dtype)


def tanh_table(entries: int, span: float) -> Tensor:
    """Return the action table: tanh at the middle of each of `entries` steps over -span/2..span/2, as 16-bit words."""
    middle = (torch.arange(entries, dtype=torch.float64) - entries / 2 + 0.5) * (span / entries)
    return torch.round(32767 * torch.tanh(middle))
