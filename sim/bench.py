# SPDX-License-Identifier: MIT
"""Benchmark of the shipped policy on the simulated circuit: cycles, their lower bound, and PyTorch beside them."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from host.environment import UnsuitableEnvironment
from host.episode import Episode, fly
from host.verilated import BuildError
from hw.registers import UNITS
from model.deployed import zoo
from model.deployed.artifact import ArtifactError, Policy
from model.deployed.geometry import GeometryError
from model.deployed.golden import GoldenNetwork, fetch_cycles
from model.integer.fold import from_policy
from sim.flight import flight

WINDOW_TOKENS = 20
"""Tokens the PyTorch model recomputes per decision without a spike cache: the authors' context."""

TORCH_RUNS = 200


def median_us(act: Callable[[], object]) -> float:
    """Return the median microseconds of a call, after a few to warm up."""
    seconds = []
    for run in range(TORCH_RUNS + 10):
        start = time.perf_counter()
        act()
        if run >= 10:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1e6


def torch_latency(policy: Policy, tokens: np.ndarray) -> dict[str, float]:
    """Return batch-1 microseconds of the PyTorch evaluation mode on one thread: a token streamed, a window recomputed.

    tokens [decisions, inputs], at least `WINDOW_TOKENS` of them.
    """
    torch.set_num_threads(1)
    network = from_policy(policy)
    inputs = torch.tensor(tokens, dtype=torch.float32)
    stream = network.stream()
    window = inputs[None, -WINDOW_TOKENS:]
    with torch.no_grad():
        return {
            "torch_stream_us": median_us(lambda: stream.decide(inputs[-1:])),
            "torch_window_us": median_us(lambda: network(window)),
        }


def measure(policy: Policy, seed: int) -> dict[str, object]:
    """Fly one episode on the simulated circuit, then replay it on the golden network for the bound.

    Raises `BuildError`, `UnsuitableEnvironment`; `RuntimeError` if an action is not the golden network's.
    """
    g = policy.geometry
    episode = Episode(seed)
    with flight(policy) as ready, tqdm(desc="episode", unit="step", disable=None, leave=False) as bar:
        bar.reset(ready.length)
        fly(episode, *ready, None, lambda _: bar.update())

    trace = GoldenNetwork(policy).decide_all(np.stack([step.token for step in episode.steps]))
    if not np.array_equal(trace.action, np.stack([step.decision.words for step in episode.steps])):
        raise RuntimeError("the circuit and the golden network part; run host/run_episode.py --check to see where")
    rows = zip(*trace.active_rows.values(), strict=True)
    bounds = [fetch_cycles(g, dict(zip(trace.active_rows, decision, strict=True))) for decision in rows]
    cycles = [step.decision.cycles for step in episode.steps]
    units = {u: statistics.median(step.counters.unit_cycles[u] for step in episode.steps) for u in UNITS}
    return {
        "policy_digest": policy.digest,
        "geometry_digest": g.digest,
        "environment": policy.environment,
        "seed": seed,
        "steps": len(cycles),
        "return": episode.total,
        "cycles_min": min(cycles),
        "cycles_median": statistics.median(cycles),
        "cycles_max": max(cycles),
        "bound_median": statistics.median(bounds),
        "ratio_median": statistics.median(c / b for c, b in zip(cycles, bounds, strict=True)),
        "unit_cycles_median": units,
        "decisions_per_s": episode.decisions_per_s,
        **torch_latency(policy, np.stack([step.token for step in episode.steps])),
    }


def table(result: dict[str, object], clock_mhz: float) -> str:
    """Return the result as lines of text."""
    units = result["unit_cycles_median"]
    assert isinstance(units, dict)
    median = result["cycles_median"]
    assert isinstance(median, (int, float))
    rows = [
        ("cycles per decision, minimum", f"{result['cycles_min']:,}"),
        ("cycles per decision, median", f"{median:,.0f}  ({median / clock_mhz:.2f} us at {clock_mhz:g} MHz)"),
        ("cycles per decision, maximum", f"{result['cycles_max']:,}"),
        ("lower bound, median", f"{result['bound_median']:,.0f}"),
        ("cycles over bound, median", f"{result['ratio_median']:.3f}"),
        *((f"  {unit.lower()}, median cycles", f"{cycles:g}") for unit, cycles in units.items()),
        ("simulated decisions/s, episode loop", f"{result['decisions_per_s']:.0f}"),
        ("PyTorch, one token streamed", f"{result['torch_stream_us']:,.0f} us"),
        (f"PyTorch, {WINDOW_TOKENS}-token window", f"{result['torch_window_us']:,.0f} us"),
    ]
    head = f"{result['environment']}, seed {result['seed']}: {result['steps']} steps, return {result['return']:.1f}"
    return "\n".join([head, *(f"  {name:<38}{value}" for name, value in rows)])


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sim.bench",
        description="Fly an episode on the simulated circuit and print the cycles of its decisions, the lower bound of "
        "the row fetches, their ratio, and the batch-1 latency of the PyTorch model on one thread, in one run.",
    )
    parser.add_argument(
        "--policy",
        default=zoo.DEFAULT,
        metavar="NAME|FILE",
        help=f"artifact, or a shipped policy: {zoo.listing()} (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the episode (default: %(default)s)")
    parser.add_argument("--clock-mhz", type=float, default=100.0, help="for the microseconds (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    options = parser.parse_args(arguments)
    try:
        result = measure(Policy.load(zoo.find(options.policy)), options.seed)
    except (ArtifactError, BuildError, GeometryError, UnsuitableEnvironment, RuntimeError) as error:
        print(f"sim.bench: {error}", file=sys.stderr)
        return 2
    print(table(result, options.clock_mhz))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
