# SPDX-License-Identifier: MIT
"""Attention over the tokens of an image: the attentions of `model.network`, with taps on a grid instead of a line.

SSA and LRF-SSA see the whole image; LRF-Dyn scans it token by token from the top left, and its taps look back alone.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.deployed.geometry import Geometry
from model.network.attention import Attention, Rows
from model.network.dynamics import Dendrites, Dynamics, kernel
from model.network.layers import THRESHOLD
from model.network.match import Match
from model.network.neuron import lif
from model.vision.taps import Grid, GridTaps

ATTENTIONS = ("ssa", "lrf-ssa", "lrf-dyn", "taps")
"""SSA of Spikformer, LRF-SSA, LRF-Dyn, and as a control LRF-SSA without its matches."""
SCALE = 0.03125
"""Current of one match of query and key (docs/attention.md)."""
TAP_INIT = 0.6


def geometry(attention: str, d_model: int, layers: int, steps: int, grid: Grid) -> Geometry:
    """Return the sizes of a network for images, in the terms of the networks for token streams.

    A vision network has no observations, actions and circuit: those fields mean nothing here.
    """
    name = {"ssa": "sssa", "taps": "lrf-ssa"}.get(attention, attention)
    window = {} if attention == "lrf-dyn" else {"window": grid.tokens}
    return Geometry(1, 1, d_model, layers, steps, attention=name, group=d_model, **window)


class GridMatch(Match):
    """`scale * sum_j (q[n] . k[j]) v[j]` over all tokens j of the image, plus taps on v (LRF's eq. 8)."""

    def looked(self, key: Tensor, query: Tensor, rows: Rows) -> Tensor:
        """Return that every token looks at all, [1]."""
        return key.new_ones(1)

    def local_current(self, value: Tensor) -> Tensor:
        """Return what the taps add up: value spikes [steps, batch, tokens, d] -> like them."""
        return self.local(value)  # type: ignore[misc]

    def begin(self, batch: int) -> Tensor:
        """Raise `ValueError`: a token looks at later ones."""
        raise ValueError("attention over a whole image cannot stream; choose lrf-dyn")

    @torch.no_grad()
    def weights(self, key: Tensor, query: Tensor) -> Tensor:
        """Return the weight of every value on every token, mean over steps and channels, in units of current.

        key, query : spikes [steps, batch, tokens, d] -> [batch, tokens, tokens], those that look first.
        """
        matches = self.counts(query, key).mean((0, 2)) * self.scale
        return matches if self.local is None else matches + self.local.matrix().to(matches)  # type: ignore[operator]


class Scan(NamedTuple):
    """What LRF-Dyn keeps of an image so far: dendrites [steps, batch, k, d], past values [steps, batch, reach, d]."""

    dendrites: Tensor
    values: Tensor
    tokens: int

    def index_select(self, dim: int, index: Tensor) -> "Scan":
        """Return the state of these images only."""
        return Scan(self.dendrites.index_select(dim, index), self.values.index_select(dim, index), self.tokens)


class GridDynamics(Dynamics):
    """`q AND (dendrites(k AND v) + taps on v)` along the line of an image's tokens (LRF's eq. 12-13)."""

    local: GridTaps

    def local_current(self, value: Tensor) -> Tensor:
        """Return what the taps add up: value spikes [steps, batch, tokens, d] -> like them."""
        return self.local(value)

    def begin(self, batch: int) -> Scan:  # type: ignore[override]
        """Return dendrites at rest and no past values."""
        g = self.geometry
        sizes = (g.dendrites, self.local.reach)
        return Scan(*(self.threshold.new_zeros(g.steps, batch, size, g.d_model) for size in sizes), 0)

    def advance(  # type: ignore[override]
        self, key: Tensor, value: Tensor, query: Tensor | None, state: Scan
    ) -> tuple[Tensor, Scan]:
        """Advance by a token, spikes [steps, batch, d] -> its current, and the next state."""
        recent = torch.cat([state.values, value[:, :, None]], dim=2)
        read, x = self.dendrites.advance(key * value, state.dendrites)
        current = read + self.local.newest(recent, state.tokens)
        return self._gated(current, query), Scan(x, recent[:, :, 1:], state.tokens + 1)

    @torch.no_grad()
    def weights(self, key: Tensor, query: Tensor) -> Tensor:
        """Return what `GridMatch.weights` does: of a dendrite's answer its size where key and query spike."""
        tokens = key.shape[2]
        distance = torch.arange(tokens)[:, None] - torch.arange(tokens)
        answers = kernel(self.dendrites.coefficients(), tokens).abs()  # [tokens, d]
        past = (answers[distance.clamp(min=0)] * (distance >= 0)[..., None].to(answers)).to(key)
        scanned = torch.einsum("tbnc,tbjc,njc->bnj", query, key, past) / (key.shape[0] * key.shape[3])
        gate = query.mean(0)  # [batch, tokens, d]
        for down, right, weight in self.local.taps():
            n, j = self.local.grid.pairs(down, right)
            scanned[:, n, j] += (gate[:, n] * weight.abs()).mean(2)
        return scanned


class TokenGate(Attention):
    """Q-K token attention of QKFormer (arXiv 2403.16552): a token's keys pass where its queries make a neuron fire.

    The query spikes of a token are summed over its channels, with `gain` each, into the current of one neuron. It has
    no value, and looks at no other token. The paper has a gain of 1, at which one spike fires and no sum has a gradient
    (docs/vision.md); ours is 4 / d: more than an eighth of the channels fire.
    """

    def __init__(self, size: Geometry, threshold: Tensor) -> None:
        super().__init__()
        self.geometry, self.gain = size, 4 / size.d_model
        self.register_buffer("threshold", threshold)

    def forward(self, key: Tensor, value: Tensor, query: Tensor | None, rows: Rows) -> Tensor:
        """Gate keys [steps, rows, d]; `value` is not looked at."""
        assert query is not None
        return lif(query.sum(2, keepdim=True) * self.gain, self.threshold[:1]) * key

    def begin(self, batch: int) -> Tensor:
        """Return that nothing is kept."""
        return self.threshold.new_zeros(self.geometry.steps, batch, 0)

    def advance(self, key: Tensor, value: Tensor, query: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Gate one token's keys."""
        return self.forward(key, value, query, Rows(None, key.shape[1], 1)), state


def attention(name: str, size: Geometry, grid: Grid) -> Attention:
    """Return one of `ATTENTIONS` to train; `size` is `geometry`'s."""
    threshold = torch.full((size.d_model,), THRESHOLD)

    def taps(causal: bool) -> nn.Module:
        return GridTaps(size.d_model, grid, TAP_INIT, causal)

    if name == "lrf-dyn":
        return GridDynamics(size, Dendrites(size, TAP_INIT), taps(True), threshold)
    if name == "ssa":
        return GridMatch(size, threshold, SCALE, joint=False)
    return GridMatch(size, threshold, SCALE if name == "lrf-ssa" else 0.0, joint=False, local=taps(False))
