# SPDX-License-Identifier: MIT
"""The closed loop: what the network is told, and what the environment is."""

import dataclasses

import numpy as np
import pytest
import torch

from model.data.offline import DataError, Normaliser
from model.deployed.presets import TINY
from model.network.layers import Structure, float_network
from model.network.network import Network
from model.scores import rollout
from model.scores.rollout import Effort, GoldenBrain, RecomputeBrain, StreamBrain

torch.set_num_threads(1)

NORMALISER = Normaliser(np.array([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 0.5]), 10.0)


def lively(inputs: int, actions: int) -> Network:
    """Return an untrained network whose neurons fire often enough for the past to matter."""
    torch.manual_seed(0)
    network = float_network(TINY, inputs, actions, Structure())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 4
    for _ in range(30):
        network(torch.randn(32, 12, inputs))
    return network


class Scripted:
    """Acts at random and remembers what it was told."""

    def __init__(self, size: int = 1) -> None:
        self.rng, self.tokens, self.actions, self.size = np.random.default_rng(0), [], [], size

    def begin(self, batch: int) -> None:
        self.batch = batch

    def decide(self, tokens: np.ndarray, live: list[int]) -> np.ndarray:
        self.tokens.append(tokens.copy())
        self.actions.append(self.rng.uniform(-1.5, 1.5, (self.batch, self.size)))
        return self.actions[-1]


def test_tokens_and_actions_of_the_loop() -> None:
    brain = Scripted()
    episodes = rollout.run(brain, "Pendulum-v1", NORMALISER, target_return=-7.0, seeds=[3, 4])  # type: ignore[arg-type]
    tokens, actions = np.array(brain.tokens), np.clip(np.array(brain.actions), -1, 1)
    assert tokens.shape == (200, 2, 5)
    for row, episode in enumerate(episodes):
        rewards = np.array(episode.rewards)
        observations = (np.array(episode.observations)[:-1] - NORMALISER.mean) / NORMALISER.std
        np.testing.assert_allclose(tokens[:, row, :3], observations, atol=1e-12)
        # the action as executed, clipped, and zero before the first
        np.testing.assert_array_equal(tokens[0, row, 3], 0)
        np.testing.assert_array_equal(tokens[1:, row, 3], actions[:-1, row, 0])
        np.testing.assert_allclose(tokens[:, row, 4] * 10, -7.0 - (np.cumsum(rewards) - rewards), atol=1e-9)
        np.testing.assert_allclose(np.array(episode.actions)[:, 0], 2 * actions[:, row, 0], rtol=1e-6)
        assert episode.ends[-1] == (False, True)
    assert not np.array_equal(tokens[:, 0], tokens[:, 1])


def test_choices_are_the_largest_scores_and_come_back_one_hot() -> None:
    brain, normaliser = Scripted(2), Normaliser(np.zeros(4), np.ones(4), 1.0)
    episodes = rollout.run(brain, "CartPole-v1", normaliser, target_return=50.0, seeds=[3, 4, 5])
    for row, episode in enumerate(episodes):
        length = len(episode.rewards)
        scores = np.array(brain.actions)[:length, row]
        assert episode.actions == np.argmax(scores, axis=1).tolist()
        tokens = np.array([step[row] for step in brain.tokens])[:length]
        np.testing.assert_array_equal(tokens[1:, 4:6], np.eye(2)[episode.actions[:-1]])
        np.testing.assert_array_equal(tokens[0, 4:6], 0)
        np.testing.assert_array_equal(tokens[:, 6], 50.0 - np.arange(length))
        assert episode.ends[-1] == (True, False)
    assert len({len(episode.rewards) for episode in episodes}) > 1


def test_delayed_rewards_leave_the_return_to_go_as_it_was() -> None:
    brain = Scripted()
    rollout.run(brain, "Pendulum-v1", NORMALISER, target_return=-7.0, seeds=[3], delayed=True)
    np.testing.assert_array_equal(np.array(brain.tokens)[:, 0, 4], -0.7)


@pytest.mark.parametrize("kind", [StreamBrain, lambda network: RecomputeBrain(network, TINY.context)])
def test_episodes_do_not_depend_on_those_beside_them(kind) -> None:  # type: ignore[no-untyped-def]
    network = lively(4 + 2 + 1, 2)
    usual = network.eval()(torch.randn(256, 3, 7)).mean((0, 1)).detach().double().numpy()
    normaliser = Normaliser(np.zeros(4), np.full(4, 0.02), 300.0)

    def fly(seeds: list[int]) -> list[rollout.Episode]:
        # without its mean this untrained network prefers neither choice
        return rollout.run(kind(network), "CartPole-v1", normaliser, 300.0, seeds, lambda scores: scores - usual)

    together, alone = fly([0, 1, 2, 3]), [fly([seed])[0] for seed in range(4)]
    assert [episode.actions for episode in together] == [episode.actions for episode in alone]
    assert len({len(episode.rewards) for episode in together}) > 2
    assert {choice for episode in together for choice in episode.actions} == {0, 1}


@pytest.mark.parametrize("kind", [StreamBrain, lambda network: RecomputeBrain(network, TINY.context)])
def test_an_episode_keeps_its_own_past_when_others_end(kind) -> None:  # type: ignore[no-untyped-def]
    network = lively(7, 2)
    tokens = np.random.default_rng(0).normal(size=(12, 4, 7)).astype(np.float32).astype(np.float64)
    together = kind(network)
    together.begin(4)
    alone = [kind(network) for _ in range(4)]
    for brain in alone:
        brain.begin(1)
    for step, batch in enumerate(tokens):
        live = [row for row in range(4) if step < (12, 3, 9, 6)[row]]
        actions = together.decide(batch, live)
        for row in live:
            np.testing.assert_allclose(actions[row], alone[row].decide(batch[row : row + 1], [0])[0], atol=1e-6)
        assert not actions[[row for row in range(4) if row not in live]].any()
    fresh = kind(network)
    fresh.begin(1)
    assert np.abs(fresh.decide(tokens[-1, :1], [0])[0] - actions[0]).max() > 1e-4  # the past matters


def test_the_kind_and_number_of_actions_are_checked() -> None:
    normaliser = Normaliser(np.zeros(4), np.ones(4), 1.0)
    with pytest.raises(DataError, match="has discrete actions, the policy was made for continuous ones"):
        rollout.run(Scripted(2), "CartPole-v1", normaliser, 0.0, [0], discrete=False)
    with pytest.raises(DataError, match="has continuous actions, the policy was made for discrete ones"):
        rollout.run(Scripted(1), "Pendulum-v1", NORMALISER, 0.0, [0], discrete=True)
    with pytest.raises(DataError, match="takes 2 actions, the policy gives 3"):
        rollout.run(Scripted(3), "CartPole-v1", normaliser, 0.0, [0])


def test_recomputing_equals_streaming_in_the_loop() -> None:
    network = lively(5, 1)
    brains = [StreamBrain(network), RecomputeBrain(network, TINY.context)]
    first, second = (rollout.run(b, "Pendulum-v1", NORMALISER, -100.0, [0]) for b in brains)
    np.testing.assert_allclose(first[0].rewards, second[0].rewards, rtol=1e-3)
    assert np.std(first[0].actions) > 0


def test_effort_counts_a_row_once_per_use() -> None:
    effort = Effort()
    assert effort.per_decision()["active_rows_per_decision"] is None
    effort.add(TINY, {"layer0.key": 3, "layer0.value": 3, "layer0.query": 3, "layer0.fc1": 5, "layer0.fc2": 7})
    effort.add(TINY, {"layer0.key": 0, "layer0.value": 0, "layer0.query": 0, "layer0.fc1": 1, "layer0.fc2": 0})
    found = effort.per_decision()
    assert found["active_rows_per_decision"] == (9 + 6 * TINY.mlp_ratio + 7) / 2
    assert found["rows_per_linear"]["layer0.fc1"] == 6 * TINY.mlp_ratio / 2
    # an odd row takes a whole cycle, in each use
    two = Effort()
    two.add(dataclasses.replace(TINY, rows_per_cycle=2), {"layer0.key": 3, "layer0.fc1": 5, "layer0.fc2": 0})
    assert two.per_decision()["fetch_cycles_per_decision"] == 2 + 3 * TINY.mlp_ratio


def test_an_environment_of_another_size_is_refused() -> None:
    with pytest.raises(DataError, match="observes"):
        rollout.run(GoldenBrain(None), "CartPole-v1", NORMALISER, 0.0, [0])  # type: ignore[arg-type]
