# SPDX-License-Identifier: MIT
"""Whole environment episodes on the verilated circuit through the shipped host driver: every action is PyTorch's."""

from pathlib import Path

import numpy as np
import pytest

from host.accelerator import Accelerator
from host.agent import Agent
from host.environment import make_environment
from host.verilated import VerilatedBus, library
from model.deployed.artifact import Policy
from sim.build import say
from sim.reference import Reference

POLICIES = Path(__file__).resolve().parent.parent / "model" / "policies"


def fly(name: str, seed: int, most: int, membranes: bool) -> tuple[int, set[tuple[int, ...]]]:
    """Fly an episode of at most so many steps; return how many there were and the different actions."""
    policy = Policy.load(POLICIES / f"{name}.safetensors")
    bus = VerilatedBus(library(policy.geometry, say))
    circuit = Accelerator(bus, policy.geometry)
    circuit.load(policy)
    environment = make_environment(policy.environment, policy)
    agent = Agent(circuit, policy, environment.action_space, policy.target_return)
    reference = Reference(policy)
    observation, _ = environment.reset(seed=seed)
    agent.begin()
    reference.begin()
    steps, actions, over = 0, set(), False
    while not over and steps < most:
        action = agent.act(observation)
        expected = reference.decide(agent.token)
        np.testing.assert_array_equal(agent.decision.words, expected.words)
        assert circuit.signatures() == expected.signatures
        counters = circuit.counters()
        assert counters.saturations == expected.saturations
        assert counters.unit_rows == expected.unit_rows
        if membranes:
            np.testing.assert_array_equal(circuit.probe_residual(), expected.residual)
            ring = circuit.probe_ring()[:, steps % policy.geometry.window]
            np.testing.assert_array_equal(ring, expected.both)
        observation, reward, terminated, truncated, _ = environment.step(action)
        agent.reward(float(reward))
        actions.add(tuple(expected.words))
        steps += 1
        over = terminated or truncated
    assert over or steps == most
    assert circuit.status() == set()
    assert circuit.totals()[0] == steps
    environment.close()
    bus.close()
    return steps, actions


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tiny_policy_flies_as_in_pytorch(seed):
    steps, actions = fly("hopper-tiny", seed, 1000, membranes=True)
    assert steps > 20
    assert len(actions) > steps // 4


def test_medium_policy_flies_as_in_pytorch():
    steps, actions = fly("hopper-medium", 0, 250, membranes=False)
    assert steps == 250
    assert len(actions) > 50


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_medium_policy_flies_whole_episodes(seed):
    steps, _ = fly("hopper-medium", 100 + seed, 1000, membranes=True)
    assert steps > 100
