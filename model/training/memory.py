# SPDX-License-Identifier: MIT
"""Whether the matches of a training window fit into memory: they are the one thing that grows with its square."""

import os

from model.training.config import ConfigError, TrainConfig

MATCHING = ("sssa", "tssa", "lrf-ssa")
NUMBER = 4
"""Bytes of a count in single precision."""


def match_bytes(config: TrainConfig, longest: int) -> int:
    """Return what an update keeps of all layers' matches, counted and masked, for episodes of `longest` tokens."""
    g = config.geometry
    if config.network != "spiking" or g.attention not in MATCHING:
        return 0
    tokens = min(config.length, longest)
    maps = config.batch * g.heads * (1 if g.attention == "tssa" else g.steps)
    return 2 * NUMBER * g.layers * maps * tokens * tokens


def physical() -> int:
    """Return the bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def require_room(config: TrainConfig, longest: int) -> None:
    """Raise `ConfigError` where an update would keep more than there is memory."""
    needed, there = match_bytes(config, longest), physical()
    if needed > there:
        raise ConfigError(
            f"windows of {min(config.length, longest)} tokens keep {needed / 2**30:.1f} GiB of matches, and this "
            f"machine has {there / 2**30:.1f}: lower length, batch, layers or heads"
        )
