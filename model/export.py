# SPDX-License-Identifier: MIT
"""Export a quantised checkpoint as a policy artifact, after proving that none of its sums can overflow the circuit.

python -m model.export runs/hopper/quant.pt --out hopper.safetensors --scores runs/hopper/quant.json
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from model.deployed.artifact import ArtifactError
from model.files import ready
from model.integer.proof import ExportError
from model.training.checkpoint import CheckpointError
from model.training.deployment import export


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
