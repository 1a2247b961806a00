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

    clock : tokens seen. spikes [steps, batch, slots, 2, d] : keys and values. buckets [batch, rounds, 2**hash_bits,
    block] : numbers of the tokens filed there, -1 where there is none; filed [batch, rounds, 2**hash_bits] : how many
    were, ever.
    """

    clock: int
    spikes: Tensor
    buckets: Tensor | None = None
    filed: Tensor | None = None

    def index_select(self, dim: int, index: Tensor, /) -> "Kept":
        """Return what is kept of these episodes; `dim` is 1, where spikes have theirs."""
        rest = (x if x is None else x.index_select(dim - 1, index) for x in (self.buckets, self.filed))
        return Kept(self.clock, self.spikes.index_select(dim, index), *rest)


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

    def __init__(
        self, geometry: Geometry, threshold: Tensor, scale: float, joint: bool, block: int, bits: int, rounds: int, seed: int
    ) -> None:
        super().__init__(geometry, threshold, scale, joint)
        self.block, self.bits, self.rounds = block, bits, rounds
        shape = (rounds * bits, geometry.steps * geometry.d_model)
        drawn = torch.randint(2, shape, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("signs", 2.0 * drawn - 1.0)

    @property
    def state_bits(self) -> int:
        """Bits a layer keeps: key and value spikes of the window, and its tokens' numbers in the buckets."""
        g = self.geometry
        numbers = self.rounds * self.block << self.bits
        return 2 * g.steps * g.d_model * g.window + numbers * g.window.bit_length()

    @torch.no_grad()
    def codes(self, spikes: Tensor) -> Tensor:
        """Return the bucket in each round: spikes [steps, ..., d] -> [..., rounds]."""
        signs = torch.matmul(spikes.movedim(0, -2).flatten(-2), self.signs.t()) > 0
        return (signs.unflatten(-1, (self.rounds, self.bits)) << torch.arange(self.bits, device=signs.device)).sum(-1)

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
        buckets = torch.full((batch, self.rounds, 1 << self.bits, self.block), -1, device=spikes.device)
        return Kept(0, spikes, buckets, torch.zeros_like(buckets[..., 0]))

    def look(self, key: Tensor, value: Tensor, query: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Gather the local block and the query's buckets; every token once, and the empty slot for what is missing."""
        assert isinstance(state, Kept)
        assert state.buckets is not None
        n, window = state.clock, self.geometry.window
        state.spikes[:, :, n % window] = torch.stack([key, value], 2)
        if n >= self.block:
            self._file(n - self.block, state)
        batch, rounds = torch.arange(key.shape[1])[:, None], torch.arange(self.rounds)
        found = state.buckets[batch, rounds, self.codes(query)].flatten(1).sort(1).values
        real = found > max(n - window, -1)
        real[:, 1:] &= found[:, 1:] != found[:, :-1]
        local = torch.arange(max(0, n - self.block + 1), n + 1) % window
        slots = torch.cat([local.expand(len(found), -1), torch.where(real, found % window, window)], 1)
        k, v = state.spikes[:, batch, slots].unbind(3)
        state.clock += 1
        return k, v, state

    def _file(self, token: int, state: Kept) -> None:
        """Put a token into its buckets, over the oldest there."""
        assert state.buckets is not None
        assert state.filed is not None
        key = state.spikes[:, :, token % self.geometry.window, 0]
        speaks = key.sum((0, 2)).nonzero()
        place = (speaks, torch.arange(self.rounds), self.codes(key)[speaks[:, 0]])
        state.buckets[(*place, state.filed[place] % self.block)] = token
        state.filed[place] += 1


def _window(tokens: int, length: int, device: torch.device) -> Tensor:
    """Return which of `length` tokens are the newest `tokens` before each, itself included, bool [length, length]."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril().triu(1 - tokens)
