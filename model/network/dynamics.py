# SPDX-License-Identifier: MIT
"""LRF-Dyn: attention as the dynamics of a neuron with dendrites, a recurrence over tokens of bounded state."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from model.deployed.geometry import Geometry
from model.network.attention import Attention, Rows
from model.network.local import local_sum
from model.network.window import newest_sum

FASTEST, SLOWEST = 1.0, 6.0
"""Shifts between which a dendrite's leak 2**-shift is learned: memories of 2 to 64 tokens."""
COUPLING = 0.35
"""Largest size of one coupling, as a share of the leak of the dendrite it acts on."""


class Coefficients(NamedTuple):
    """One layer's dendrites: `X_n[i] = decay[i] X[i] + upper[i] X[i+1] + lower[i-1] X[i-1] + drive[i] u_n`, every X on
    the right of token n-1, read as `sum_i readout[i] X_n[i]`.

    decay, drive, readout [d, k]; upper, lower [d, k-1].
    """

    decay: Tensor
    upper: Tensor
    lower: Tensor
    drive: Tensor
    readout: Tensor


class Dendrites(nn.Module):
    """k dendrites per channel and SNN step, a tri-diagonal linear recurrence over tokens.

    Stable whatever is learned: every row of |A| sums to at most `1 - (1 - 2 COUPLING) leak`, with leak = 1 - decay of
    at least `2**-SLOWEST`. So |X| never exceeds `max|drive| 2**SLOWEST / (1 - 2 COUPLING)`.

    Begins as PMSN does: one leak per channel, spread evenly over the shifts, and skew couplings that grow along the
    chain. Read-outs begin uniform in 0..2 `init` / k: a lone spike's current is that of one tap of 0..`init`.
    """

    def __init__(self, geometry: Geometry, init: float) -> None:
        super().__init__()
        d, k = geometry.d_model, geometry.dendrites
        share = torch.linspace(0.05, 0.8, d)[torch.randperm(d)][:, None].expand(d, k)
        self.shift = nn.Parameter(torch.logit(share))
        skew = torch.atanh(0.8 * torch.arange(1, k) / k).expand(d, k - 1)
        self.upper, self.lower = nn.Parameter(skew.clone()), nn.Parameter(-skew)
        leak = torch.exp2(-FASTEST - (SLOWEST - FASTEST) * share)
        # keeps the variance of the current alike for fast and slow channels
        self.drive = nn.Parameter(leak.sqrt())
        self.readout = nn.Parameter(torch.rand(d, k) * 2 * init / k)

    def coefficients(self) -> Coefficients:
        """Return what the recurrence multiplies with."""
        leak = torch.exp2(-FASTEST - (SLOWEST - FASTEST) * torch.sigmoid(self.shift))
        upper = COUPLING * leak[:, :-1] * torch.tanh(self.upper)
        lower = COUPLING * leak[:, 1:] * torch.tanh(self.lower)
        return Coefficients(1 - leak, upper, lower, self.drive, self.readout)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the read-outs of whole windows from rest, [steps, batch, length, d] -> like it.

        Equal to `advance` token by token but for rounding.
        """
        return convolve(inputs, self.coefficients())

    def advance(self, inputs: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Take one token's input [steps, batch, d], x [steps, batch, k, d]; return the read-out and the next x."""
        c = self.coefficients()
        x = multiply(c, x) + c.drive.t() * inputs[:, :, None]
        return (c.readout.t() * x).sum(2), x


def kernel(c: Coefficients, length: int) -> Tensor:
    """Return the answer to a lone input, `K[l] = C A**l G`, [length, d]."""
    x, answers = c.drive.t(), []
    for _ in range(length):
        answers.append((c.readout.t() * x).sum(0))
        x = multiply(c, x)
    return torch.stack(answers)


def convolve(inputs: Tensor, c: Coefficients) -> Tensor:
    """Return the read-outs of whole windows from rest by FFT, [steps, batch, length, d] -> like it."""
    length = inputs.shape[2]
    # twice the length: the end must not wrap around onto the beginning
    spectrum = torch.fft.rfft(inputs, 2 * length, dim=2) * torch.fft.rfft(kernel(c, length), 2 * length, dim=0)
    return torch.fft.irfft(spectrum, 2 * length, dim=2)[:, :, :length]


def multiply(c: Coefficients, x: Tensor) -> Tensor:
    """Return A x for x [..., k, d]."""
    above = pad(c.upper.t() * x[..., 1:, :], (0, 0, 0, 1))
    below = pad(c.lower.t() * x[..., :-1, :], (0, 0, 1, 0))
    return c.decay.t() * x + above + below


class Dynamics(Attention):
    """`dendrites(k AND v) + local taps on v`, gated by q if `Geometry.gate`.

    dendrites : inputs [steps, batch, length, d] -> read-outs alike; `advance(input, x) -> read-out, x` for one token.
    local : () -> weights [d, distances] of `Geometry.local_distances`.
    threshold [d] : of the neurons behind.
    State, [steps, batch, k + reach, d]: the k dendrites, then the past value spikes, oldest token first.
    """

    def __init__(self, geometry: Geometry, dendrites: nn.Module, local: nn.Module, threshold: Tensor) -> None:
        super().__init__()
        self.geometry, self.dendrites, self.local = geometry, dendrites, local
        self.register_buffer("threshold", threshold)

    def forward(self, key: Tensor, value: Tensor, query: Tensor | None, rows: Rows) -> Tensor:
        """Run every window from rest."""
        local = self.local_current(rows.spread(value))
        return self._gated(rows.pack(self.dendrites(rows.spread(key * value)) + local), query)

    def local_current(self, value: Tensor) -> Tensor:
        """Return what the local taps add up over whole windows: spikes [steps, batch, length, d] -> like them."""
        return local_sum(value, self.local(), self.geometry.local_distances)

    def begin(self, batch: int) -> Tensor:
        """Return dendrites at rest and no past values."""
        g = self.geometry
        return self.threshold.new_zeros(g.steps, batch, g.dendrites + g.reach, g.d_model)

    def advance(self, key: Tensor, value: Tensor, query: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        """Advance the dendrites by a token."""
        g = self.geometry
        x, past = state.split([g.dendrites, g.reach], dim=2)
        recent = torch.cat([past, value[:, :, None]], dim=2)
        read, x = self.dendrites.advance(key * value, x)
        current = read + newest_sum(recent, self.local(), g.local_distances)
        return self._gated(current, query), torch.cat([x, recent[:, :, 1:]], dim=2)

    @staticmethod
    def _gated(current: Tensor, query: Tensor | None) -> Tensor:
        return current if query is None else query * current
