# SPDX-License-Identifier: MIT
"""How a score is taken from a training run, and the scores of several runs made one figure: two rules, both labelled.

docs/protocol.md says what each rule hides and shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Result = dict[str, Any]
"""One evaluation: what `evaluate.evaluate` returns, with the "step" of the checkpoint."""


@dataclass(frozen=True)
class Protocol:
    """A rule.

    training_seeds : runs at least. episodes : per evaluation at least. checkpoints : of the float phase, evaluated.
    every_target : whether all of a task's targets are tried and the best counts, or the task's own target alone.
    first_seed : reset seed of the first episode, the same for every run, checkpoint and target.
    """

    name: str
    rule: str
    training_seeds: int
    episodes: int
    checkpoints: int
    every_target: bool
    first_seed: int = 1000


PROTOCOLS = {
    "honest": Protocol(
        "honest",
        "one fixed target; last checkpoint and best of the checkpoints apart (best: the highest mean over the very "
        "episodes it is reported on); mean and deviation over training seeds",
        training_seeds=3,
        episodes=20,
        checkpoints=5,
        every_target=False,
    ),
    "paper": Protocol(
        "paper",
        "as DSFormer's code does: at every checkpoint all targets, 50 episodes each; the best target of the best "
        "checkpoint of one run counts",
        training_seeds=1,
        episodes=50,
        checkpoints=20,
        every_target=True,
    ),
}


def last(results: Sequence[Result]) -> Result | None:
    """Return the evaluation of the last checkpoint, at its best target; None where there is none."""
    step = max((result["step"] for result in results), default=0)
    return best([result for result in results if result["step"] == step])


def best(results: Sequence[Result]) -> Result | None:
    """Return the evaluation with the highest mean return; None where there is none."""
    return max(results, key=lambda result: result["mean_return"], default=None)


def over_seeds(results: Sequence[Result | None], reference: tuple[float, float]) -> dict[str, Any] | None:
    """Put one evaluation of each training run together, in normalised scores; None where there is none.

    mean : over runs. std_runs : of the runs' means (sample deviation; None for one run). std_episodes : of the episodes
    within a run, mean over runs.
    """
    low, high = reference
    scores = [100.0 * (np.array(r["returns"]) - low) / (high - low) for r in results if r is not None]
    if not scores:
        return None
    means = [float(s.mean()) for s in scores]
    return {
        "runs": len(scores),
        "mean": float(np.mean(means)),
        "std_runs": float(np.std(means, ddof=1)) if len(means) > 1 else None,
        "std_episodes": float(np.mean([s.std() for s in scores])),
    }
