# SPDX-License-Identifier: MIT
"""LRF-Dyn in the integers of the number format, shifts and adds, and still training (docs/numbers.md)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.deployed.geometry import Geometry
from model.integer.quantize import Quantised, limits, to_grid
from model.network.dynamics import Coefficients, convolve
from model.network.neuron import straight_through

LARGEST_SHARE = 0.25
"""Largest size of one coupling, as a share of the leak of the dendrite it acts on: two still leave half a leak."""


def signed_power(value: Tensor, least: int, most: int) -> Tensor:
    """Round to the signed power of two nearest in its exponent, `2**-least` to `2**-most` in size, or to zero.

    No gradient flows into what is clipped to the largest.
    """
    inside = torch.clamp(value, -(2.0**-least), 2.0**-least)
    size = inside.detach().abs()
    exponent = torch.clamp(torch.round(-torch.log2(size)), least, most)
    rounded = torch.sign(inside) * torch.exp2(-exponent) * (size >= 2.0 ** -(most + 0.5))
    return straight_through(rounded, inside)


def to_code(power: Tensor, least: int = 0) -> Tensor:
    """Return a signed power of two as the artifact's code: 0 for 0, else sign * (1 + right shift beyond `least`)."""
    shift = torch.where(power == 0, 0.0, -torch.log2(power.abs()) - least + 1)
    return torch.sign(power) * shift


def from_code(code: Tensor, least: int = 0) -> Tensor:
    """Undo `to_code`."""
    return torch.sign(code) * torch.exp2(1 - least - code.abs())


class Shift:
    """Right shifts by signed powers of two: x -> `sign(power) * floor(x * |power|)`."""

    def __init__(self, power: Tensor) -> None:
        self.size, self.sign = power.abs(), torch.sign(power)

    def __call__(self, x: Tensor) -> Tensor:
        """Shift."""
        return torch.floor_(x * self.size).mul_(self.sign)


class QuantDendrites(nn.Module):
    """Integer dendrites of `geometry.dendrite_bits`, their coefficients rounded to signed powers of two.

    shift [d, k] : the leak is 2**-shift. upper, lower [d, k-1] : couplings, as shares of the leak of the dendrite they
    act on, `largest_share` at most. drive, readout [d, k] : in real units, which are those of the float network.
    unit, current_unit [d] : integers per real unit of a channel's dendrites and of its current.
    """

    def __init__(
        self,
        geometry: Geometry,
        shift: Tensor,
        upper: Tensor,
        lower: Tensor,
        drive: Tensor,
        readout: Tensor,
        unit: Tensor,
        current_unit: Tensor,
        largest_share: float,
    ) -> None:
        super().__init__()
        self.geometry, self.largest_share = geometry, largest_share
        self.shift, self.upper, self.lower = nn.Parameter(shift), nn.Parameter(upper), nn.Parameter(lower)
        self.drive, self.readout = nn.Parameter(drive), nn.Parameter(readout)
        self.unit: Tensor
        self.current_unit: Tensor
        self.register_buffer("unit", unit[:, None])
        self.register_buffer("current_unit", current_unit[:, None])

    def coefficients(self) -> Coefficients:
        """Return what the recurrence multiplies with, in integer units, differentiable."""
        g, most = self.geometry, (1 << self.geometry.dendrite_shift_bits) - 1
        leak = torch.exp2(-torch.clamp(straight_through(torch.round(self.shift), self.shift), 0, most))

        def coupling(share: Tensor, leak: Tensor) -> Tensor:
            share = torch.clamp(share, -self.largest_share, self.largest_share)
            return signed_power(share * leak, 0, most - 1)

        return Coefficients(
            1 - leak,
            coupling(self.upper, leak[:, :-1]),
            coupling(self.lower, leak[:, 1:]),
            to_grid(self.drive * self.unit, g.gain_bits),
            signed_power(self.readout * (self.current_unit / self.unit), g.least_readout_shift, most),
        )

    def integers(self) -> dict[str, Tensor]:
        """Return what the artifact stores."""
        c = self.coefficients()
        return {
            "decay": -torch.log2(1 - c.decay),
            "upper": to_code(c.upper),
            "lower": to_code(c.lower),
            "gain": c.drive,
            "readout": to_code(c.readout, self.geometry.least_readout_shift),
        }

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the read-outs of whole windows from rest, [steps, batch, length, d] -> like it.

        The integers of `advance` token by token, with the gradient of the same recurrence without floors and limits.
        """
        c = self.coefficients()
        with torch.no_grad():
            advance, reads = self._advance(c), []
            x = inputs.new_zeros(*inputs.shape[:2], self.geometry.dendrites, inputs.shape[3])
            for token in inputs.unbind(2):
                read, x = advance(token, x)
                reads.append(read)
            result = torch.stack(reads, 2)
        return straight_through(result, convolve(inputs, c)) if torch.is_grad_enabled() else result

    def advance(self, inputs: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Take one token's input [steps, batch, d], x [steps, batch, k, d]; return the read-out and the next x."""
        return self._advance(self.coefficients())(inputs, x)

    def _advance(self, c: Coefficients) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        leak, upper, lower, readout = (
            Shift(power.detach().t().contiguous()) for power in (1 - c.decay, c.upper, c.lower, c.readout)
        )
        drive, (low, high) = c.drive.detach().t().contiguous(), limits(self.geometry.dendrite_bits)

        def advance(inputs: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            after = drive * inputs[:, :, None]
            after += x
            after -= leak(x)
            after[:, :, :-1] += upper(x[:, :, 1:])
            after[:, :, 1:] += lower(x[:, :, :-1])
            after.clamp_(low, high)
            return readout(after).sum(2), after

        return advance


class QuantLocal(Quantised):
    """Local taps [channels, distances], signed `weight_bits` and `2**shift` of the current's unit each."""

    def __init__(self, *tensors: object, shift: int) -> None:
        super().__init__(*tensors)
        self.shift = shift

    def forward(self) -> Tensor:
        """Return the taps in the current's unit [channels, distances]."""
        return self.integers()[0] * 2.0**self.shift
