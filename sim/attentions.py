# SPDX-License-Identifier: MIT
"""Compare the attentions as circuits: what a policy of each returns, and what its decisions, memory and gates cost.

Returns and cycles were measured on the simulated circuit (`python -m sim.policies`). Look-up tables, block RAM and DSP
are yosys' estimate for the PYNQ-Z2, a minute or two each the first time; energy is modelled on tokens of the policy's
data set, so that has to be there (docs/data.md).

  python -m sim.attentions
  python -m sim.attentions hopper-medium hopper-medium-tssa --json attentions.json --markdown attentions.md
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hw.generate import verilog
from hw.report import DEVICES, per_unit, synthesise
from hw.synthesis import SynthesisError
from model.command import ended
from model.cost.account import measure
from model.cost.subject import Subject
from model.data.environments import DataError
from model.deployed import zoo
from model.deployed.artifact import ArtifactError, Policy
from model.deployed.geometry import CIRCUITS, GeometryError
from model.files import ready, write, write_json
from model.policies import MEASURED, MeasuredError, cycles, geometry_name, measurements, reached

FAMILY = "xc7"
TOKENS = 200
"""Decisions over which energy is modelled."""

Row = dict[str, Any]


def shipped_of_each() -> list[str]:
    """Return the names of the shipped policies of the data sets that have an attention besides PSSA, in its order."""
    every = {name: Policy.load(zoo.find(name)) for name in zoo.shipped() if name != zoo.TEST_POLICY}
    others = {policy.provenance.get("dataset") for policy in every.values() if policy.geometry.attention != "pssa"}
    chosen = [name for name, policy in every.items() if policy.provenance.get("dataset") in others]
    return sorted(chosen, key=lambda name: CIRCUITS.index(every[name].geometry.attention))


def compare(name: str, measured: dict[str, dict[str, Any]]) -> Row:
    """Return one policy's line. Takes minutes where its geometry was not synthesised before.

    Raises `ArtifactError`, `DataError`, `GeometryError`, `MeasuredError`, `SynthesisError`.
    """
    file = zoo.find(name)
    policy = Policy.load(file)
    g = policy.geometry
    flown = measured.get(policy.digest)
    if flown is None:
        raise MeasuredError(
            f"{name} has not flown on the simulated circuit; measure it with `python -m sim.policies {name}`"
        )
    (stream, *_) = measure(Subject.load(file), TOKENS, 0)
    total = per_unit(synthesise(verilog(g), FAMILY))["total"]
    return {
        "policy": name,
        "digest": policy.digest,
        "attention": g.attention,
        "geometry": geometry_name(g),
        "geometry_digest": g.digest,
        "rows_per_cycle": g.rows_per_cycle,
        "return": flown["aggregate"]["return"],
        "float_score": policy.score("float"),
        "checked_actions": flown["checked_actions"],
        "mismatches": flown["mismatches"],
        "active_rows_per_decision": flown["active_rows_per_decision"],
        **{key: flown[key] for key in ("cycles_min", "cycles_median", "cycles_max")},
        "state_bits": g.layers * g.state_bits,
        "modelled_uj": sum(stream.modelled_uj["token"].values()),
        "resources": total,
    }


def lines(rows: Iterable[Row]) -> Iterable[tuple[str, ...]]:
    """Yield the table's lines, the heading first."""
    _, capacity = DEVICES[FAMILY]
    yield (
        *("attention", "geometry", "return on the circuit", "its float model's", "words compared; different"),
        *("rows a decision", "cycles a decision", "state bits", "µJ, modelled", *(name.upper() for name in capacity)),
    )
    for row in rows:
        mean, deviation = row["return"]["mean"], row["return"]["std"]
        yield (
            row["attention"],
            row["geometry"],
            f"{mean:.0f} ± {deviation:.0f}",
            reached(row["float_score"]),
            f"{row['checked_actions']:,}; {row['mismatches']}",
            f"{row['active_rows_per_decision']:,.0f}, {row['rows_per_cycle']} a cycle",
            cycles(row),
            f"{row['state_bits']:,}",
            f"{row['modelled_uj']:.2f}",
            *(f"{row['resources'][n]:,g} ({row['resources'][n] / most:.0%})" for n, most in capacity.items()),
        )


def table(rows: Iterable[Row]) -> str:
    """Return the table as Markdown."""
    heading, *rest = ("| " + " | ".join(line) + " |" for line in lines(rows))
    return "\n".join([heading, "|---" * heading.count(" | ") + "|---|", *rest])


def page(rows: Sequence[Row]) -> str:
    """Return the table with what it says, as a Markdown page."""
    return (
        "# The attentions as circuits\n\n"
        "* Printed by `python -m sim.attentions --markdown docs/results/attentions.md`.\n"
        f"* Policies: {', '.join(row['policy'] for row in rows)} (docs/results/policies.md has their digests).\n"
        "* Return, action words and cycles (median, range): on the simulated circuit. LUT, FF, BRAM36 and DSP: yosys' "
        f"estimate for the\n  {DEVICES[FAMILY][0]}, before place and route. Nothing was measured on a board.\n"
        f"* Energy: modelled at 45 nm, weights fetched once a token, mean of {TOKENS} decisions (docs/energy.md).\n\n"
        f"{table(rows)}\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sim.attentions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("policies", nargs="*", metavar="NAME", help=f"of {zoo.listing()} (default: those that differ in attention)")
    add("--json", type=Path, metavar="FILE", help="also write the rows to FILE")
    add("--markdown", type=Path, metavar="FILE", help="also write the table as a page to FILE")
    options = parser.parse_args(arguments)
    try:
        ready(options.json, options.markdown)
        measured = measurements(MEASURED)
        names = list(dict.fromkeys(options.policies)) or shipped_of_each()
        rows = [compare(name, measured) for name in tqdm(names, unit="policy", disable=None, leave=False)]
        if options.json:
            write_json(options.json, rows)
        if options.markdown:
            write(options.markdown, page(rows))
    except (
        *(ArtifactError, DataError, GeometryError, MeasuredError, SynthesisError),
        *(OSError, KeyboardInterrupt),
    ) as error:
        return ended(error)
    print(table(rows))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
