# SPDX-License-Identifier: MIT
"""Sparse matching for long windows: block-sparse, or by buckets of sign hashes (LSH, after Charikar and Reformer).

Both are SSSA or TSSA in which a token looks at few of its window's tokens. Over whole windows the matches are masked,
to train; as a stream the tokens that are looked at are gathered, and no other is read.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.deployed.geometry import Geometry
from model.network.attention import Rows, State
from model.network.match import Match

SPARSITIES = ("dense", "block", "lsh")


@dataclass
class Kept:
    """What sparse matching keeps of the past tokens; it is changed in place.

    clock : tokens seen. spikes [steps, batch, slots, 2, d] : keys and values. buckets : of hashed matching.
    """

    clock: int
    spikes: Tensor
    buckets: "Buckets | None" = None

    def index_select(self, dim: int, index: Tensor, /) -> "Kept":
        """Return what is kept of these episodes; `dim` is 1, where spikes have theirs."""
        buckets = None if self.buckets is None else self.buckets.of(index)
        return Kept(self.clock, self.spikes.index_select(dim, index), buckets)


class Buckets:
    """The hash tables of some episodes.

    tokens [batch, rounds, 2**bits + 1, block] : numbers of the tokens filed, -1 where there is none; the last bucket
    takes those without a key spike, and nobody asks for it. filed [batch, rounds, 2**bits + 1] : how many were, ever.
    recent [batch, block, rounds] : buckets of the newest tokens, which are not filed yet.
    """

    def __init__(self, tokens: Tensor, filed: Tensor, recent: Tensor) -> None:
        self.tokens, self.filed, self.recent = tokens, filed, recent
        on = {"device": tokens.device}
        self.episodes, self.rounds = torch.arange(len(tokens), **on)[:, None], torch.arange(tokens.shape[1], **on)

    def of(self, index: Tensor) -> "Buckets":
        """Return those of some episodes, an index [batch]."""
        return Buckets(*(x.index_select(0, index) for x in (self.tokens, self.filed, self.recent)))

    def enter(self, token: int, codes: Tensor) -> None:
        """Take a token's buckets [batch, rounds]; file the token `block` before it, over the oldest there."""
        block = self.recent.shape[1]
        slot, old = token % block, token - block
        if old >= 0:
            bucket = (self.episodes, self.rounds, self.recent[:, slot])
            count = self.filed[bucket]
            self.tokens[(*bucket, count % block)] = old
            self.filed[bucket] = count + 1
        self.recent[:, slot] = codes

    def find(self, codes: Tensor) -> Tensor:
        """Return the tokens in the buckets [batch, rounds], in order, -1 for none: [batch, rounds * block]."""
        return self.tokens[self.episodes, self.rounds, codes].flatten(1).sort(1).values


class BlockMatch(Match):
    """Block-sparse matching: a token looks at its block so far, the block before it, and the last token of every
    earlier block in the window (the "fixed" pattern of Sparse Transformers, with the block before it).

    Blocks of `block` tokens are counted from an episode's first token. The last token of a block saw all of it, so two
    layers reach every token of the window. Looks at `2 block + window / block` tokens at most, and keeps no more.
    """

    def __init__(self, geometry: Geometry, threshold: Tensor, scale: float, joint: bool, block: int) -> None:
        super().__init__(geometry, threshold, scale, joint)
        self.block = block
        self.ends = -(-geometry.window // block)

    @property
    def state_bits(self) -> int:
        """Bits a layer keeps: key and value spikes of two blocks and of the ends of the window's blocks."""
        return 2 * self.geometry.steps * self.geometry.d_model * (2 * self.block + self.ends)

    def looked(self, key: Tensor, query: Tensor, rows: Rows) -> Tensor:
        """Return the pattern [batch, 1, length, length]. Raises `ValueError` where a window has gaps."""
        if rows.age is None:
            raise ValueError("block-sparse matching counts tokens from the first of a window: leave out no token of it")
        n = rows.spread(rows.age[None, :, None].to(key))[0, :, :, 0]
        block, end = torch.div(n, self.block, rounding_mode="floor"), (n + 1) % self.block == 0
        near = block[:, :, None] - block[:, None] <= 1
        return ((near | end[:, None]) & _window(self.geometry.window, rows.length, key.device))[:, None].to(key)

    def begin(self, batch: int) -> Kept:
        """Return nothing kept yet."""
        g = self.geometry
        return Kept(0, self.threshold.new_zeros(g.steps, batch, 2 * self.block + self.ends, 2, g.d_model))

    def look(self, key: Tensor, value: Tensor, query: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Gather two blocks and the ends before them."""
        assert isinstance(state, Kept)
        n, b, oldest = state.clock, self.block, state.clock - self.geometry.window + 1
        number = n // b
        state.spikes[:, :, n % (2 * b)] = torch.stack([key, value], 2)
        if n % b == b - 1:
            state.spikes[:, :, 2 * b + number % self.ends] = state.spikes[:, :, n % (2 * b)]
        recent = [j % (2 * b) for j in range(max(0, (number - 1) * b, oldest), n + 1)]
        # a block's last token is (block + 1) b - 1
        first = max(0, -(-(oldest + 1) // b) - 1)
        slots = torch.tensor(recent + [2 * b + block % self.ends for block in range(first, number - 1)])
        k, v = state.spikes.index_select(2, slots.to(key.device)).unbind(3)
        state.clock += 1
        return k, v, state


class HashMatch(Match):
    """Matching within buckets: a token looks at the last `block` tokens, and in each of `rounds` hash tables at the
    newest `block` tokens of the bucket of its query.

    A hash is `bits` signs: r holds 1 or -1 for each channel and step, and a sign is whether a token's spikes meet more
    1 than -1, two popcounts. Keys and queries have the same r, drawn from `seed` and kept with the network. A token
    enters the buckets of its key as it leaves the last `block` tokens, and never where its key has no spike, since
    that matches nothing. Looks at `(1 + rounds) block` tokens at most, however long the window.
    """

    signs: Tensor
    places: Tensor

    def __init__(
        self,
        geometry: Geometry,
        threshold: Tensor,
        scale: float,
        joint: bool,
        block: int,
        bits: int,
        rounds: int,
        seed: int,
    ) -> None:
        super().__init__(geometry, threshold, scale, joint)
        self.block, self.bits, self.rounds = block, bits, rounds
        shape = (rounds * bits, geometry.steps * geometry.d_model)
        drawn = torch.randint(2, shape, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("signs", 2.0 * drawn - 1.0)
        # a round's bits are the digits of its bucket's number
        places = torch.block_diag(*[torch.exp2(torch.arange(bits))[:, None]] * rounds)
        self.register_buffer("places", places, persistent=False)

    @property
    def state_bits(self) -> int:
        """Bits a layer keeps: key and value spikes of the window; in each bucket its tokens' numbers and the place of
        the oldest; the buckets of the newest tokens."""
        g = self.geometry
        bucket = self.block * g.window.bit_length() + (self.block - 1).bit_length()
        recent = self.block * (self.bits + 1)
        return 2 * g.steps * g.d_model * g.window + self.rounds * ((bucket << self.bits) + recent)

    @torch.no_grad()
    def codes(self, spikes: Tensor) -> Tensor:
        """Return the bucket in each round: spikes [steps, ..., d] -> [..., rounds]."""
        signs = torch.matmul(spikes.movedim(0, -2).flatten(-2), self.signs.t()) > 0
        return torch.matmul(signs.to(self.places), self.places).long()

    def looked(self, key: Tensor, query: Tensor, rows: Rows) -> Tensor:
        """Return who is in the local block or among the newest of a bucket, [batch, 1, length, length]."""
        asked, filed, speaks = self.codes(query), self.codes(key), key.detach().sum((0, 3)) > 0
        local = _window(self.block, rows.length, key.device)
        earlier = _window(rows.length, rows.length, key.device) & ~local & speaks[:, None]
        looked = local
        for asks, holds in zip(asked.unbind(-1), filed.unbind(-1), strict=True):
            bucket = earlier & (asks[:, :, None] == holds[:, None])
            newer = bucket.flip(-1).cumsum(-1, dtype=torch.int32).flip(-1)
            looked = looked | (bucket & (newer <= self.block))
        return (looked & _window(self.geometry.window, rows.length, key.device))[:, None].to(key)

    def begin(self, batch: int) -> Kept:
        """Return empty buckets."""
        g = self.geometry
        # the slot behind the window's stays empty: it stands for no token
        spikes = self.threshold.new_zeros(g.steps, batch, g.window + 1, 2, g.d_model)
        tokens = torch.full((batch, self.rounds, (1 << self.bits) + 1, self.block), -1, device=spikes.device)
        recent = tokens.new_zeros(batch, self.block, self.rounds)
        return Kept(0, spikes, Buckets(tokens, torch.zeros_like(tokens[..., 0]), recent))

    def look(self, key: Tensor, value: Tensor, query: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Gather the local block and the query's buckets; every token once, and the empty slot for what is missing."""
        assert isinstance(state, Kept)
        assert state.buckets is not None
        n, window, buckets = state.clock, self.geometry.window, state.buckets
        state.spikes[:, :, n % window] = torch.stack([key, value], 2)
        holds, asks = self.codes(torch.stack([key, query], 1)).unbind()
        buckets.enter(n, holds.masked_fill((key.amax((0, 2)) == 0)[:, None], 1 << self.bits))
        found = buckets.find(asks)
        real = found > max(n - window, -1)
        real[:, 1:] &= found[:, 1:] != found[:, :-1]
        local = torch.arange(max(0, n - self.block + 1), n + 1, device=found.device) % window
        slots = torch.cat([local.expand(len(found), -1), torch.where(real, found % window, window)], 1)
        k, v = state.spikes[:, buckets.episodes, slots].unbind(3)
        state.clock += 1
        return k, v, state


def _window(tokens: int, length: int, device: torch.device) -> Tensor:
    """Return which of `length` tokens are the newest `tokens` before each, itself included, bool [length, length]."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril().triu(1 - tokens)
