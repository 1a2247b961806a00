# SPDX-License-Identifier: MIT
"""The score of a checkpoint, in PyTorch, or of a policy artifact, on the golden network, in its environment."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from model.data.offline import Normaliser, normalised_score
from model.deployed.artifact import Policy
from model.network.product import unrounded
from model.scores.rollout import Brain, Effort, GoldenBrain, RecomputeBrain, StreamBrain, run
from model.training.checkpoint import Checkpoint, state_digest


def brain_of(saved: Checkpoint, effort: Effort | None = None) -> Brain:
    """Return what flies a checkpoint: its stream, or a window that is computed again for every decision."""
    if saved.config.inference == "stream":
        return StreamBrain(saved.network, effort)
    return RecomputeBrain(saved.network, saved.config.length)


@unrounded()
def evaluate(
    file: Path, episodes: int, seed: int, target_return: float | None, progress: bool = False
) -> dict[str, Any]:
    """Run episodes with reset seeds seed, seed + 1, ... and return the scores with all they depend on.

    target_return None takes the training's; progress shows a bar. Raises `CheckpointError`, `ArtifactError`,
    `DataError`.
    """
    effort = Effort()
    brain: Brain
    if file.suffix == ".safetensors":
        policy = Policy.load(file)
        normaliser = Normaliser(policy.input_mean, policy.input_std, policy.return_scale)
        brain, environment, kind, digest = GoldenBrain(policy, effort), policy.environment, "golden", policy.digest
        trained_for, dataset, dense = policy.target_return, policy.provenance.get("dataset"), policy.geometry
        discrete, delayed = policy.discrete, policy.delayed
    else:
        saved = Checkpoint.load(file)
        normaliser, environment, digest = saved.normaliser, saved.facts["environment"], state_digest(saved.network)
        trained_for, dataset, dense = saved.config.target_return, saved.facts["dataset"], saved.config.geometry
        discrete, delayed = saved.facts.get("discrete", False), saved.config.delayed
        kind = "quantised" if saved.network.quantised else "float"
        brain = brain_of(saved, effort)
    target = trained_for if target_return is None else target_return
    seeds = range(seed, seed + episodes)
    done = run(brain, environment, normaliser, target, seeds, delayed=delayed, discrete=discrete, progress=progress)
    returns = [sum(episode.rewards) for episode in done]
    mean = float(np.mean(returns))
    per_layer = (4 + 2 * dense.mlp_ratio) * dense.d_model
    return {
        "kind": kind,
        "digest": digest,
        "environment": environment,
        "dataset": dataset,
        "target_return": target,
        "episodes": episodes,
        "first_seed": seed,
        "mean_return": mean,
        "std_return": float(np.std(returns)),
        "normalised_score": normalised_score(environment, mean),
        "mean_length": float(np.mean([len(episode.rewards) for episode in done])),
        "returns": returns,
        **effort.per_decision(),
        "dense_rows_per_decision": dense.layers * per_layer,
        "versions": {name: version(name) for name in ("torch", "numpy", "gymnasium", "mujoco")},
    }
