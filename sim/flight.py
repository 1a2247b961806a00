# SPDX-License-Identifier: MIT
"""A policy on the simulated circuit, ready to fly in its environment."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gymnasium

from host.accelerator import Accelerator
from host.agent import Agent
from host.environment import make_environment
from host.verilated import VerilatedBus, library
from model.deployed.artifact import Policy


class Flight(NamedTuple):
    """What `host.episode.fly` needs beside the episode."""

    environment: gymnasium.Env[Any, Any]
    agent: Agent
    accelerator: Accelerator

    @property
    def length(self) -> int | None:
        """Steps of an episode at most, None where the environment does not say."""
        return self.environment.spec.max_episode_steps if self.environment.spec else None


def tell(line: str) -> None:
    """Show what takes long; results have the other stream."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def flight(policy: Policy, note: Callable[[str], None] = tell) -> Iterator[Flight]:
    """Make the policy's environment and its circuit, built first if need be, and load the policy.

    note : told what takes so long. Raises `UnsuitableEnvironment`, `BuildError`, `GeometryError`, `AcceleratorError`.
    """
    with contextlib.ExitStack() as at_end:
        environment = make_environment(policy.environment, policy)
        at_end.callback(environment.close)
        bus = VerilatedBus(library(policy.geometry, note))
        at_end.callback(bus.close)
        accelerator = Accelerator(bus, policy.geometry)
        accelerator.load(policy)
        agent = Agent(accelerator, policy, environment.action_space, policy.target_return)
        yield Flight(environment, agent, accelerator)
