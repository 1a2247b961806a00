# SPDX-License-Identifier: MIT
"""Fly the shipped policies on the simulated circuit, every decision checked, and keep what was measured.

Each policy flies the same number of episodes. What it gave (returns, cycles, weight rows, action words compared with
the golden network's) is kept under its artifact's digest as soon as it has flown them all: stop at any time, and the
next call goes on with the policies that are left. `python -m model.policies` prints the table.

  python -m sim.policies
  python -m sim.policies hopper-medium --again
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from host.accelerator import AcceleratorError
from host.agent import AgentError
from host.bus import BusError
from host.check import Difference, GoldenCheck
from host.environment import UnsuitableEnvironment
from host.episode import Episode, fly
from host.run_folder import summarise
from host.verilated import BuildError
from model import files
from model.command import check_least, ended
from model.deployed import zoo
from model.deployed.artifact import ArtifactError, Policy
from model.deployed.geometry import GeometryError
from model.policies import MEASURED, MeasuredError, cycles, measurements, words
from sim.flight import flight, tell

EXPECTED = (AcceleratorError, AgentError, ArtifactError, BuildError, BusError, GeometryError, UnsuitableEnvironment)
"""What keeps one policy from being measured, in a sentence; the others go on."""


def measure(name: str, policy: Policy, seeds: Sequence[int]) -> dict[str, Any]:
    """Fly an episode per reset seed and return `summarise`'s facts of them, with the policy's name.

    At a decision that is not the golden network's it tells so and stops; `mismatches` is then 1. Raises `EXPECTED`.
    """
    flown: list[Episode] = []
    check = GoldenCheck(policy)
    with flight(policy) as ready:
        try:
            for number, seed in enumerate(seeds, 1):
                flown.append(Episode(seed))
                label = f"{name}, episode {number} of {len(seeds)}"
                with tqdm(total=ready.length, desc=label, unit="step", disable=None, leave=False) as bar:
                    fly(flown[-1], *ready, check, lambda _, bar=bar: bar.update())
        except Difference as error:
            tell(f"sim.policies: {name}, seed {flown[-1].seed}: {error}")
    return {
        "policy": name,
        **summarise(flown, policy, policy.environment, policy.target_return, "verilated", False),
    }


def covers(entry: dict[str, Any] | None, seeds: Sequence[int]) -> bool:
    """Whether a measurement is of these episodes, and sound."""
    return entry is not None and not entry["mismatches"] and [e["seed"] for e in entry["episodes"]] == list(seeds)


def run(names: Sequence[str], seeds: Sequence[int], again: bool, file: Path) -> bool:
    """Measure the policies that `file` lacks, one after the other; return whether all is well.

    A measurement replaces those of the same name. Raises `MeasuredError`, `WriteError`.
    """
    well = True
    for name in names:
        kept = measurements(file)
        try:
            policy = Policy.load(zoo.find(name))
            if not again and covers(kept.get(policy.digest), seeds):
                tell(f"{name}: measured before")
                continue
            entry = measure(name, policy, seeds)
        except EXPECTED as error:
            tell(f"sim.policies: {name}: {error}")
            well = False
            continue
        kept = {digest: other for digest, other in kept.items() if other["policy"] != name}
        files.write_json(file, dict(sorted({**kept, policy.digest: entry}.items(), key=lambda item: item[1]["policy"])))
        well = well and not entry["mismatches"]
        print(
            f"{name}: mean return {entry['return']:.1f} of {len(entry['episodes'])} episodes, {cycles(entry)} cycles a "
            f"decision, action words compared; different: {words(entry)}"
        )
    return well


def shipped(name: str) -> str:
    """Convert an argument. Raises `ArgumentTypeError` for a name that is no shipped policy's."""
    if name not in zoo.shipped():
        raise argparse.ArgumentTypeError(f"{name} is not among the shipped policies: {zoo.listing()}")
    return name


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sim.policies", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("policies", nargs="*", type=shipped, metavar="NAME", help=f"of {zoo.listing()} (default: all of them)")
    add("--episodes", type=int, default=20, help="of each policy (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the first episode; the next ones count up (default: %(default)s)")
    add("--again", action="store_true", help="measure anew what was measured before, after a change of the circuit")
    add(
        "--json",
        type=Path,
        default=MEASURED,
        metavar="FILE",
        help="where it is kept (default: docs/results/policies.json)",
    )
    options = parser.parse_args(arguments)
    check_least(parser, options, episodes=1, seed=0)
    try:
        files.ready(options.json)
        seeds = range(options.seed, options.seed + options.episodes)
        well = run(list(dict.fromkeys(options.policies)) or zoo.shipped(), seeds, options.again, options.json)
    except (MeasuredError, OSError, KeyboardInterrupt) as error:
        return ended(error, f"stopped; {options.json} keeps the policies that had flown all their episodes")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
