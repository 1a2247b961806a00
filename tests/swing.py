# SPDX-License-Identifier: MIT
"""A small data set of Pendulum-v1 whose actions follow from its observations, for trainings in tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from model import collect
from model.data.tasks import find
from model.deployed.presets import TINY
from model.studies.runs import Budget

TASK = "pendulum-mixed"
"""Whose data set studies are given in tests."""


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


def make_task(root: Path) -> Path:
    """Make a small data set under the id of `TASK`'s below `root`, and return that folder."""
    root.mkdir(exist_ok=True)
    make(root, find(TASK).dataset, [200, 150, 120, 60])
    return root


def budget() -> Budget:
    """Return a study's budget of seconds on it."""
    return Budget(find(TASK), TINY, steps=120, quant_steps=40, batch=8, seeds=1, episodes=1)
