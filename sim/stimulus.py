# SPDX-License-Identifier: MIT
"""What the unit benches share: random data, and word access to a memory port."""

from collections.abc import Iterable

import numpy as np

from model.deployed.geometry import Geometry
from sim.ports import Ports


def varied(values: Iterable[int]) -> None:
    """Check that stimuli or results are not all the same."""
    assert len(set(np.asarray(list(values)).ravel().tolist())) > 1, "constant data proves nothing"


def integers(rng: np.random.Generator, bits: int, size: tuple[int, ...]) -> np.ndarray:
    """Draw signed integers of that width, the extremes often."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    drawn = rng.integers(low, high, size, endpoint=True)
    extreme = rng.random(size) < 0.1
    return np.where(extreme, rng.choice([low, high], size), drawn)


def sparse(rng: np.random.Generator, g: Geometry, groups: int) -> np.ndarray:
    """Draw spikes [groups, group], a channel's steps in one integer: groups without a spike, full ones, in between."""
    share = rng.choice([0.0, 0.1, 0.5, 1.0], (groups, 1))
    spikes = rng.integers(1, 1 << g.steps, (groups, g.group)) if g.steps > 1 else np.ones((groups, g.group), int)
    return np.where(rng.random((groups, g.group)) < share, spikes, 0)


def bits_of(words: np.ndarray, steps: int) -> np.ndarray:
    """Spread spikes [channels], a channel's steps in one integer -> bool [steps, channels]."""
    return (np.asarray(words)[None] >> np.arange(steps)[:, None] & 1).astype(bool)


async def load(unit: Ports, port: str, words: np.ndarray, first: int = 0) -> None:
    """Store words through a memory's load port."""
    unit.set(f"{port}.write", 1)
    for address, word in enumerate(words.tolist(), start=first):
        unit.set(f"{port}.address", address)
        unit.set(f"{port}.data", word)
        await unit.tick()
    unit.set(f"{port}.write", 0)


async def read(unit: Ports, port: str, count: int) -> list[int]:
    """Read words back through a memory's load port."""
    words = []
    for address in range(count):
        unit.set(f"{port}.address", address)
        await unit.tick()
        words.append(unit.get(f"{port}.read_data"))
    return words
