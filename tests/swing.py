# SPDX-License-Identifier: MIT
"""A small data set of Pendulum-v1 whose actions follow from its observations, for trainings in tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from model import collect


def make(root: Path, dataset: str, lengths: Sequence[int]) -> None:
    """Make the data set below `root`, one episode per length."""
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(sum(lengths), 3)).astype(np.float32)
    ends = np.zeros(len(observations), bool)
    ends[np.cumsum(lengths) - 1] = True
    np.savez(
        root / "swing.npz",
        observations=observations,
        actions=2 * np.tanh(2 * observations[:, :1] - observations[:, 1:2]),
        rewards=observations[:, 2],
        terminals=np.zeros_like(ends),
        timeouts=ends,
        ep_len=np.array(lengths),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        collect.import_npz(root / "swing.npz", dataset, "Pendulum-v1")
