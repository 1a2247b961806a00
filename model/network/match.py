# SPDX-License-Identifier: MIT
"""Attention by matching queries with keys: SSSA and TSSA of DSFormer, and LRF-SSA, which adds local taps."""

import torch
from torch import Tensor, nn

from model.deployed.geometry import Geometry
from model.network.attention import Attention, Rows
from model.network.local import local_sum
from model.network.window import newest_sum


class Match(Attention):
    """`scale * sum_j (q[n] . k[j]) v[j]` over the tokens j of the window, plus local taps on v where there are some.

    Each of `Geometry.heads` equal shares of the channels counts its own matches and weighs its own values with them.
    joint : q . k counts the matches of all SNN steps together (TSSA) instead of each step's own (SSSA, LRF-SSA).
    threshold [d] : of the neurons behind; in counts where `scale` is 1 (the integer form), else in currents.
    local : () -> weights [d, distances] of `Geometry.local_distances`, or None.
    State: past key and value spikes, oldest token first, [steps, batch, reach, 2, d].
    """

    def __init__(
        self, geometry: Geometry, threshold: Tensor, scale: float, joint: bool, local: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.geometry, self.scale, self.joint, self.local = geometry, scale, joint, local
        self.register_buffer("threshold", threshold)

    def forward(self, key: Tensor, value: Tensor, query: Tensor, rows: Rows) -> Tensor:
        """Match every token with those of its window, as a banded matrix; padding has no spikes and never matches."""
        v = rows.spread(value)
        q, k, own = (self._by_head(x) for x in (rows.spread(query), rows.spread(key), v))
        counts = torch.matmul(q, k.transpose(-1, -2))
        if self.joint:
            counts = counts.sum(0, keepdim=True)
        band = counts.new_ones(rows.length, rows.length).tril().triu(1 - self.geometry.window)
        current = torch.matmul(counts * band, own).transpose(2, 3).flatten(3) * self.scale
        if self.local is not None:
            current = current + local_sum(v, self.local(), self.geometry.local_distances)
        return rows.pack(current)

    def begin(self, batch: int) -> Tensor:
        """Return an empty window."""
        g = self.geometry
        return self.threshold.new_zeros(g.steps, batch, g.reach, 2, g.d_model)

    def advance(self, key: Tensor, value: Tensor, query: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Match the token with itself and the window before it."""
        g = self.geometry
        recent = torch.cat([state, torch.stack([key, value], 2)[:, :, None]], dim=2)
        k, v = (self._by_head(x) for x in recent[:, :, -g.window :].unbind(3))
        counts = torch.matmul(k, self._by_head(query[:, :, None]).transpose(-1, -2))
        if self.joint:
            counts = counts.sum(0, keepdim=True)
        current = (counts * v).sum(3).flatten(2) * self.scale
        if self.local is not None:
            current = current + newest_sum(recent[:, :, :, 1], self.local(), g.local_distances)
        return current, recent[:, :, 1:]

    def _by_head(self, spikes: Tensor) -> Tensor:
        """Cut the channels into heads: [steps, batch, tokens, d] -> [steps, batch, heads, tokens, d / heads]."""
        return spikes.unflatten(3, (self.geometry.heads, -1)).transpose(2, 3)
