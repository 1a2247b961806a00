# SPDX-License-Identifier: MIT
"""Export a quantised checkpoint as a policy artifact, after proving that none of its sums can overflow the circuit.

With --nir also, or only, as a graph of the Neuromorphic Intermediate Representation (docs/nir.md); such a graph can be
made of an artifact too.

  python -m model.export runs/hopper/quant.pt --out hopper.safetensors --scores runs/hopper/quant.json
  python -m model.export hopper-medium --nir hopper-medium.nir
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from model.command import ended
from model.deployed import zoo
from model.deployed.artifact import ArtifactError, Policy
from model.files import ready
from model.integer import nir_graph
from model.integer.nir_graph import NirError
from model.integer.proof import ExportError
from model.training.checkpoint import CheckpointError
from model.training.deployment import export

ARTIFACT = ".safetensors"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "checkpoint",
        help="quantised checkpoint, e.g. runs/hopper/quant.pt; for --nir also an artifact, or a shipped policy's name: "
        + zoo.listing(),
    )
    parser.add_argument("--out", type=Path, help=f"artifact to write ({ARTIFACT})")
    parser.add_argument("--nir", type=Path, help="NIR graph to write (.nir, HDF5); needs the package nir")
    parser.add_argument(
        "--scores",
        type=Path,
        nargs="*",
        default=[],
        help="results of `python -m model.evaluate --json` to store inside",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not (options.out or options.nir):
        parser.error("nothing to write: give --out for an artifact, --nir for a NIR graph, or both")
    if options.out and options.out.suffix != ARTIFACT:
        parser.error(f"--out must end in {ARTIFACT}, not {options.out.name}: other commands know artifacts by it")
    try:
        given = zoo.find(options.checkpoint)
    except ArtifactError as error:
        return ended(error)
    deployed = given.suffix == ARTIFACT
    if deployed and (options.out or options.scores):
        parser.error(f"{given.name} is an artifact already: only --nir can be made of it")
    try:
        if options.nir:
            nir_graph.require_nir()
        ready(options.out, options.nir)
        policy, needed = (Policy.load(given), {}) if deployed else export(given, options.scores)
        graph = nir_graph.to_nir(policy) if options.nir else None
        if options.out:
            policy.save(options.out)
        if graph:
            nir_graph.save(graph, options.nir)
    except (CheckpointError, ExportError, ArtifactError, NirError, OSError) as error:
        return ended(error)
    for what, bits in needed.items():
        print(f"proved: no {what} needs more than {bits} bits")  # noqa: T201
    for path in filter(None, (options.out, options.nir)):
        print(f"{path}: {path.stat().st_size} bytes, digest {policy.digest[:16]}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
