# SPDX-License-Identifier: MIT
"""Fault campaign: single bits of the circuit flip, or handshakes stick, during decisions, and what notices."""

import argparse
import contextlib
import json
import random
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hw.generate import TOP, read_geometry, verilog
from model.deployed.geometry import Geometry, GeometryError
from sim.build import CACHE, kept_text, run_bench, simulation
from sim.fault_targets import MEMORIES, REGISTERS, Target, targets

HANDSHAKES = (
    ("core.walker", "fetch_valid"),
    ("core.walker", "tail_open"),
    ("core.sequencer", "running"),
    ("core.lanes", "draining"),
    ("core.window", "gathering"),
    ("core.window", "emitting"),
)
"""Registers that say whether something is there, held at either value from one cycle on until the decision ends."""

POLICY = ("weights", "other policy memory")

STUCK = "stuck handshakes"

WAYS = {"read-back": "read_back", "signature": "signature", "watchdog": "watchdog", "status": "flag"}
"""Column -> field: what can notice a fault; several can."""

COLUMNS = ("faults", "no effect", *WAYS, "silent", "wrong action")
"""Silent: noticed by none of them, although an action was wrong. Wrong action: noticed or not."""


def plan(found: list[Target], each: int, seed: int) -> list[dict[str, Any]]:
    """Draw `each` faults of every class: a bit, uniformly among the class's, and a moment of the decision in 0..1."""
    draw, faults = random.Random(seed), []
    for kind in (*MEMORIES, *REGISTERS):
        of_kind = [target for target in found if target.kind == kind]
        for target in draw.choices(of_kind, [target.total_bits for target in of_kind], k=each) if of_kind else ():
            faults.append(
                {
                    "kind": kind,
                    "path": target.path,
                    "name": target.name,
                    "word": draw.randrange(target.depth) if target.depth else None,
                    "bit": draw.randrange(target.bits),
                    "stuck": None,
                    "memory": kind in POLICY,
                    "moment": draw.random(),
                }
            )
    known = {(".".join(target.path[1:]), target.name): target for target in found}
    for index in range(each):
        place = HANDSHAKES[index % len(HANDSHAKES)]
        if place in known:
            faults.append(
                {
                    "kind": STUCK,
                    "path": known[place].path,
                    "name": known[place].name,
                    "word": None,
                    "bit": 0,
                    "stuck": index // len(HANDSHAKES) % 2,
                    "memory": False,
                    "moment": draw.random(),
                }
            )
    return faults


def run(geometry: Geometry, each: int, seed: int) -> list[dict[str, Any]]:
    """Run the campaign; return every fault with what was seen of it. Raises `GeometryError`."""
    geometry.require_circuit()
    text = kept_text(f"accelerator|{geometry.to_json()}", lambda: verilog(geometry))
    folder = simulation("with every register in reach", text, TOP, visible={"*": "*"})
    with tempfile.TemporaryDirectory(prefix="faults-", dir=CACHE) as scratch:
        file = Path(scratch) / "plan.json"
        faults = plan(list(targets(text)), each, seed)
        file.write_text(json.dumps(faults))
        done = file.with_suffix(".done")
        done.touch()
        with shown(done, len(faults)):
            run_bench(
                *(folder, TOP, "sim.bench_faults", r"\.faults$", 1),
                geometry=geometry.to_json(),
                seed=str(seed),
                plan=str(file),
            )
        return [json.loads(line) for line in done.read_text().splitlines()]


@contextlib.contextmanager
def shown(done: Path, total: int) -> Iterator[None]:
    """Show how many lines a file has, while another process writes them."""
    ended = threading.Event()

    def watch() -> None:
        with tqdm(total=total, unit="fault", disable=None, leave=False) as bar:
            while not ended.wait(0.5):
                bar.update(done.read_text().count("\n") - bar.n)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def counts(faults: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Return the columns of the table for some faults."""
    row = dict.fromkeys(COLUMNS, 0)
    for fault in faults:
        noticed = [column for column, way in WAYS.items() if fault[way]]
        silent = "silent" if fault["wrong"] else "no effect"
        for column in ("faults", *(noticed or [silent]), *(["wrong action"] if fault["wrong"] else [])):
            row[column] += 1
    return row


def table(faults: list[dict[str, Any]]) -> str:
    """Return the table as Markdown, a row per class."""
    kinds = list(dict.fromkeys(fault["kind"] for fault in faults))
    lines = [f"| what is hit | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    for kind in (*kinds, "all"):
        row = counts(fault for fault in faults if kind in (fault["kind"], "all"))
        lines.append(f"| {kind} | {' | '.join(str(row[column]) for column in COLUMNS)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sim.faults",
        description="Flip bits of the simulated circuit and hold handshakes, one fault in a decision of an episode, "
        "and print what notices: the read-back of the policy (host/scrub.py), residual signatures beside the golden "
        "network's, the watchdog, or a STATUS bit.",
    )
    parser.add_argument("--geometry", default="TINY", help="preset, or a .json file (default: %(default)s)")
    parser.add_argument("--each", type=int, default=20, help="faults of every class (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of policy, tokens and faults (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every fault to FILE")
    options = parser.parse_args(arguments)
    if options.each < 1:
        parser.error("--each must be at least 1")
    try:
        geometry = read_geometry(options.geometry)
        faults = run(geometry, options.each, options.seed)
    except (GeometryError, AssertionError) as error:
        print(f"sim.faults: {error}", file=sys.stderr)
        return 2
    print(table(faults))
    if options.json:
        result = {"geometry_digest": geometry.digest, "each": options.each, "seed": options.seed, "faults": faults}
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
