# SPDX-License-Identifier: MIT
"""Benchmark of the shipped policy on the simulated circuit: cycles, their bound, CPU time, and PyTorch beside them."""

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

from host.check import GoldenCheck
from host.environment import UnsuitableEnvironment
from host.episode import Episode, fly
from host.local import read_geometry
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

PARTS = ("circuit", "check", "environment", "host")
"""Where the CPU time of a checked episode goes; host is the rest: agent, record, loop."""


class CpuTime:
    """CPU seconds that calls took, by part."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)

    def watch(self, part: str, owner: object, *methods: str) -> None:
        """Add to `part` what these methods of an object take from now on."""
        for name in methods:
            setattr(owner, name, self._timed(part, getattr(owner, name)))

    def _timed(self, part: str, act: Callable[..., object]) -> Callable[..., object]:
        def timed(*arguments: object, **options: object) -> object:
            before, start = self.seconds[part], time.process_time()
            try:
                return act(*arguments, **options)
            finally:  # one of a part's methods may call another
                self.seconds[part] = before + time.process_time() - start

        return timed


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


def measure(policy: Policy, digest: str, seed: int) -> dict[str, object]:
    """Fly one episode on the simulated circuit, every decision checked; its bound is that of the golden network's rows.

    policy : on the circuit's geometry. digest : of the artifact it came from.
    Raises `BuildError`, `UnsuitableEnvironment`; `Difference` if a decision is not the golden network's.
    """
    g = policy.geometry
    episode, cpu, check = Episode(seed), CpuTime(), GoldenCheck(policy)
    cpu.watch("check", check, "add", "finish")
    with flight(policy) as ready, tqdm(desc="episode", unit="step", disable=None, leave=False) as bar:
        cpu.watch("circuit", ready.accelerator, "decide", "signatures", "counters")
        cpu.watch("environment", ready.environment, "step", "reset")
        bar.reset(ready.length)
        start = time.process_time()
        fly(episode, *ready, check, lambda _: bar.update())
        total = time.process_time() - start
    cpu.seconds["host"] = total - sum(cpu.seconds.values())

    trace = GoldenNetwork(policy).decide_all(np.stack([step.token for step in episode.steps]))
    rows = zip(*trace.active_rows.values(), strict=True)
    bounds = [fetch_cycles(g, dict(zip(trace.active_rows, decision, strict=True))) for decision in rows]
    cycles = [step.decision.cycles for step in episode.steps]
    units = {u: statistics.median(step.counters.unit_cycles[u] for step in episode.steps) for u in UNITS}
    return {
        "policy_digest": digest,
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
        "decisions_per_cpu_s": len(cycles) / total,
        "cpu_us_per_decision": {part: 1e6 * seconds / len(cycles) for part, seconds in cpu.seconds.items()},
        **torch_latency(policy, np.stack([step.token for step in episode.steps])),
    }


def table(result: dict[str, object], clock_mhz: float) -> str:
    """Return the result as lines of text."""
    units, parts = result["unit_cycles_median"], result["cpu_us_per_decision"]
    assert isinstance(units, dict)
    assert isinstance(parts, dict)
    median = result["cycles_median"]
    assert isinstance(median, (int, float))
    rows = [
        ("cycles per decision, minimum", f"{result['cycles_min']:,}"),
        ("cycles per decision, median", f"{median:,.0f}  ({median / clock_mhz:.2f} us at {clock_mhz:g} MHz)"),
        ("cycles per decision, maximum", f"{result['cycles_max']:,}"),
        ("lower bound, median", f"{result['bound_median']:,.0f}"),
        ("cycles over bound, median", f"{result['ratio_median']:.3f}"),
        *((f"  {unit.lower()}, median cycles", f"{cycles:g}") for unit, cycles in units.items()),
        ("checked decisions per second of CPU time", f"{result['decisions_per_cpu_s']:.0f}"),
        *((f"  {part}, us of CPU time a decision", f"{us:,.0f}") for part, us in parts.items()),
        ("PyTorch, one token streamed", f"{result['torch_stream_us']:,.0f} us"),
        (f"PyTorch, {WINDOW_TOKENS}-token window", f"{result['torch_window_us']:,.0f} us"),
    ]
    head = f"{result['environment']}, seed {result['seed']}: {result['steps']} steps, return {result['return']:.1f}"
    return "\n".join([head, *(f"  {name:<38}{value}" for name, value in rows)])


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sim.bench",
        description="Fly an episode on the simulated circuit, every decision checked, and print the cycles of its "
        "decisions, the lower bound of the row fetches, their ratio, where the CPU time goes, and the batch-1 latency "
        "of the PyTorch model on one thread, in one run.",
    )
    parser.add_argument(
        "--policy",
        default=zoo.DEFAULT,
        metavar="NAME|FILE",
        help=f"artifact, or a shipped policy: {zoo.listing()} (default: %(default)s)",
    )
    parser.add_argument("--geometry", help="preset or .json file: the circuit's (default: the policy's)")
    parser.add_argument("--seed", type=int, default=0, help="of the episode (default: %(default)s)")
    parser.add_argument("--clock-mhz", type=float, default=100.0, help="for the microseconds (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    options = parser.parse_args(arguments)
    try:
        policy = Policy.load(zoo.find(options.policy))
        there = policy.on(read_geometry(options.geometry)) if options.geometry else policy
        result = measure(there, policy.digest, options.seed)
    except (ArtifactError, BuildError, GeometryError, UnsuitableEnvironment, RuntimeError) as error:
        print(f"sim.bench: {error}", file=sys.stderr)
        return 2
    print(table(result, options.clock_mhz))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
