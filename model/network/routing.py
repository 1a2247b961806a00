# SPDX-License-Identifier: MIT
"""Dendritic routing (SNN-DT): a gain per head on the current of the neurons behind attention, chosen by the token.

`mlp` is the paper's, a softmax over the heads, in real numbers. `count` is one that deploys: a power of two chosen by
how much the head asks, its query spikes in all SNN steps of the token.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from model.deployed.geometry import Geometry

HIDDEN = 16
"""Hidden channels of the paper's MLP."""
WIDTH = 0.05
"""Of the sigmoid whose gradient a threshold's step takes, in shares of the largest count."""
LARGEST_FIRST = 0.3
"""Thresholds start uniform in 0..this, in shares of the largest count."""


class Routing(nn.Module, ABC):
    """A gain per head and token of a layer."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry

    @abstractmethod
    def forward(self, current: Tensor, query: Tensor | None) -> Tensor:
        """Return the current [steps, rows, d], each head's times its gain; query: spikes [steps, rows, d]."""

    def _spread(self, of_head: Tensor) -> Tensor:
        """Give every channel its head's: [..., heads] -> [..., d]."""
        return of_head.repeat_interleave(self.geometry.d_model // self.geometry.heads, dim=-1)

    def _cut(self, x: Tensor) -> Tensor:
        """Cut the channels into heads: [..., d] -> [..., heads, d / heads]."""
        return x.unflatten(-1, (self.geometry.heads, -1))


class MlpRouting(Routing):
    """`y_h <- H alpha_h y_h`, alpha = softmax over the heads of `MLP(y_h)`, in every SNN step, y_h the head's current.

    One MLP, d / heads to 16 to 1, for all heads of a layer. The paper adds up the heads' alpha_h y_h, which are then a
    head wide; here each stays in its channels, and the factor H makes equal shares a gain of 1, with which it starts.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        self.hidden = nn.Linear(geometry.d_model // geometry.heads, HIDDEN)
        self.score = nn.Linear(HIDDEN, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, current: Tensor, query: Tensor | None) -> Tensor:
        """Route."""
        score = self.score(torch.relu(self.hidden(self._cut(current))))[..., 0]
        return current * self._spread(self.geometry.heads * torch.softmax(score, dim=-1))


class CountRouting(Routing):
    """`y_h <- y_h / 2^s`, s = how many of a head's two thresholds its count of query spikes does not exceed.

    share [2, heads] : the thresholds, in shares of the largest count, d / heads in each SNN step; learned. Forward the
    gain is 1, 1/2 or 1/4, exact in either phase; its gradient is that of a sigmoid of the count's share at each.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        self.share = nn.Parameter(LARGEST_FIRST * torch.rand(2, geometry.heads))

    def thresholds(self) -> Tensor:
        """Return the integer thresholds [2, heads], -1 where every count exceeds it, without gradient."""
        most = self.geometry.largest_query_count
        return torch.floor(self.share.detach() * most).clamp(-1, most)

    def forward(self, current: Tensor, query: Tensor | None) -> Tensor:
        """Route."""
        assert query is not None
        count = self._cut(query.sum(0)).sum(-1)
        for number, threshold in enumerate(self.thresholds()):
            quiet = count <= threshold
            if self.training:
                away = (self.share[number] - count / self.geometry.largest_query_count) / WIDTH
                soft = torch.sigmoid(away)
                current = current * self._spread(1 - 0.5 * (quiet + (soft - soft.detach())))
            else:
                current = torch.where(self._spread(quiet), current * 0.5, current)
        return current


ROUTINGS = {"mlp": MlpRouting, "count": CountRouting}


def routing(geometry: Geometry) -> Routing | None:
    """Return what the geometry asks for, to train."""
    return None if geometry.routing == "none" else ROUTINGS[geometry.routing](geometry)
