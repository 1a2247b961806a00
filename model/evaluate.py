# SPDX-License-Identifier: MIT
"""Score a checkpoint (in PyTorch) or a policy artifact (on the golden network) in its environment.

python -m model.evaluate runs/hopper/quant.pt --json runs/hopper/quant.json
python -m model.evaluate model/policies/hopper-medium.safetensors --episodes 30 --seed 1000
"""

import argparse
import hashlib
import math
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.artifact import ArtifactError, Policy
from model.checkpoint import Checkpoint, CheckpointError
from model.command import check_least, ended
from model.data import DataError, Normaliser, normalised_score
from model.files import ready, write_json
from model.network import Network
from model.product import unrounded
from model.rollout import Brain, Effort, GoldenBrain, RecomputeBrain, StreamBrain, run


def state_digest(network: Network) -> str:
    """SHA-256 over a network's parameters and buffers, hexadecimal: says which network a score belongs to."""
    state = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        state.update(name.encode())
        state.update(tensor.contiguous().numpy().tobytes())
    return state.hexdigest()


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
    discrete = None  # what an artifact's actions were is up to its environment
    if file.suffix == ".safetensors":
        policy = Policy.load(file)
        normaliser = Normaliser(policy.input_mean, policy.input_std, policy.return_scale)
        brain, environment, kind, digest = GoldenBrain(policy, effort), policy.environment, "golden", policy.digest
        trained_for, dataset, dense = policy.target_return, policy.provenance.get("dataset"), policy.geometry
        delayed = policy.delayed
    else:
        saved = Checkpoint.load(file)
        normaliser, environment, digest = saved.normaliser, saved.facts["environment"], state_digest(saved.network)
        trained_for, dataset, dense = saved.config.target_return, saved.facts["dataset"], saved.config.geometry
        discrete, delayed = saved.facts.get("discrete", False), saved.config.delayed
        kind = "quantised" if saved.network.quantised else "float"
        if saved.config.inference == "stream":
            brain = StreamBrain(saved.network, effort)
        else:
            brain = RecomputeBrain(saved.network, saved.config.length)
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
        "active_rows_per_decision": effort.active_rows / effort.decisions if effort.decisions else None,
        "dense_rows_per_decision": dense.layers * per_layer,
        "versions": {name: version(name) for name in ("torch", "numpy", "gymnasium", "mujoco")},
    }


def sentence(result: dict[str, Any]) -> str:
    """Return a result in one line."""
    score = result["normalised_score"]
    rows = result["active_rows_per_decision"]
    return (
        f"{result['kind']}: return {result['mean_return']:.1f} +- {result['std_return']:.1f}"
        + ("" if score is None else f" (normalised {score:.1f})")
        + f", {result['episodes']} episodes of {result['environment']}, target {result['target_return']:g}"
        + f", seeds {result['first_seed']} to {result['first_seed'] + result['episodes'] - 1}"
        + ("" if rows is None else f", {rows:.0f} of {result['dense_rows_per_decision']} weight rows a decision")
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m model.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="checkpoint (.pt) or policy artifact (.safetensors)")
    parser.add_argument("--episodes", type=int, default=20, help="episodes (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="reset seed of the first episode (default 0)")
    parser.add_argument("--target-return", type=float, help="return to ask for (default: what it was trained for)")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    options = parser.parse_args(arguments)
    check_least(parser, options, episodes=1, seed=0, threads=1)
    if options.target_return is not None and not math.isfinite(options.target_return):
        parser.error("--target-return must be a finite number")
    torch.set_num_threads(options.threads)
    try:
        ready(options.json)
        progress = os.environ.get("TERM") != "dumb"
        result = evaluate(options.file, options.episodes, options.seed, options.target_return, progress)
        print(sentence(result))  # noqa: T201
        if options.json:
            write_json(options.json, result)
    except (CheckpointError, ArtifactError, DataError, OSError, KeyboardInterrupt) as error:
        return ended(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
