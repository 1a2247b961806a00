# SPDX-License-Identifier: MIT
"""Score a checkpoint (in PyTorch) or a policy artifact (on the golden network) in its environment.

Episodes are fixed by their seeds: after an interruption the same command flies them again, with the same returns.

python -m model.evaluate runs/hopper/quant.pt --json runs/hopper/quant.json
python -m model.evaluate hopper-medium --episodes 30 --seed 1000
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from model.command import check_least, ended
from model.data.offline import DataError
from model.deployed import zoo
from model.deployed.artifact import ArtifactError
from model.files import ready, write_json
from model.scores.evaluation import evaluate
from model.training.checkpoint import CheckpointError


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
    names = f"or a shipped policy's name: {zoo.listing()}"
    parser.add_argument("file", help=f"checkpoint (.pt), policy artifact (.safetensors), {names}")
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
        result = evaluate(zoo.find(options.file), options.episodes, options.seed, options.target_return, progress)
        print(sentence(result))  # noqa: T201
        if options.json:
            write_json(options.json, result)
    except (CheckpointError, ArtifactError, DataError, OSError, KeyboardInterrupt) as error:
        return ended(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
