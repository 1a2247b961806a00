# SPDX-License-Identifier: MIT
"""Phase codes as they are deployed: a table of bits and, at a layer's entry, an integer current per channel."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from model.deployed.geometry import Geometry
from model.integer.quantize import to_grid
from model.network.phase import LearnedPhase, Phase


class PhaseTable(Phase):
    """Fixed bits [times, heads]; amplitude [d] in real units, which still trains, on a grid of `unit` per real unit.

    omega and phi are folded into the bits and learn no more: between two edges of its wave a bit has no gradient that
    an integer network could follow, and it should not change under the weights that adapt to it.
    """

    def __init__(self, geometry: Geometry, bits: Tensor, amplitude: Tensor | None, unit: float) -> None:
        super().__init__(geometry)
        self.unit, self.amplitude = unit, None if amplitude is None else nn.Parameter(amplitude.detach().clone())
        self.bits: Tensor
        self.register_buffer("bits", bits.detach().clone())

    def table(self) -> Tensor:
        """Return the bits."""
        return self.bits

    def current(self) -> Tensor:
        """Return the integers."""
        assert self.amplitude is not None
        return to_grid(self.amplitude * self.unit, self.geometry.membrane_bits)

    def integers(self) -> dict[str, Tensor]:
        """Return what the artifact stores."""
        tensors = {"phase.bits": self.bits}
        return tensors if self.amplitude is None else tensors | {"phase.current": self.current()}


def quantise(phase: LearnedPhase | None, geometry: Geometry, one: float) -> PhaseTable | None:
    """Return learned codes as bits; `one` : integers per unit of the residual membranes."""
    return None if phase is None else PhaseTable(geometry, phase.bits(), phase.amplitude, one)


def load(tensors: Mapping[str, Tensor], geometry: Geometry) -> PhaseTable | None:
    """Return the codes that a layer's tensors hold, None where there are none."""
    if geometry.phase == "none":
        return None
    current = tensors.get("phase.current")
    return PhaseTable(geometry, tensors["phase.bits"].to(torch.get_default_dtype()), current, 1.0)
