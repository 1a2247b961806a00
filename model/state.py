# SPDX-License-Identifier: MIT
"""Print what each form of attention keeps of the past tokens while it streams, in bits (docs/attention.md)."""

import argparse
import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from model.deployed.geometry import ATTENTIONS, Geometry, GeometryError
from model.deployed.presets import PRESETS, preset
from model.files import WriteError, write_json

SIZES = ("d_model", "layers", "steps", "window", "dendrites")
FLOAT_BITS = 32


@dataclass(frozen=True)
class Row:
    """A form of attention: what a layer keeps of the past, how many bits that is, and what makes it grow."""

    form: str
    keeps: str
    bits_per_layer: int
    grows_with: str


def forms(geometry: Geometry, dendrites: int, tokens: int, episode: int) -> list[Row]:
    """Return the papers' forms, then what this network keeps.

    tokens : of the papers' window, all of it kept. episode : longest one in tokens; a sum that a token raises by one at
    most needs as many bits as this number.
    """
    g, sum_bits = geometry, episode.bit_length()
    word = g.steps * g.d_model
    dynamics = dataclasses.replace(g.with_attention("lrf-dyn"), dendrites=dendrites)
    log, reach = f"bits of a sum, {sum_bits} at {episode} tokens", dynamics.reach
    result = [
        Row(
            f"SSSA, TSSA: the papers', {tokens} tokens",
            f"{2 * (tokens - 1)} words of k and v",
            2 * (tokens - 1) * word,
            "2 words a token",
        ),
        Row("SSSA, SSA: the papers', causal sum", "T x d x d sums of k^T v", word * g.d_model * sum_bits, log),
        Row("TSSA: causal sum", "Td x Td sums of k^T v", word * word * sum_bits, log),
        Row(
            "LRF-SSA: the paper's, causal sum",
            f"T x d x d sums of k^T v, {reach} words",
            word * (g.d_model * sum_bits + reach),
            log,
        ),
        Row(
            "LRF-Dyn: the paper's, in single precision",
            f"k = {dendrites} numbers a channel, {reach} words",
            word * (dendrites * FLOAT_BITS + reach),
            "nothing",
        ),
    ]
    past = g.window - 1
    kept = {
        "pssa": f"{past} words of k AND v",
        "sssa": f"{2 * past} words",
        "tssa": f"{2 * past} words",
        "lrf-ssa": f"{past + g.with_attention('lrf-ssa').reach} words",
        "lrf-dyn": f"k = {dendrites} numbers of {g.dendrite_bits} bits a channel, {reach} words",
    }
    for attention in ATTENTIONS:
        own = dynamics if attention == "lrf-dyn" else g.with_attention(attention)
        span = "" if attention == "lrf-dyn" else f", S {g.window}"
        result.append(Row(f"{attention}{span}: ours", kept[attention], own.state_bits, "nothing"))
    return result


def table(rows: list[Row], geometry: Geometry) -> str:
    """Return the rows as Markdown."""
    g = geometry
    lines = [
        f"d_model {g.d_model}, {g.layers} layers, T {g.steps}; a word (a bit a channel, step): {g.steps * g.d_model}.",
        "",
        "| form | keeps, per layer | bits per layer | bits of all layers | grows with the episode by |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.form} | {row.keeps} | {row.bits_per_layer:,} | {row.bits_per_layer * g.layers:,} | {row.grows_with} |"
        for row in rows
    ]
    return "\n".join(lines)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m model.state",
        description="Print the bits that streaming keeps per layer for every form of attention, at a geometry's sizes.",
    )
    parser.add_argument("--geometry", default="HOPPER_Z2", help=f"preset: {', '.join(PRESETS)} (default: %(default)s)")
    for name in SIZES:
        parser.add_argument(f"--{name.replace('_', '-')}", type=_positive, help=f"replaces the geometry's {name}")
    parser.add_argument("--tokens", type=_positive, default=20, help="of the papers' window (default: %(default)s)")
    parser.add_argument("--episode", type=_positive, default=1000, help="tokens of the longest one (default: 1000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table to FILE")
    options = parser.parse_args(arguments)
    sizes = {name: getattr(options, name) for name in SIZES if getattr(options, name) is not None}
    try:
        base = preset(options.geometry)
        dendrites = sizes.pop("dendrites", base.dendrites)
        geometry = dataclasses.replace(base, **sizes)
        rows = forms(geometry, dendrites, options.tokens, options.episode)
        if options.json:
            facts = {"geometry": json.loads(geometry.to_json()), "dendrites": dendrites, "tokens": options.tokens}
            facts |= {"episode": options.episode, "forms": [dataclasses.asdict(row) for row in rows]}
            write_json(options.json, facts)
    except (GeometryError, WriteError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    print(table(rows, geometry))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
