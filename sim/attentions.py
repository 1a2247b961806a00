# SPDX-License-Identifier: MIT
"""Print the attentions that are circuits side by side, each as a trained policy that flew on its circuit.

Return, cycles, rows and compared words are those of `python -m sim.policies`, for the very artifact that is shipped.
Resources are yosys' for the PYNQ-Z2 (minutes the first time, kept in build/synthesis), before place and route. State is
what the layers keep of past tokens; energy is modelled at 45 nm (docs/energy.md), nothing was measured on a board.

  python -m sim.attentions --json docs/results/attentions.json --markdown docs/results/attentions.md
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hw.generate import verilog
from hw.report import DEVICES, per_unit, synthesise
from hw.synthesis import SynthesisError
from model.command import ended
from model.cost.account import measure
from model.cost.subject import Subject
from model.data.environments import DataError
from model.deployed import zoo
from model.deployed.artifact import ArtifactError, Policy
from model.files import ready, write, write_json
from model.policies import MEASURED, MeasuredError, aligned, card, cycles, measurements, reached, words

FAMILY = "xc7"
TOKENS = 200
"""Decisions over which energy is modelled."""

POLICIES = ("hopper-medium", "hopper-medium-sssa", "hopper-medium-tssa", "hopper-medium-lrf")
"""One data set, one width; an attention each."""

Row = dict[str, Any]


def row(name: str, measured: dict[str, Row]) -> Row:
    """Return what is known of a shipped policy and its circuit, JSON-able. Synthesises where it was not yet.

    Raises `MeasuredError` for a policy that has not flown, `ArtifactError`, `SynthesisError`, `DataError`.
    """
    file = zoo.find(name)
    policy = Policy.load(file)
    g = policy.geometry
    if policy.digest not in measured:
        raise MeasuredError(f"{name} as it is shipped was not flown; measure it with `python -m sim.policies {name}`")
    stream, *_ = measure(Subject.load(file), TOKENS, 0)
    flown = measured[policy.digest]
    return {
        **{key: value for key, value in card(name, measured).items() if key != "measured"},
        "attention": g.attention,
        "return": flown["aggregate"]["return"],
        **{key: flown[key] for key in ("cycles_min", "cycles_median", "cycles_max", "active_rows_per_decision")},
        **{key: flown[key] for key in ("checked_actions", "mismatches")},
        "resources": per_unit(synthesise(verilog(g), FAMILY))["total"],
        "state_bits": g.layers * g.state_bits,
        "energy_uj": sum(stream.modelled_uj["token"].values()),
    }


def lines(rows: Iterable[Row]) -> Iterable[tuple[str, ...]]:
    """Yield the table's lines, the heading first."""
    capacity = DEVICES[FAMILY][1]
    yield (
        *("attention", "policy", "geometry", "return on the circuit", "float model's", "words compared; different"),
        *("rows a decision", "cycles a decision", *(column.upper() for column in capacity)),
        *("bits of state", "µJ a decision, modelled"),
    )
    for r in rows:
        yield (
            *(r["attention"], r["policy"], r["geometry"], f"{r['return']['mean']:.0f} ± {r['return']['std']:.0f}"),
            *(reached(r["float_score"]), words(r), f"{r['active_rows_per_decision']:,.0f}", cycles(r)),
            *(f"{r['resources'][name]:,g} ({r['resources'][name] / capacity[name]:.0%})" for name in capacity),
            *(f"{r['state_bits']:,}", f"{r['energy_uj']:.3f}"),
        )


def page(rows: Iterable[Row]) -> str:
    """Return the table with what it says, as a Markdown page."""
    return (
        "# Attentions as circuits\n\n"
        "* Printed by `python -m sim.attentions --markdown docs/results/attentions.md`. One trained policy each, one "
        "training seed.\n"
        "* The trainings differ in updates, windows an update and price on rows (`model.training.config.PRESETS`): "
        "this compares\n  circuits and what they cost, not what an attention can learn.\n"
        "* Return, words, rows and cycles (median, range): on the simulated circuit, by `python -m sim.policies`. The "
        "float model's\n  return and, in brackets, its normalised score: by `python -m model.evaluate`.\n"
        f"* LUT, FF, BRAM36, DSP: yosys' estimate for the {DEVICES[FAMILY][0]}, before place and route, and the share "
        "of what it has.\n"
        "* State: all that the layers keep of past tokens. Energy: modelled at 45 nm, with memory. Nothing was "
        "measured on a board.\n\n"
        f"{aligned(lines(rows))}\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sim.attentions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("policies", nargs="*", metavar="NAME", help=f"shipped policies (default: {', '.join(POLICIES)})")
    add("--json", type=Path, metavar="FILE", help="also write all figures to FILE")
    add("--markdown", type=Path, metavar="FILE", help="also write the table as a page to FILE")
    options = parser.parse_args(arguments)
    try:
        ready(options.json, options.markdown)
        measured = measurements(MEASURED)
        rows = []
        for name in dict.fromkeys(options.policies or POLICIES):
            print(f"{name}: synthesis and energy ...", file=sys.stderr, flush=True)
            rows.append(row(name, measured))
        if options.json:
            write_json(options.json, rows)
        if options.markdown:
            write(options.markdown, page(rows))
    except (ArtifactError, DataError, MeasuredError, SynthesisError, OSError, KeyboardInterrupt) as error:
        return ended(error)
    print(aligned(lines(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
