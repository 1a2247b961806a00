# SPDX-License-Identifier: MIT
"""Powers and energies per decision, with confidence intervals across rounds."""

import math
import statistics
from typing import Any

import mpmath  # type: ignore[import-untyped]

from host.power.subjects import CONFIGURED, IDLE, RUNNING, STATES
from host.power.windows import Window

CONFIDENCE = 0.95


def student(freedom: int, confidence: float = CONFIDENCE) -> float:
    """Return how many standard errors a two-sided interval reaches, by Student's t with `freedom` degrees (>= 1)."""

    def outside(t: Any) -> Any:
        return mpmath.betainc(freedom / 2, 0.5, x2=freedom / (freedom + t * t), regularized=True)

    # the chance to be farther out than t falls with t
    high = 1.0
    while outside(high) > 1 - confidence:
        high *= 2
    return float(mpmath.findroot(lambda t: outside(t) - (1 - confidence), (high / 2, high), solver="anderson"))


def interval(values: list[float]) -> dict[str, Any]:
    """Return mean and half width of the 95 % interval of the mean, null for a single value."""
    half = None
    if len(values) > 1:
        half = student(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": statistics.fmean(values), "ci95": half, "rounds": values}


def rate_figures(rounds: list[list[Window]]) -> dict[str, Any]:
    """Return decisions per second, cycles per decision and clock of the running windows; null where unknown."""
    rates, cycles, clocks = [], [], []
    for windows in rounds:
        decisions, counted, seconds = _running(windows)
        rates.append(decisions / seconds)
        if counted:
            cycles.append(counted / decisions)
            clocks.append(counted / seconds / 1e6)
    return {
        "decisions_per_s": interval(rates) if rates else None,
        "cycles_per_decision": interval(cycles) if cycles else None,
        "busy_mhz": interval(clocks) if clocks else None,
    }


def rail_figures(rounds: list[list[Window]]) -> dict[str, dict[str, Any]]:
    """Return rail -> powers in mW and energies per decision in uJ, each an interval across rounds.

    `total_uj` is all that the rail takes while running; `incremental_uj` what it takes more than idle, and
    `over_configured_uj` more than configured. A difference is taken within each round, where a linear drift cancels.
    """
    if not rounds:
        return {}
    names = [rail for rail in rounds[0][0].mw if all(rail in window.mw for windows in rounds for window in windows)]
    return {rail: _rail(rounds, rail) for rail in names}


def _rail(rounds: list[list[Window]], rail: str) -> dict[str, Any]:
    power: dict[str, list[float]] = {state: [] for state in STATES}
    seconds = []  # of a decision
    for windows in rounds:
        for state in STATES:
            power[state].append(statistics.fmean(window.mw[rail] for window in windows if window.state == state))
        decisions, _, counted = _running(windows)
        seconds.append(counted / decisions)
    over_idle = [running - idle for running, idle in zip(power[RUNNING], power[IDLE], strict=True)]
    over_configured = [running - other for running, other in zip(power[RUNNING], power[CONFIGURED], strict=True)]

    def energy(milliwatts: list[float]) -> dict[str, Any]:
        return interval([1000 * mw * s for mw, s in zip(milliwatts, seconds, strict=True)])

    return {
        **{f"{state}_mw": interval(values) for state, values in power.items()},
        "incremental_mw": interval(over_idle),
        "total_uj": energy(power[RUNNING]),
        "incremental_uj": energy(over_idle),
        "over_configured_uj": energy(over_configured),
    }


def _running(windows: list[Window]) -> tuple[int, int, float]:
    """Return decisions, busy cycles and seconds of a round's running windows."""
    running = [window for window in windows if window.state == RUNNING]
    return (
        sum(window.decisions for window in running),
        sum(window.cycles for window in running),
        sum(window.counted_s for window in running),
    )
