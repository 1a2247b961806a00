# SPDX-License-Identifier: MIT
"""Spike phase codes (SNN-DT): a bit per head and time, `s_h(t) = [sin(omega_h t + phi_h) > 0]`, omega and phi learned.

t counts the SNN steps of a token, the same bits for every token (the paper), or environment steps modulo the period,
the same bits in every SNN step of a token. The bit acts on every channel of its head.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from model.deployed.geometry import Geometry

SHARPNESS = 4.0
"""Of the soft code, `sigmoid(SHARPNESS sin)`: 0.02 to 0.98, and a slope at each of its bits' edges."""
AMPLITUDE = 0.1
"""Deviation of the currents that codes add at first; the entry threshold is 0.5."""


class Phase(nn.Module, ABC):
    """A layer's codes where `Geometry.phase` puts them: an AND on the query, or a current at the layer's entry."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry

    @abstractmethod
    def table(self) -> Tensor:
        """Return the codes [times, heads], 0..1."""

    @abstractmethod
    def current(self) -> Tensor:
        """Return what a bit adds to each channel's current [d], in the unit of the residual membranes."""

    def gate(self, time: Tensor | None) -> Tensor:
        """Return each channel's bit, broadcast to [steps, rows, d]; time [rows]: environment steps, of codes over them.

        Raises `ValueError` where a code over tokens is not told the time.
        """
        g = self.geometry
        bits = self.table().repeat_interleave(g.d_model // g.heads, dim=1)
        if g.phase_over == "steps":
            return bits[:, None]
        if time is None:
            raise ValueError("a phase over tokens needs the environment step of every token")
        return bits[time % g.period][None]

    def on_query(self, query: Tensor, time: Tensor | None) -> Tensor:
        """Return query spikes [steps, rows, d] as attention is to see them."""
        return query * self.gate(time) if self.geometry.phase == "query" else query

    def on_entry(self, x: Tensor, time: Tensor | None) -> Tensor:
        """Return the currents [steps, rows, d] of a layer's entry neurons, given the residual membranes."""
        return x + self.current() * self.gate(time) if self.geometry.phase == "input" else x


class LearnedPhase(Phase):
    """Codes in training; in evaluation their bits.

    soft : whether training sees the soft code, as in the paper; else it sees the bits, with the soft code's gradient.
    omega, phi [heads] : radians per time and radians, from U(0, 2 pi).
    amplitude [d] : what a bit adds to its channels' currents, where codes act on the entry. A number per channel: one
    per head would push all of its channels the same way.
    """

    def __init__(self, geometry: Geometry, soft: bool = True) -> None:
        super().__init__(geometry)
        self.soft = soft
        self.omega = nn.Parameter(2 * math.pi * torch.rand(geometry.heads))
        self.phi = nn.Parameter(2 * math.pi * torch.rand(geometry.heads))
        self.amplitude = None
        if geometry.phase == "input":
            self.amplitude = nn.Parameter(AMPLITUDE * torch.randn(geometry.d_model))

    def wave(self) -> Tensor:
        """Return `sin(omega t + phi)` [times, heads]."""
        t = torch.arange(self.geometry.phase_times, device=self.omega.device)
        return torch.sin(t[:, None] * self.omega + self.phi)

    def bits(self) -> Tensor:
        """Return the bits [times, heads], zeros and ones, without gradient."""
        return (self.wave().detach() > 0).to(self.omega.dtype)

    def table(self) -> Tensor:
        """Return the codes."""
        if not self.training:
            return self.bits()
        soft = torch.sigmoid(SHARPNESS * self.wave())
        # the difference is exactly zero, and carries the gradient
        return soft if self.soft else self.bits() + (soft - soft.detach())

    def current(self) -> Tensor:
        """Return the amplitudes."""
        assert self.amplitude is not None
        return self.amplitude
