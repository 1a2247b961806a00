# SPDX-License-Identifier: MIT
"""Prove what a deployed network computes between observation and action, or name what it should not.

Watches every tensor operation that PyTorch executes for some decisions on real tokens and that reaches an action
(`model.cost.observer`). In the deployed network, between embedding and head, only sums of weights selected by spikes,
ANDs, gates, comparisons, shifts, additions and saturation may remain. The embedding (a multi-bit token times weights)
and the head (multi-bit membranes times weights) multiply, which the circuit does on a few multipliers, and the head
looks its actions up in the policy's table.

  python -m model.audit hopper-medium
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.command import check_least, ended
from model.cost.observer import Operation
from model.cost.operations import FLOAT, LOOKUP, MOVE, MULTIPLY, REAL, UNKNOWN
from model.cost.subject import Observation, Subject
from model.data.environments import DataError
from model.deployed import zoo
from model.deployed.artifact import ACTION_SCALE, ArtifactError
from model.deployed.geometry import Geometry
from model.deployed.golden import GoldenNetwork
from model.files import ready, write_json
from model.training.checkpoint import CheckpointError

MULTIPLIERS = ("embed", "gate", "head")
"""The layers that may multiply."""


@dataclass
class Row:
    """One kind of work in one layer, per decision.

    dense : elementary operations; real : those of them whose spike is there; multiplications : those that are ones.
    bits : widths of two factors, the largest seen; wrong : what should not be there, since which operation.
    """

    layer: str
    kind: str
    operations: list[str]
    dense: float = 0.0
    real: float = 0.0
    multiplications: float = 0.0
    bits: tuple[int, int] = (0, 0)
    wrong: list[str] = field(default_factory=list)
    wrong_since: int = 0


@dataclass
class Audit:
    """The rows of a network, and the sentence that says what holds."""

    rows: list[Row]
    verdict: str

    @property
    def holds(self) -> bool:
        """Whether nothing is there that should not be."""
        return not any(row.wrong for row in self.rows)


def fault(operation: Operation, g: Geometry) -> str:
    """Return why an operation should not be in the deployed network, empty where it may."""
    verdict, room = operation.verdict, _factors(operation.layer, g)
    if verdict.kind in (UNKNOWN, FLOAT):
        return f"{operation.name} {verdict.complaint}"
    if verdict.kind == MULTIPLY and not room:
        return f"{operation.name} multiplies {operation.operands}"
    if verdict.level >= REAL and verdict.kind != MOVE:
        return f"{operation.name} gives reals from {operation.operands}"
    if verdict.kind == MULTIPLY and any(b > most for b, most in zip(sorted(verdict.bits), room, strict=True)):
        return f"{operation.name} multiplies {verdict.bits} bits, more than the geometry's {room}"
    if verdict.kind == LOOKUP and operation.layer != "head":
        return f"{operation.name} looks something up outside of the head"
    return ""


def _factors(layer: str, g: Geometry) -> tuple[int, ...]:
    """Return the widths of the factors that a layer may multiply, the narrower first; none where it may not."""
    widths = {
        "embed": (g.input_bits, g.dense_weight_bits),
        "head": (g.step_sum_bits, g.dense_weight_bits),
        "gate": (g.membrane_bits, g.weight_bits),
    }
    return tuple(sorted(widths.get(layer.split(".")[-1], ())))


def audit(observation: Observation, g: Geometry) -> Audit:
    """Sort what was executed by layer and kind, and judge it."""
    rows: dict[tuple[str, str], Row] = {}
    for number, operation in enumerate(observation.operations):
        verdict, wrong = operation.verdict, fault(operation, g)
        if verdict.kind == MOVE and not wrong:
            continue
        row = rows.setdefault((operation.layer, verdict.kind), Row(operation.layer, verdict.kind, []))
        if operation.name not in row.operations:
            row.operations.append(operation.name)
        row.dense += verdict.dense
        row.real += verdict.dense if verdict.real is None else verdict.real
        if verdict.kind == MULTIPLY:
            row.multiplications += verdict.dense
            row.bits = max(row.bits, tuple(sorted(verdict.bits)))
        if wrong and wrong not in row.wrong:
            row.wrong_since = row.wrong_since if row.wrong else number
            row.wrong.append(wrong)
    for row in rows.values():
        row.dense /= observation.decisions
        row.real /= observation.decisions
        row.multiplications /= observation.decisions
    found = sorted(rows.values(), key=lambda row: _place(row.layer))
    return Audit(found, _verdict(found, g))


def _place(layer: str) -> tuple[int, str]:
    first = {"network": 0, "embed": 1, "head": 3}
    return first.get(layer.split(".")[0], 2), layer


def _verdict(rows: list[Row], g: Geometry) -> str:
    # the first is a cause, later ones may be its consequences
    wrong = sorted((row for row in rows if row.wrong), key=lambda row: row.wrong_since)
    if wrong:
        named = "; ".join(f"{row.layer}: {row.wrong[0]}" for row in wrong[:3])
        rest = f"; and {len(wrong) - 3} more rows above" if len(wrong) > 3 else ""
        return f"not a network of selected sums: {named}{rest}"
    count = {name: sum(row.multiplications for row in rows if row.layer.split(".")[-1] == name) for name in MULTIPLIERS}
    gates = f" but {count['gate']:,.0f} of {g.membrane_bits} x {g.weight_bits} bits in step gates" if g.adaptive else ""
    return (
        f"between embedding and head no multiplication{gates}: sums of selected integers, ANDs, gates, comparisons, "
        f"shifts, additions and saturation; left are {count['embed']:,.0f} multiplications of {g.input_bits} x "
        f"{g.dense_weight_bits} bits in the embedding, {count['head']:,.0f} of {g.step_sum_bits} x "
        f"{g.dense_weight_bits} bits in the head, and its action table"
    )


def table(rows: Iterable[Row]) -> str:
    """Return the rows as text."""
    lines = [("layer", "work", "PyTorch's operations", "dense", "real", "multiplications")]
    for row in rows:
        left = f"{row.multiplications:,.0f} ({row.bits[0]} x {row.bits[1]} bits)" if row.multiplications else "0"
        names = " ".join(sorted(row.operations))
        lines.append((row.layer, row.kind, names, f"{row.dense:,.0f}", f"{row.real:,.0f}", left))
    width = [max(len(line[column]) for line in lines) for column in range(6)]
    text = []
    for row, line in zip([None, *rows], lines, strict=True):
        cells = [c.rjust(w) if i > 2 else c.ljust(w) for i, (c, w) in enumerate(zip(line, width, strict=True))]
        text.append("  ".join(cells).rstrip())
        text.extend(f"    ! {wrong}" for wrong in (row.wrong if row else []))
    return "\n".join(text)


def equals_golden(subject: Subject, tokens: torch.Tensor, actions: torch.Tensor) -> bool:
    """Whether the golden network decides the same on the same tokens."""
    assert subject.policy is not None
    golden = GoldenNetwork(subject.policy)
    words = np.stack([golden.decide(token).action for token in tokens.long().numpy()])
    return bool((actions.double().numpy() * ACTION_SCALE == words).all())


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m model.audit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit code: 0 if the verdict holds, 1 if something else was found, 2 if it could not be looked at",
    )
    names = f"or a shipped policy's name: {zoo.listing()}"
    parser.add_argument("file", help=f"checkpoint (.pt), policy artifact (.safetensors), {names}")
    parser.add_argument("--tokens", type=int, default=32, help="decisions to watch, on one episode (default 32)")
    parser.add_argument("--seed", type=int, default=0, help="of the episode (default 0)")
    parser.add_argument("--json", type=Path, help="also write rows and verdict to this file")
    options = parser.parse_args(arguments)
    check_least(parser, options, tokens=1, seed=0)
    torch.set_num_threads(1)
    try:
        ready(options.json)
        file = zoo.find(options.file)
        subject = Subject.load(file)
        count = options.tokens if subject.streams else options.tokens + subject.length - 1
        tokens, source = subject.tokens(count, options.seed)
        observation = subject.observe(tokens, subject.streams)
        result = audit(observation, subject.geometry)
        equal = subject.policy is None or equals_golden(subject, tokens, observation.actions)
        if options.json:
            content: dict[str, Any] = {
                "file": file.name,
                "kind": subject.kind,
                "digest": subject.policy.digest if subject.policy else None,
                "tokens": source,
                "decisions": observation.decisions,
                "holds": result.holds and equal,
                "equals_golden": equal if subject.policy else None,
                "verdict": result.verdict,
                "rows": [asdict(row) for row in result.rows],
            }
            write_json(options.json, content)
    except (ArtifactError, CheckpointError, DataError, OSError, KeyboardInterrupt) as error:
        return ended(error)
    print(table(result.rows))  # noqa: T201
    print("\ncounts per decision; real: those whose spike was there")  # noqa: T201
    print(f"{file.name} ({subject.kind}), {observation.decisions} decisions on {source}")  # noqa: T201
    if not equal:
        print("FOUND: its actions are not the golden network's")  # noqa: T201
        return 1
    print(f"{'HOLDS' if result.holds else 'FOUND'}: {result.verdict}")  # noqa: T201
    return 0 if result.holds else 1


if __name__ == "__main__":
    sys.exit(main())
