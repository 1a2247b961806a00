# SPDX-License-Identifier: MIT
"""The attentions of the deployed network in numpy integers (docs/numbers.md): functions, and the state they go with.

Spikes are [steps, ..., channels]; between the two may stand an axis of episodes that run side by side.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.deployed.geometry import Geometry

Integers = NDArray[np.int64]
Bits = NDArray[np.bool_]


def saturate(value: Integers, bits: int) -> tuple[Integers, int]:
    """Clip to signed `bits`; return the clipped array and how many elements were clipped."""
    clipped = np.clip(value, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    return clipped, int(np.count_nonzero(clipped != value))


def window_sum(ring: Bits, taps: Integers) -> Integers:
    """Sum the taps of the tokens whose `k AND v` spikes: `acc[t,c] = sum_d p[c,d] kv[n-d][t,c]`.

    ring [tokens, steps, ..., channels], newest first; taps [channels, window] -> [steps, ..., channels].
    """
    acc: Integers = np.einsum("dt...c,cd->t...c", ring.astype(np.int64), taps[:, : len(ring)])
    return acc


def overlap(query: Bits, keys: Bits, joint: bool, heads: int) -> Integers:
    """Count the channels in which a query and each key spike, in each step or (`joint`) in all steps together.

    Each of `heads` equal shares of the channels has a count of its own.
    query [steps, ..., channels], keys [tokens, steps, ..., channels] -> [tokens, steps, ..., heads].
    """
    q, k = (np.packbits(_by_head(spikes, heads), axis=-1) for spikes in (query, keys))
    counts: Integers = np.bitwise_count(q & k).sum(axis=-1, dtype=np.int64)
    return np.broadcast_to(counts.sum(axis=1, keepdims=True), counts.shape) if joint else counts


def match_sum(counts: Integers, values: Bits) -> Integers:
    """Sum the counts of the tokens whose value spikes: `acc[t,c] = sum_j counts[j,t,head of c] v[j][t,c]`.

    counts [tokens, steps, ..., heads], values [tokens, steps, ..., channels] -> [steps, ..., channels].
    """
    acc: Integers = np.where(_by_head(values, counts.shape[-1]), counts[..., None], 0).sum(axis=0)
    return acc.reshape(values.shape[1:])


def _by_head(spikes: Bits, heads: int) -> Bits:
    """Cut the channels into heads: [..., channels] -> [..., heads, channels / heads]."""
    return spikes.reshape(*spikes.shape[:-1], heads, -1)


def shifted(x: Integers, code: Integers, least: int = 0) -> Integers:
    """Shift right with a sign: `sign(code) (x >> (least + |code| - 1))`, 0 where the code is 0."""
    result: Integers = np.sign(code) * (x >> (least + np.maximum(np.abs(code), 1) - 1))
    return result


def dendrites(x: Integers, both: Bits, p: Mapping[str, Integers]) -> Integers:
    """Advance the dendrites by a token, before saturation.

    `x[i] - (x[i] >> decay[i]) + shifted(x[i+1], upper[i]) + shifted(x[i-1], lower[i-1]) + gain[i] kv`, every x the one
    before. x [steps, ..., channels, dendrites], both = `k AND v` [steps, ..., channels] -> like x.
    """
    after: Integers = x - (x >> p["decay"]) + p["gain"] * both[..., None]
    after[..., :-1] += shifted(x[..., 1:], p["upper"])
    after[..., 1:] += shifted(x[..., :-1], p["lower"])
    return after


def readout(x: Integers, code: Integers, least: int) -> Integers:
    """Read the dendrites: `sum_i shifted(x[i], code[i])`, x [..., channels, dendrites] -> [..., channels]."""
    current: Integers = shifted(x, code, least).sum(axis=-1)
    return current


class Attention(Protocol):
    """A layer's attention and what it keeps of the past."""

    def advance(self, key: Bits, value: Bits, query: Bits | None = None) -> tuple[Integers, int]:
        """Take a token's spikes [steps, ..., channels], without query where the geometry has none.

        Returns the current of the neurons behind, same shape, and how many numbers were clipped.
        """

    def keep(self, episodes: Sequence[int]) -> None:
        """Go on with these of the episodes side by side."""


def follow(attention: Attention, spikes: Sequence[Bits]) -> tuple[Integers, int]:
    """Take consecutive tokens of an episode, a token each in the middle axis [steps, tokens, channels].

    Returns the currents, same shape, and how many numbers were clipped.
    """
    if isinstance(attention, Window):
        return attention.follow(*spikes), 0
    taken = [attention.advance(*(each[:, token] for each in spikes)) for token in range(spikes[0].shape[1])]
    return np.stack([current for current, _ in taken], axis=1), sum(clipped for _, clipped in taken)


class Window:
    """PSSA. `ring` : the `k AND v` spikes of the window's tokens, newest first [tokens, steps, ..., channels]."""

    def __init__(self, g: Geometry, tensors: Mapping[str, Integers]) -> None:
        self._window, self._taps = g.window, tensors["window.weight"]
        self.ring: Bits = np.zeros((0,), np.bool_)

    def advance(self, key: Bits, value: Bits, query: Bits | None = None) -> tuple[Integers, int]:
        """Advance."""
        assert query is not None
        self.ring = _push(self.ring, key & value, self._window)
        return query * window_sum(self.ring, self._taps), 0

    def follow(self, key: Bits, value: Bits, query: Bits) -> Integers:
        """Take consecutive tokens [steps, tokens, channels]: as `advance` of each, a tap of all of them at a time."""
        both = np.concatenate([*(token[:, None] for token in self.ring[::-1]), key & value], axis=1)  # oldest first
        past, count = len(self.ring), key.shape[1]
        acc = np.zeros(key.shape, np.int64)
        for age in range(min(self._window, both.shape[1])):
            # the first tokens of an episode have none of that age
            begins = max(0, age - past)
            acc[:, begins:] += both[:, past + begins - age : past + count - age] * self._taps[:, age]
        self.ring = np.moveaxis(both[:, ::-1], 1, 0)[: self._window]
        return query * acc

    def keep(self, episodes: Sequence[int]) -> None:
        """Keep."""
        self.ring = self.ring[:, :, episodes]

    @property
    def kept(self) -> tuple[Bits, ...]:
        """What is kept of the tokens."""
        return (self.ring,)


class Match:
    """SSSA and TSSA. `keys`, `values` : of the window's tokens, newest first [tokens, steps, ..., channels]."""

    def __init__(self, g: Geometry, tensors: Mapping[str, Integers]) -> None:
        self._window, self._joint, self._heads = g.window, g.attention == "tssa", g.heads
        self.keys: Bits = np.zeros((0,), np.bool_)
        self.values: Bits = np.zeros((0,), np.bool_)

    def advance(self, key: Bits, value: Bits, query: Bits | None = None) -> tuple[Integers, int]:
        """Advance."""
        assert query is not None
        self.keys, self.values = _push(self.keys, key, self._window), _push(self.values, value, self._window)
        return match_sum(overlap(query, self.keys, self._joint, self._heads), self.values), 0

    def keep(self, episodes: Sequence[int]) -> None:
        """Keep."""
        self.keys, self.values = self.keys[:, :, episodes], self.values[:, :, episodes]

    @property
    def kept(self) -> tuple[Bits, ...]:
        """What is kept of the tokens."""
        return self.keys, self.values


class Dynamics:
    """LRF-Dyn. `x` : [steps, ..., channels, dendrites]; `values` : as far as local taps reach, newest first."""

    def __init__(self, g: Geometry, tensors: Mapping[str, Integers]) -> None:
        self._geometry = g
        self._p = {name.removeprefix("dynamics."): t for name, t in tensors.items() if name.startswith("dynamics.")}
        self.x: Integers = np.zeros((g.d_model, g.dendrites), np.int64)
        self.values: Bits = np.zeros((0,), np.bool_)

    def advance(self, key: Bits, value: Bits, query: Bits | None = None) -> tuple[Integers, int]:
        """Advance."""
        g = self._geometry
        self.values = _push(self.values, value, 1 + max(g.local_distances))
        self.x, clipped = saturate(dendrites(self.x, key & value, self._p), g.dendrite_bits)
        # the distances ascend, so before an episode's beginning the farthest taps are the ones that are silent
        local = self.values[[d for d in g.local_distances if d < len(self.values)]]
        current: Integers = readout(self.x, self._p["readout"], g.least_readout_shift) + (
            window_sum(local, self._p["local"]) << g.local_shift
        )
        return (current if query is None else query * current), clipped

    def keep(self, episodes: Sequence[int]) -> None:
        """Keep."""
        self.x, self.values = self.x[:, episodes], self.values[:, :, episodes]


def _push(ring: Bits, newest: Bits, length: int) -> Bits:
    """Return the ring [tokens, ...] with the newest token in front, `length` tokens at most."""
    return np.concatenate([newest[None], ring[: length - 1]]) if len(ring) else newest[None]


ATTENTIONS: dict[str, Callable[[Geometry, Mapping[str, Integers]], Attention]] = {
    "pssa": Window,
    "sssa": Match,
    "tssa": Match,
    "lrf-dyn": Dynamics,
}
