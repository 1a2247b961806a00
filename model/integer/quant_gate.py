# SPDX-License-Identifier: MIT
"""The step gate in integers: one sum and T - 1 thresholds, which still trains (docs/modules.md)."""

from typing import Any

import torch
from torch import Tensor, nn

from model.deployed.geometry import Geometry
from model.integer.quantize import best_unit, limits, to_grid
from model.network.gate import GAIN, Gate, StepGate


class QuantGate(Gate):
    """`T_i = 1 + #{k : sum_c w[c] x[0,c] > threshold[k]}`, in double precision: its sum may outgrow a float's 24 bits.

    weight [group] and bias [] in real units, cuts [steps - 1] what `w x + bias` must exceed there.
    unit : integers per unit of the weight; one : integers per unit of the membranes.
    """

    def __init__(
        self, geometry: Geometry, weight: Tensor, bias: Tensor, cuts: Tensor, unit: Tensor, one: float
    ) -> None:
        super().__init__(geometry.steps)
        self.weight_bits, self.gate_bits = geometry.weight_bits, geometry.gate_bits
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())
        self.cuts: Tensor
        self.unit: Tensor
        self.one: Tensor
        for name, value in (("cuts", cuts), ("unit", unit), ("one", torch.tensor(one))):
            self.register_buffer(name, value.double())

    def integers(self) -> tuple[Tensor, Tensor]:
        """Return the integer weight [group], differentiable, and the thresholds [steps - 1].

        A sum of integers exceeds a real number where it exceeds the floor of it, so nothing is lost.
        """
        weight = to_grid(self.weight.double() * self.unit, self.weight_bits)
        threshold = torch.floor((self.cuts - self.bias.detach().double()) * self.unit * self.one)
        return weight, torch.clamp(threshold, *limits(self.gate_bits))

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Choose."""
        weight, threshold = self.integers()
        total = x[0, :, : len(weight)].double() @ weight
        live = 1 + (total.detach()[:, None] > threshold).sum(1)
        smooth = self.steps * torch.sigmoid(GAIN * (total / (self.unit * self.one) + self.bias))
        return live.to(x.dtype), smooth.to(x.dtype)


def quantise_gate(gate: StepGate, geometry: Geometry, one: float) -> QuantGate:
    """Return the integer form of a gate. one : integers per unit of the residual stream."""
    units = torch.exp2(torch.arange(-8.0, 17.0))
    unit = units[best_unit(gate.weight.detach()[None], units, geometry.weight_bits)][0]
    return QuantGate(geometry, gate.weight, gate.bias, gate.cuts(), unit, one)


def load_gate(own: dict[str, Any], geometry: Geometry) -> QuantGate:
    """Return a policy's gate from its tensors, "gate.weight" and "gate.threshold"."""
    weight, threshold = own["gate.weight"], own["gate.threshold"]
    return QuantGate(geometry, weight, torch.zeros(()), threshold, torch.ones(()), 1.0).double()
