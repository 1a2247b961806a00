# SPDX-License-Identifier: MIT
"""From a quantised checkpoint to a policy: integers proved to fit, and where they come from."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.deployed.artifact import Policy
from model.deployed.geometry import VERSION
from model.integer.fold import integer_tensors
from model.integer.proof import ExportError, prove
from model.training.checkpoint import Checkpoint, state_digest

SCORE_FIELDS = (
    "kind",
    "digest",
    "environment",
    "target_return",
    "episodes",
    "first_seed",
    "mean_return",
    "std_return",
    "normalised_score",
    "active_rows_per_decision",
    "dense_rows_per_decision",
    "versions",
)


def export(checkpoint: Path, scores: Sequence[Path] = ()) -> tuple[Policy, dict[str, int]]:
    """Return the policy of a quantised checkpoint, scores of `model.evaluate` inside, and the bits it needs.

    Raises `CheckpointError`, `ExportError`, `ArtifactError`.
    """
    saved = Checkpoint.load(checkpoint)
    network, config = saved.network, saved.config
    if config.network != "spiking":
        raise ExportError(
            f"{checkpoint} is the baseline {config.network}, which has no integer form; nothing to export"
        )
    if not network.quantised:
        raise ExportError(f"{checkpoint} is the float network; export the quantised one, usually quant.pt beside it")
    tensors = integer_tensors(network)
    assert network.input_scale is not None
    provenance: dict[str, Any] = {
        "dataset": saved.facts["dataset"],
        "dataset_digest": saved.facts["dataset_digest"],
        "dataset_mean_return": saved.facts["dataset_mean_return"],
        "command": saved.facts["command"],
        "config": json.loads(config.to_json()),
        "seed": config.seed,
        "versions": saved.facts["versions"] | {"spikeloop": VERSION},
        "scores": [_score(path, state_digest(network)) for path in scores],
    }
    policy = Policy(
        geometry=config.geometry,
        tensors=tensors,
        input_mean=saved.normaliser.mean,
        input_std=saved.normaliser.std,
        input_scale=network.input_scale.double().numpy(),
        environment=saved.facts["environment"],
        target_return=config.target_return,
        return_scale=config.return_scale,
        provenance=provenance,
        discrete=saved.facts.get("discrete"),
    )
    return policy, prove(config.geometry, tensors)


def _score(path: Path, digest: str) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text())
        score = {name: result[name] for name in SCORE_FIELDS}
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ExportError(f"{path} is no result of `python -m model.evaluate --json`: {error}") from None
    if score["kind"] == "quantised" and score["digest"] != digest:
        raise ExportError(f"{path} scores another quantised network; evaluate this checkpoint again")
    return score
