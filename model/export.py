# SPDX-License-Identifier: MIT
"""Export a quantised checkpoint as a policy artifact, after proving that none of its sums can overflow the circuit.

python -m model.export runs/hopper/quant.pt --out hopper.safetensors --scores runs/hopper/quant.json
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.artifact import ArtifactError, Policy
from model.checkpoint import Checkpoint, CheckpointError
from model.evaluate import state_digest
from model.files import ready
from model.fold import integer_tensors
from model.geometry import VERSION, Geometry
from model.golden_attention import shifted

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


class ExportError(ValueError):
    """A network that cannot be deployed; the message says where and why."""


def reach(weight: np.ndarray, low: int = 0, high: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return per row of weight [rows, n] the least and greatest sum over inputs that range over low..high.

    The partial sums of any order of adding, starting from 0, stay between the two (each includes 0).
    """
    extremes = np.stack([weight * low, weight * high])
    return np.minimum(extremes.min(0), 0).sum(1), np.maximum(extremes.max(0), 0).sum(1)


def _sum(extremes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and greatest sum of terms that lie between the ends [2, ...] or are absent."""
    return sum(np.minimum(e.min(0), 0) for e in extremes), sum(np.maximum(e.max(0), 0) for e in extremes)


def attention_reach(g: Geometry, tensors: dict[str, np.ndarray], at: str) -> tuple[np.ndarray, np.ndarray]:
    """Return per channel the least and greatest sum of the attention of layer `at`."""
    if g.attention == "pssa":
        return reach(tensors[f"{at}.window.weight"])
    if g.attention in ("sssa", "tssa"):
        most = g.window * g.d_model * (g.steps if g.attention == "tssa" else 1)
        return np.zeros(1, np.int64), np.array([most])
    top = 1 << (g.dendrite_bits - 1)
    code = np.asarray(tensors[f"{at}.dynamics.readout"], np.int64)
    ends = np.stack([shifted(np.array(end), code, g.least_readout_shift) for end in (-top, top - 1)])
    least, most = _sum(list(np.moveaxis(ends, -1, 0)))
    local_least, local_most = reach(np.asarray(tensors[f"{at}.dynamics.local"], np.int64) << g.local_shift)
    return least + local_least, most + local_most


def dendrite_reach(g: Geometry, tensors: dict[str, np.ndarray], at: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and greatest sum of each dendrite of layer `at` before it saturates."""
    top = 1 << (g.dendrite_bits - 1)
    p = {name: np.asarray(tensors[f"{at}.dynamics.{name}"], np.int64) for name in ("decay", "upper", "lower", "gain")}
    ends = [np.array(end) for end in (-top, top - 1)]
    return _sum(
        [
            np.stack([x - (x >> p["decay"]) for x in ends]),
            np.stack([np.pad(shifted(x, p["upper"]), ((0, 0), (0, 1))) for x in ends]),
            np.stack([np.pad(shifted(x, p["lower"]), ((0, 0), (1, 0))) for x in ends]),
            np.stack([0 * p["gain"], p["gain"]]),
        ]
    )


def prove(g: Geometry, tensors: dict[str, np.ndarray]) -> dict[str, int]:
    """Prove from the real weights that no accumulator, current or LIF membrane outgrows the geometry's widths.

    Returns what is needed -> signed bits, the greatest over channels. Raises `ExportError` naming the first layer that
    does not fit.
    """
    needed: dict[str, int] = {}

    def fits(what: str, name: str, least: np.ndarray, most: np.ndarray, bits: int) -> None:
        low, high = int(least.min()), int(most.max())
        need = 1 + max(high.bit_length(), (-low - 1).bit_length() if low < 0 else 0)
        if need > bits:
            raise ExportError(f"{name}: its {what} can reach {low}..{high}, which needs {need} bits; there are {bits}")
        needed[what] = max(needed.get(what, 0), need)

    def neuron(name: str, least: np.ndarray, most: np.ndarray) -> None:
        fits("current", name, least, most, g.current_bits)
        # |m| stays below 4/3 of the largest |u|; guard bits below the point
        bound = (4 * np.maximum(np.abs(least), np.abs(most)) + 2) // 3 << g.guard_bits
        fits("membrane of a neuron", name, -bound, bound, g.lif_bits)

    half = 1 << (g.input_bits - 1)
    fits("accumulator of the embedding", "embed", *reach(tensors["embed.weight"], -half, half - 1), g.embed_bits)
    for layer in range(g.layers):
        if g.attention == "lrf-dyn":
            dendrites = dendrite_reach(g, tensors, f"layer{layer}")
            fits("sum of a dendrite", f"layer{layer}.dynamics", *dendrites, g.dendrite_sum_bits)
        for part in (*g.projections, "window", "fc1", "proj", "fc2"):
            name = f"layer{layer}.{part}"
            attention = part == "window"
            least, most = (
                attention_reach(g, tensors, f"layer{layer}") if attention else reach(tensors[f"{name}.weight"])
            )
            fits("accumulator", name, least, most, g.accumulator_bits)
            if part not in ("proj", "fc2"):
                bias = tensors.get(f"{name}.bias", 0)
                neuron(name, np.minimum(least + bias, 0), np.maximum(most + bias, 0))
    top = 1 << (g.membrane_bits - 1)
    neuron("entry", np.array([-top]), np.array([top - 1]))
    least, most = reach(tensors["head.weight"], -top * g.steps, (top - 1) * g.steps)
    bias = tensors["head.bias"]
    fits("accumulator of the head", "head", least + np.minimum(bias, 0), most + np.maximum(bias, 0), g.head_bits)
    return needed


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m model.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="quantised checkpoint, e.g. runs/hopper/quant.pt")
    parser.add_argument("--out", type=Path, required=True, help="artifact to write (.safetensors)")
    parser.add_argument(
        "--scores",
        type=Path,
        nargs="*",
        default=[],
        help="results of `python -m model.evaluate --json` to store inside",
    )
    options = parser.parse_args(arguments)
    if options.out.suffix != ".safetensors":
        parser.error(f"--out must end in .safetensors, not {options.out.name}: other commands know artifacts by it")
    try:
        ready(options.out)
        policy, needed = export(options.checkpoint, options.scores)
        policy.save(options.out)
    except (CheckpointError, ExportError, ArtifactError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    for what, bits in needed.items():
        print(f"proved: no {what} needs more than {bits} bits")  # noqa: T201
    print(f"{options.out}: {options.out.stat().st_size} bytes, digest {policy.digest[:16]}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
