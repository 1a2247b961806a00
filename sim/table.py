# SPDX-License-Identifier: MIT
"""Print the README's results table, of the default policy, from the figures that the commands wrote to docs/results."""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from model.deployed import zoo
from model.deployed.artifact import ArtifactError, Policy
from model.policies import MEASURED, cycles, words
from sim.bench import WINDOW_TOKENS

RESULTS = MEASURED.parent

SOURCES = {
    MEASURED.name: "python -m sim.policies",
    "bench.json": "python -m sim.bench --json docs/results/bench.json",
    "report.json": "python -m hw.report --json docs/results/report.json",
}
"""File -> the command that writes it."""


def rows(policy: Policy, results: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield (quantity, value) of the table.

    Raises `KeyError` for a result that lacks a figure, or the policy.
    """
    measurements, bench, report = (results[name] for name in SOURCES)
    measured = measurements[policy.digest]
    aggregate, count = measured["aggregate"], len(measured["episodes"])
    returns, normalised = aggregate["return"], aggregate["normalized_score"]
    reference = policy.score("float")
    if reference is None:
        raise KeyError("float")
    yield (
        f"Return on {measured['environment']}, 4-bit weights, on the simulated circuit",
        f"{returns['mean']:.0f} ± {returns['std']:.0f} ({normalised['mean']:.1f} normalised; {count} episodes)",
    )
    yield (
        "Return of its own float model in PyTorch; mean of the data it learned from",
        (
            f"{reference['mean_return']:.0f} ± {reference['std_return']:.0f} ({reference['episodes']} episodes); "
            f"{policy.provenance['dataset_mean_return']:.0f}"
        ),
    )
    yield (
        "Action words compared with the golden network; different",
        words(measured),
    )
    yield (
        "Cycles per decision: median (minimum to maximum)",
        f"{cycles(measured)}, {measured['cycles_median'] / 100:.1f} µs at 100 MHz",
    )
    yield (
        "Cycles over the lower bound of the row fetches, median",
        f"{bench['ratio_median']:.2f} (bound {bench['bound_median']:,.0f})",
    )
    yield (
        f"PyTorch, batch 1, one CPU thread: one token streamed; {WINDOW_TOKENS}-token window",
        f"{bench['torch_stream_us']:,.0f} µs; {bench['torch_window_us']:,.0f} µs",
    )
    parts = ", ".join(f"{part} {us / 1000:.1f}" for part, us in bench["cpu_us_per_decision"].items())
    yield (
        "Simulated decisions per second of CPU time, each checked; its milliseconds",
        f"{bench['decisions_per_cpu_s']:.0f} ({parts})",
    )
    for family in report["families"].values():
        used = ", ".join(
            f"{family['total'][name]:,g} {name.upper()} ({family['total'][name] / capacity:.0%})"
            for name, capacity in family["capacity"].items()
        )
        yield f"{family['board']}, yosys estimate", used


def table(policy: Policy, results: dict[str, Any]) -> str:
    """Return the table as Markdown."""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows(policy, results))])


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sim.table",
        description="Print the README's results table. Its figures come from: " + "; ".join(SOURCES.values()) + ".",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE too")
    options = parser.parse_args(arguments)
    try:
        results = {name: json.loads((RESULTS / name).read_text()) for name in SOURCES}
        policy = Policy.load(zoo.find(zoo.DEFAULT))
        if policy.digest not in results[MEASURED.name]:
            print(
                f"sim.table: docs/results/{MEASURED.name} lacks {zoo.DEFAULT} as it is shipped; measure it with "
                f"`{SOURCES[MEASURED.name]} {zoo.DEFAULT}`",
                file=sys.stderr,
            )
            return 2
        text = table(policy, results)
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        print(f"sim.table: docs/results/{missing} is missing; make it with `{SOURCES[missing]}`", file=sys.stderr)
        return 2
    except (ArtifactError, KeyError, json.JSONDecodeError) as error:
        print(f"sim.table: a result is not usable ({error!r}); make it again", file=sys.stderr)
        return 2
    print(text)
    if options.json:
        options.json.write_text(json.dumps(dict(rows(policy, results)), indent=2, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
