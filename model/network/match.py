# SPDX-License-Identifier: MIT
"""Attention by matching queries with keys: SSSA and TSSA of DSFormer, and LRF-SSA, which adds local taps."""

import torch
from torch import Tensor, nn

from model.deployed.geometry import Geometry
from model.network.attention import Attention, Rows, State
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
        """Match every token with those it looks at, as a masked matrix; padding has no spikes and never matches."""
        rows = rows.trimmed
        k, v, q = (rows.spread(x) for x in (key, value, query))
        current = self._sum(self.counts(q, k) * self.looked(k, q, rows), v)
        if self.local is not None:
            current = current + self.local_current(v)
        return rows.pack(current)

    def local_current(self, value: Tensor) -> Tensor:
        """Return what the local taps add up over whole windows: spikes [steps, batch, length, d] -> like them."""
        return local_sum(value, self.local(), self.geometry.local_distances)  # type: ignore[misc]

    def looked(self, key: Tensor, query: Tensor, rows: Rows) -> Tensor:
        """Return which tokens each token looks at, 1 or 0, [length, length] or [batch, 1, length, length]: the window.

        key, query [steps, batch, length, d], zero on padding.
        """
        return key.new_ones(rows.length, rows.length).tril().triu(1 - self.geometry.window)

    def begin(self, batch: int) -> State:
        """Return an empty window."""
        g = self.geometry
        return self.threshold.new_zeros(g.steps, batch, g.reach, 2, g.d_model)

    def advance(self, key: Tensor, value: Tensor, query: Tensor, state: State) -> tuple[Tensor, State]:
        """Match the token with itself and those before it that it looks at."""
        k, v, after = self.look(key, value, query, state)
        current = self._sum(self.counts(query[:, :, None], k), v)[:, :, 0]
        if self.local is not None:
            values = torch.cat([state[:, :, :, 1], value[:, :, None]], 2)  # type: ignore[index]
            current = current + newest_sum(values, self.local(), self.geometry.local_distances)
        return current, after

    def look(self, key: Tensor, value: Tensor, query: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Take one token's spikes; return keys and values that it looks at [steps, batch, tokens, d], and the state."""
        recent = torch.cat([state, torch.stack([key, value], 2)[:, :, None]], dim=2)  # type: ignore[list-item]
        k, v = recent[:, :, -self.geometry.window :].unbind(3)
        return k, v, recent[:, :, 1:]

    def counts(self, query: Tensor, key: Tensor) -> Tensor:
        """Count matches: [steps, batch, queries, d], [.., keys, d] -> [steps, batch, heads, queries, keys]."""
        counts = torch.matmul(self._by_head(query), self._by_head(key).transpose(-1, -2))
        return counts.sum(0, keepdim=True) if self.joint else counts

    def _sum(self, counts: Tensor, value: Tensor) -> Tensor:
        """Weigh values by counts: -> the current [steps, batch, queries, d]."""
        return torch.matmul(counts, self._by_head(value)).transpose(2, 3).flatten(3) * self.scale

    def _by_head(self, spikes: Tensor) -> Tensor:
        """Cut the channels into heads: [steps, batch, tokens, d] -> [steps, batch, heads, tokens, d / heads]."""
        return spikes.unflatten(3, (self.geometry.heads, -1)).transpose(2, 3)
