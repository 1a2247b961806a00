# SPDX-License-Identifier: MIT
"""Whole environment episodes on the verilated circuit through the shipped host driver: every action is PyTorch's."""

import numpy as np
import pytest

from host.accelerator import Accelerator
from host.verilated import VerilatedBus, library
from model.deployed import zoo
from model.deployed.artifact import Policy
from model.deployed.golden import GoldenNetwork
from model.deployed.presets import HOPPER_Z2
from model.deployed.random_policy import random_policy, random_tokens
from sim.build import say
from sim.flight import flight
from sim.reference import Reference

# MuJoCo warns of attributes in Gymnasium's own models, Gymnasium of its older environments
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gymnasium", "ignore::DeprecationWarning:mujoco")


def fly(name: str, seed: int, most: int, membranes: bool) -> tuple[int, set[tuple[int, ...]]]:
    """Fly an episode of at most so many steps; return how many there were and the different actions."""
    policy = Policy.load(zoo.find(name))
    reference = Reference(policy)
    with flight(policy, say) as (environment, agent, circuit):
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
                np.testing.assert_array_equal(ring, expected.kept)
            observation, reward, terminated, truncated, _ = environment.step(action)
            agent.reward(float(reward))
            actions.add(tuple(expected.words))
            steps += 1
            over = terminated or truncated
        assert over or steps == most
        assert circuit.status() == set()
        assert circuit.totals()[0] == steps
    return steps, actions


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tiny_policy_flies_as_in_pytorch(seed):
    steps, actions = fly(zoo.TEST_POLICY, seed, 1000, membranes=True)
    assert steps > 20
    assert len(actions) > steps // 4


def test_default_policy_flies_as_in_pytorch():
    steps, actions = fly(zoo.DEFAULT, 0, 250, membranes=False)
    assert steps == 250
    assert len(actions) > 50


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.shipped())
def test_every_shipped_policy_flies_a_whole_episode_as_in_pytorch(name):
    steps, actions = fly(name, 100, 100_000, membranes=True)
    assert steps > 20
    assert len(actions) > steps // 4


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(101, 105))
def test_default_policy_flies_whole_episodes(seed):
    steps, _ = fly(zoo.DEFAULT, seed, 1000, membranes=True)
    assert steps > 100


def test_one_circuit_serves_hopper_and_halfcheetah_sizes_one_after_the_other(monkeypatch):
    hopper = Policy.load(zoo.find("hopper-medium"))
    cheetah = random_policy(HOPPER_Z2, 5, 17, 6)
    built = library(hopper.geometry, say)
    monkeypatch.setattr("host.verilated._build", lambda *_: pytest.fail("another circuit is built"))
    assert library(cheetah.geometry) == built
    bus = VerilatedBus(built)
    circuit = Accelerator(bus, HOPPER_Z2)
    seen = []
    for policy in (hopper, cheetah, hopper):
        circuit.load(policy)
        circuit.new_episode()
        golden = GoldenNetwork(policy)
        words = []
        for token in random_tokens(policy, 12, 3):
            expected = golden.decide(token)
            words.append(circuit.decide(token).words)
            np.testing.assert_array_equal(words[-1], expected.action)
            assert circuit.signatures() == expected.signatures
        seen.append(np.array(words))
    bus.close()
    assert [words.shape for words in seen] == [(12, 3), (12, 6), (12, 3)]
    assert len(np.unique(seen[1], axis=0)) > 6
    np.testing.assert_array_equal(seen[0], seen[2])
