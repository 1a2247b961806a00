# SPDX-License-Identifier: MIT
"""Print the shipped policies: where each comes from, what it reaches, what it costs on the circuit.

Scores and weight rows are those inside the artifacts (`python -m model.evaluate`); cycles and compared action words
are measured on the simulated circuit (`python -m sim.policies`) and stand only beside the very artifact that flew.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from model.command import ended
from model.deployed import zoo
from model.deployed.artifact import ArtifactError, Policy
from model.deployed.geometry import Geometry
from model.deployed.presets import PRESETS
from model.files import ready, write, write_json

MEASURED = Path(__file__).resolve().parent.parent / "docs" / "results" / "policies.json"
"""Where `sim.policies` keeps its measurements."""

UNKNOWN = "not measured"

Card = dict[str, Any]


class MeasuredError(ValueError):
    """A file of measurements that cannot be read; the message says what to do."""


def measurements(file: Path) -> dict[str, dict[str, Any]]:
    """Return artifact digest -> measurement, empty where there is no file yet. Raises `MeasuredError`."""
    if not file.exists():
        return {}
    try:
        kept = json.loads(file.read_text())
        digests = {digest: entry["policy_digest"] for digest, entry in kept.items()}
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise MeasuredError(f"{file} holds no measurements ({error!r}); move it away, or measure again") from None
    if wrong := [digest for digest, inside in digests.items() if digest != inside]:
        raise MeasuredError(f"{file} was edited: {wrong[0][:16]} names the measurement of another artifact; restore it")
    return kept


def geometry_name(g: Geometry) -> str:
    """Return a geometry's name among the presets, or the beginning of its digest."""
    return next((name for name, preset in PRESETS.items() if preset == g), g.digest[:12])


def card(name: str, measured: dict[str, dict[str, Any]]) -> Card:
    """Return what is known of a shipped policy, JSON-able. Raises `ArtifactError`."""
    file = zoo.find(name)
    policy = Policy.load(file)
    return {
        "policy": name,
        "test_policy": name == zoo.TEST_POLICY,
        "dataset": policy.provenance.get("dataset"),
        "environment": policy.environment,
        "discrete": policy.discrete,
        "geometry": geometry_name(policy.geometry),
        "geometry_digest": policy.geometry.digest,
        "score": policy.score("quantised"),
        "float_score": policy.score("float"),
        "measured": measured.get(policy.digest),
        "bytes": file.stat().st_size,
        "digest": policy.digest,
    }


def cycles(measurement: dict[str, Any]) -> str:
    """Return the cycles of a decision: median, and in brackets the range."""
    if measurement["cycles_median"] is None:  # it differed at once
        return "none"
    least, most = measurement["cycles_min"], measurement["cycles_max"]
    return f"{measurement['cycles_median']:,.0f} ({least:,} to {most:,})"


def words(measurement: dict[str, Any]) -> str:
    """Return how many action words were compared with the golden network's, and how often they were different."""
    return f"{measurement['checked_actions']:,}; {measurement['mismatches']}"


def reached(score: dict[str, Any] | None) -> str:
    """Return the return of a score and, in brackets, its normalised one."""
    if score is None:
        return "not scored"
    normalised = score["normalised_score"]
    return f"{score['mean_return']:.1f} ± {score['std_return']:.1f}" + (
        "" if normalised is None else f" ({normalised:.1f})"
    )


def flown(*scores: dict[str, Any] | None) -> str:
    """Return episodes and reset seeds of scores, once where they are the same for all."""
    texts = [
        f"{score['episodes']} ({score['first_seed']} to {score['first_seed'] + score['episodes'] - 1})"
        for score in scores
        if score
    ]
    return "; ".join(dict.fromkeys(texts))


def rows(cards: Iterable[Card]) -> Iterable[tuple[str, ...]]:
    """Yield the table's lines, the heading first."""
    yield (
        *("policy", "data set", "environment", "geometry", "return", "float model's", "episodes (seeds)"),
        *("rows a decision", "cycles a decision", "words compared; different", "bytes", "digest"),
    )
    for c in cards:
        score, measured = c["score"], c["measured"]
        active = score and score["active_rows_per_decision"]
        yield (
            c["policy"] + (" (test policy)" if c["test_policy"] else ""),
            c["dataset"] or "unknown",
            c["environment"],
            c["geometry"],
            reached(score),
            reached(c["float_score"]),
            flown(score, c["float_score"]),
            f"{active:,.0f} of {score['dense_rows_per_decision']:,}" if active else "not scored",
            cycles(measured) if measured else UNKNOWN,
            words(measured) if measured else UNKNOWN,
            f"{c['bytes']:,}",
            c["digest"][:16],
        )


def aligned(rows: Iterable[tuple[str, ...]]) -> str:
    """Return a table as Markdown, its columns aligned. rows : the heading first."""
    lines = list(rows)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(f"| {' | '.join(cell.ljust(w) for cell, w in zip(line, widths, strict=True))} |" for line in lines)


def page(cards: Iterable[Card]) -> str:
    """Return the table with what it says, as a Markdown page."""
    return (
        "# Shipped policies\n\n"
        "* Printed by `python -m model.policies --markdown docs/results/policies.md`.\n"
        "* Return: mean ± deviation over episodes, in brackets the normalised score (0 random, 100 expert), of the "
        "integer policy and of its\n  float model, as `python -m model.evaluate` scored them before export.\n"
        "* Rows: weight rows of inputs that spike, mean, of all that the network has.\n"
        "* Cycles (median, range) and action words: on the simulated circuit, by `python -m sim.policies`. Nothing was "
        "measured on a board.\n\n"
        f"{aligned(rows(cards))}\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m model.policies", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all that is known to FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table as a page to FILE")
    options = parser.parse_args(arguments)
    try:
        ready(options.json, options.markdown)
        measured = measurements(MEASURED)
        cards = [card(name, measured) for name in zoo.shipped()]
        if options.json:
            write_json(options.json, cards)
        if options.markdown:
            write(options.markdown, page(cards))
    except (ArtifactError, MeasuredError, OSError) as error:
        return ended(error)
    print(aligned(rows(cards)))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
