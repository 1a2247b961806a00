# SPDX-License-Identifier: MIT
"""One episode: the loop over an environment, and the record of it."""

import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from host.accelerator import Counters, Decision, Driver
from host.agent import Agent
from host.check import Difference, GoldenCheck


@dataclass(frozen=True)
class Step:
    """One step of an episode."""

    observation: NDArray[Any]  # [observations], as the environment gave it
    token: NDArray[np.int64]  # [inputs], what the circuit was given
    decision: Decision
    counters: Counters
    action: NDArray[np.float64]  # [actions], as the environment was given it; a discrete one is one-hot
    return_to_go: float  # what was asked for in this step
    reward: float


@dataclass
class Episode:
    """The record of an episode, complete up to the last step flown."""

    seed: int
    steps: list[Step] = field(default_factory=list)
    total: float = 0.0  # return so far: the sum of the rewards
    terminated: bool = False
    truncated: bool = False
    checked_actions: int = 0
    mismatches: int = 0
    seconds: float = 0.0

    @property
    def cycles_median(self) -> float | None:
        """Median cycles of a decision; None where the device has no cycles."""
        cycles = [step.decision.cycles for step in self.steps]
        return statistics.median(cycles) if any(cycles) else None

    @property
    def decisions_per_s(self) -> float:
        """Decisions per second of the closed loop: environment, driver, device and check together."""
        return len(self.steps) / self.seconds if self.seconds else 0.0


def fly(
    episode: Episode,
    environment: gymnasium.Env[Any, Any],
    agent: Agent,
    accelerator: Driver,
    check: GoldenCheck | None,
    on_step: Callable[[Episode], None],
) -> None:
    """Run an episode to its end and record it in `episode`, which stays valid if this is interrupted or raises.

    check : compares every decision, some steps behind; None to trust the device. on_step : called after every step.
    Raises `Difference` where a decision is not the golden network's, less than `check.BEHIND` steps after it; the
    steps in between stay in the record. However the episode ends, what was flown is compared.
    """
    observation, _ = environment.reset(seed=episode.seed)
    agent.begin()
    try:
        with contextlib.ExitStack() as at_end:
            if check:
                check.begin()
                at_end.callback(check.finish)
            while not (episode.terminated or episode.truncated):
                start = time.perf_counter()
                asked = agent.return_to_go
                action = agent.act(observation)
                assert agent.decision is not None
                if check:
                    check.add(agent.token, agent.decision, accelerator.signatures())
                counters = accelerator.counters()
                seen = observation
                observation, reward, episode.terminated, episode.truncated, _ = environment.step(action)
                agent.reward(float(reward))
                episode.steps.append(
                    Step(seen, agent.token, agent.decision, counters, agent.action, asked, float(reward))
                )
                episode.total += float(reward)
                episode.seconds += time.perf_counter() - start
                on_step(episode)
    except Difference:
        episode.mismatches += 1
        raise
    finally:
        if check:
            episode.checked_actions = check.compared
