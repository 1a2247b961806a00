# SPDX-License-Identifier: MIT
"""Does a circuit decide as the golden network does? `python -m host.selftest --help`. Needs numpy and no artifact."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from host.accelerator import Accelerator, AcceleratorError, Counters, Driver
from host.bus import BusError
from host.devices import BOARD_S, DEFAULT_GEOMETRY, add_device_options, open_device
from host.golden_device import layer_rows
from host.local import LocalError
from hw.registers import ROW_UNITS, UNITS, offsets
from model.deployed.geometry import Geometry, GeometryError
from model.deployed.golden import GoldenNetwork
from model.deployed.random_policy import random_policy, random_tokens


class SelftestError(RuntimeError):
    """A circuit that does not do what it should; the message says where."""


def bus_test(accelerator: Accelerator) -> int:
    """Store every single bit and its complement in SCRATCH; return how many words were compared."""
    scratch = offsets(accelerator.geometry)["SCRATCH"]
    words = [word for bit in range(32) for word in (1 << bit, 0xFFFF_FFFF ^ 1 << bit)]
    for word in words:
        accelerator.bus.write32(scratch, word)
        if (found := accelerator.bus.read32(scratch)) != word:
            raise SelftestError(
                f"SCRATCH reads 0x{found:08x} after 0x{word:08x} was written: the bus loses bits; "
                "check clock and address"
            )
    return len(words)


def policy_test(
    driver: Driver, geometry: Geometry, seed: int, decisions: int
) -> tuple[int, list[float], list[int], list[Counters]]:
    """Compare a random policy's decisions, of two episodes, with the golden network's: actions, signatures, counters.

    Returns words compared; seconds, cycles and counters of each decision. Raises `SelftestError`.
    """
    rng = np.random.default_rng(seed)
    actions = int(rng.integers(1, geometry.action_size + 1)) if seed % 2 else geometry.action_size
    observations = int(rng.integers(1, geometry.observation_size + 1)) if seed % 2 else geometry.observation_size
    policy = random_policy(geometry, seed, observations, actions)
    driver.load(policy)
    network = GoldenNetwork(policy)
    compared, seconds, cycles, counted = 0, [], [], []
    for number, token in enumerate(random_tokens(policy, decisions, seed)):
        if number in (0, decisions // 2):
            driver.new_episode()
            network.reset()
        start = time.perf_counter()
        decision = driver.decide(token)
        seconds.append(time.perf_counter() - start)
        cycles.append(decision.cycles)
        trace, counters = network.decide(token), driver.counters()
        counted.append(counters)
        rows = [layer_rows(geometry, trace, layer) for layer in range(geometry.layers)]
        for what, found, expected in (
            ("the action words", decision.words.tolist(), trace.action.tolist()),
            ("the signatures", driver.signatures(), trace.signatures),
            ("SATURATIONS", counters.saturations, trace.saturations),
            ("LAYER_ROWS", counters.layer_rows, [sum(units.values()) for units in rows]),
            ("ROWS_*", counters.unit_rows, {unit: sum(units[unit] for units in rows) for unit in ROW_UNITS}),
        ):
            if found != expected:
                raise SelftestError(
                    f"policy {seed}, decision {number}: {what} are {found}, the golden network's {expected}"
                )
            compared += len(found) if isinstance(found, (list, dict)) else 1
    return compared, seconds, cycles, counted


def summary(counted: list[Counters]) -> dict[str, Any]:
    """Return the counters of many decisions: sums of what should be rare, medians of the rest."""
    units = {unit: float(np.median([counters.unit_cycles[unit] for counters in counted])) for unit in UNITS}
    return {
        "saturations": sum(counters.saturations for counters in counted),
        "stalls": sum(counters.stalls for counters in counted),
        "weight_rows_p50": float(np.median([sum(counters.layer_rows) for counters in counted])),
        "unit_cycles_p50": units,
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="python -m host.selftest",
        description="Load random policies into a circuit and compare every decision with the golden network: action "
        "words, signatures and counters, bit for bit. It replaces whatever policy is loaded.",
    )
    add_device_options(parser, BOARD_S)
    add = parser.add_argument
    add("--policies", type=int, default=4, help="how many to draw (default: %(default)s)")
    add("--decisions", type=int, default=100, help="of each (default: %(default)s)")
    add("--json", type=Path, help="also write the result to this file")
    options = parser.parse_args(arguments)
    if options.policies < 1 or options.decisions < 2:
        parser.error("at least one policy and two decisions are needed")
    if not options.board and options.geometry is None:
        options.geometry = DEFAULT_GEOMETRY
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Do the test and return what --json holds. Raises `SelftestError` and what opening a device raises."""
    device = open_device(options, None, lambda line: print(line, file=sys.stderr, flush=True))
    driver = device.driver
    try:
        print(f"testing {device.reason}", flush=True)
        words = bus_test(driver) if isinstance(driver, Accelerator) else 0
        seconds, cycles, counted = [], [], []
        for seed in range(options.policies):
            compared, took, busy, counters = policy_test(driver, driver.geometry, seed, options.decisions)
            words, seconds, cycles, counted = words + compared, seconds + took, cycles + busy, counted + counters
            print(f"policy {seed}: {options.decisions} decisions, {compared:,} words equal", flush=True)
        if flags := driver.status():
            raise SelftestError(f"STATUS shows {', '.join(sorted(flags))} at the end")
        decisions, _ = driver.totals()
        if decisions < options.decisions:
            raise SelftestError(f"TOTAL_DECISIONS shows {decisions} after {options.decisions} of the last policy")
    finally:
        driver.close()
    microseconds = 1e6 * np.array(seconds)
    return {
        "device": device.name,
        "reason": device.reason,
        "geometry_digest": driver.geometry.digest,
        "decisions": len(seconds),
        "words_equal": words,
        "latency_us": {f"p{p}": float(np.percentile(microseconds, p)) for p in (50, 99)},
        "cycles": {f"p{p}": float(np.percentile(cycles, p)) for p in (50, 99)},
        "counters": summary(counted),
        **{name: value for name, value in device.facts.items() if name not in ("geometry", "device")},
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = parse(arguments)
    try:
        result = run(options)
        latency, cycles = result["latency_us"], result["cycles"]
        print(
            f"passed: {result['decisions']} decisions, {result['words_equal']:,} words equal\n"
            f"latency: p50 {latency['p50']:,.0f} µs, p99 {latency['p99']:,.0f} µs, seen from here"
            + (f"; p50 {cycles['p50']:,.0f}, p99 {cycles['p99']:,.0f} cycles" if cycles["p50"] else "")
        )
        counters = result["counters"]
        units = ", ".join(f"{unit} {busy:,.0f}" for unit, busy in counters["unit_cycles_p50"].items() if busy)
        print(
            f"counters: p50 {counters['weight_rows_p50']:,.0f} weight rows; {counters['saturations']:,} saturations "
            f"and {counters['stalls']:,} stalls in all" + (f"; p50 busy cycles: {units}" if units else "")
        )
        if options.json:
            options.json.write_text(json.dumps(result, indent=2) + "\n")
    except (AcceleratorError, BusError, GeometryError, LocalError, SelftestError, OSError) as error:
        print(f"selftest: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("selftest: stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
