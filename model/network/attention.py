# SPDX-License-Identifier: MIT
"""Attention over tokens behind one interface, and PSSA, the window of `k AND v` spikes.

Every attention turns the key, value and query spikes of a layer into the current of the neurons behind them, in two
ways that agree: over whole windows at once to train, and token by token with a bounded state to act.
"""

import functools
from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor, nn

from model.deployed.geometry import Geometry
from model.network.window import absolute_sum, gated_sum, gated_sum_fits, newest_sum, relative_sum


class Rows:
    """Where the real tokens of a batch of windows sit among its packed rows.

    real [batch, length] bool is False on padding; None: there is none.
    """

    def __init__(self, real: Tensor | None, batch: int, length: int) -> None:
        self.batch, self.length = batch, length
        self.index = None if real is None or bool(real.all()) else real.flatten().nonzero()[:, 0]

    @functools.cached_property
    def age(self) -> Tensor | None:
        """How many rows of its window stand before each row, int32 [rows]; None where a window has gaps."""
        if self.index is None:
            return torch.arange(self.length, dtype=torch.int32).repeat(self.batch)
        window, position = self.index // self.length, self.index % self.length
        counts = torch.bincount(window, minlength=self.batch)
        first = (counts.cumsum(0) - counts)[window]
        age = torch.arange(len(first), device=first.device) - first
        return age.int() if torch.equal(position - position[first], age) else None

    @functools.cached_property
    def trimmed(self) -> "Rows":
        """The same rows in shorter windows, without the columns in front that are padding in all of them."""
        if self.index is None or not len(self.index):
            return self
        window, position = self.index // self.length, self.index % self.length
        first = int(position.min())
        rows = Rows(None, self.batch, self.length - first)
        rows.index = window * rows.length + position - first
        return rows

    def times(self, start: Tensor) -> Tensor:
        """Return the environment step of every row [rows], given that of each window's first real token [batch]."""
        if self.index is None:
            return (start[:, None] + torch.arange(self.length, device=start.device)).flatten()
        window, position = self.index // self.length, self.index % self.length
        first = torch.full_like(start, self.length).scatter_reduce(0, window, position, "amin")
        return (start - first)[window] + position

    def pack(self, x: Tensor) -> Tensor:
        """Take the real tokens: x [n, batch, length, c] -> [n, rows, c]."""
        flat = x.flatten(1, 2)
        return flat if self.index is None else flat.index_select(1, self.index)

    def spread(self, x: Tensor) -> Tensor:
        """Put packed rows back: x [n, rows, c] -> [n, batch, length, c], zeros on padding."""
        if self.index is not None:
            zeros = x.new_zeros(x.shape[0], self.batch * self.length, x.shape[2])
            x = zeros.index_copy(1, self.index, x)
        return x.unflatten(1, (self.batch, self.length))


class State(Protocol):
    """What an attention keeps of the past tokens of some episodes: a tensor [steps, batch, ...], or several."""

    def index_select(self, dim: int, index: Tensor, /) -> "State":
        """Return the state of these episodes only, an index [batch]; `dim` is 1, as of a tensor."""


class Attention(nn.Module, ABC):
    """What an attention offers; `threshold` [d] is that of the neurons behind it.

    `query` is None where the geometry's attention has none (`Geometry.projections`).
    """

    geometry: Geometry
    threshold: Tensor

    @abstractmethod
    def forward(self, key: Tensor, value: Tensor, query: Tensor | None, rows: Rows) -> Tensor:
        """Return the current of whole windows: spikes [steps, rows, d] -> [steps, rows, d]."""

    @abstractmethod
    def begin(self, batch: int) -> State:
        """Return the state at the start of `batch` episodes."""

    @abstractmethod
    def advance(self, key: Tensor, value: Tensor, query: Tensor | None, state: State) -> tuple[Tensor, State]:
        """Take one token's spikes [steps, batch, d]; return its current [steps, batch, d] and the next state.

        The state that was given is not to be used again.
        """


class PSSA(Attention):
    """Positional spiking self-attention: `q AND sum_d taps[d] (k AND v)[n-d]` (DSFormer, with P by distance).

    taps : () -> weights [d, window], or [groups, positions, positions] if they are absolute; holds the `threshold`.
    State: the past `k AND v` spikes of the window, oldest first, [steps, batch, window - 1, d].
    """

    def __init__(self, geometry: Geometry, taps: nn.Module, absolute: bool = False) -> None:
        super().__init__()
        self.geometry, self.taps, self.absolute = geometry, taps, absolute

    @property
    def threshold(self) -> Tensor:  # type: ignore[override]
        """Of the neurons behind."""
        return self.taps.threshold

    def forward(self, key: Tensor, value: Tensor, query: Tensor, rows: Rows) -> Tensor:
        """Weigh the window of every token."""
        taps = self.taps()
        if not self.absolute and gated_sum_fits(key, value, query, taps) and rows.age is not None:
            return gated_sum(key, value, query, taps, rows.age)
        total = absolute_sum if self.absolute else relative_sum
        return query * rows.pack(total(rows.spread(key * value), taps))

    def begin(self, batch: int) -> Tensor:
        """Return an empty window. Raises `ValueError` where positions are absolute."""
        if self.absolute:
            raise ValueError("a network with absolute positions cannot stream; train with position='relative'")
        g = self.geometry
        return self.threshold.new_zeros(g.steps, batch, g.window - 1, g.d_model)

    def advance(self, key: Tensor, value: Tensor, query: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Weigh the token and the window before it."""
        recent = torch.cat([state, (key * value)[:, :, None]], dim=2)
        return query * newest_sum(recent, self.taps(), range(self.geometry.window)), recent[:, :, 1:]
