# SPDX-License-Identifier: MIT
"""The agent's bookkeeping, the golden check's findings, the score."""

import dataclasses

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from host.accelerator import Accelerator, Decision
from host.agent import Agent, AgentError
from host.check import BEHIND, Difference, GoldenCheck
from host.golden_device import GoldenBus
from host.score import normalized_score
from model.deployed.artifact import quantise_token
from model.deployed.presets import TINY
from model.deployed.random_policy import random_policy, random_tokens

SPACE = Box(np.array([-2.0, 0.0]), np.array([2.0, 10.0]), dtype=np.float64)


class Recorder:
    """Decides fixed words, one row after the other, and keeps what it was given."""

    def __init__(self):
        self.tokens = []
        self.episodes = 0
        self.words = [(-(1 << 15), 1 << 14)]

    def new_episode(self):
        self.episodes += 1

    def decide(self, token):
        self.tokens.append(token.copy())
        return Decision(len(self.tokens), 0, np.array(self.words[(len(self.tokens) - 1) % len(self.words)], np.int16))


def test_tokens_hold_observation_previous_action_and_return_to_go():
    policy = random_policy(TINY, 3, 4, 2)
    recorder = Recorder()
    agent = Agent(recorder, policy, SPACE, target_return=500.0)
    rng = np.random.default_rng(0)
    previous, to_go = np.zeros(2), 500.0
    for step in range(4):
        observation = rng.normal(size=4)
        action = agent.act(observation)
        np.testing.assert_allclose(action, [-2.0, 7.5])  # -1 and 0.5 within the bounds
        normalised = (observation - policy.input_mean) / policy.input_std
        token = quantise_token(policy, np.array([*normalised, *previous, to_go / policy.return_scale]))
        np.testing.assert_array_equal(recorder.tokens[-1], token)
        previous = np.array([-1.0, 0.5])
        agent.reward(30.0 * step)
        to_go -= 30.0 * step
    assert agent.return_to_go == to_go == 320.0
    agent.begin()
    assert (agent.return_to_go, agent.step, recorder.episodes) == (500.0, 0, 2)
    agent.act(np.zeros(4))
    np.testing.assert_array_equal(recorder.tokens[-1][4:6], 0)


def test_delayed_rewards_leave_the_return_to_go_as_in_training():
    policy = dataclasses.replace(random_policy(TINY, 3, 4, 2), provenance={"config": {"delayed": True}})
    agent = Agent(Recorder(), policy, SPACE, target_return=500.0)
    agent.act(np.zeros(4))
    agent.reward(30.0)
    assert agent.return_to_go == 500.0


def test_a_discrete_action_is_the_largest_word_and_its_one_hot_comes_back():
    policy = random_policy(TINY, 3, 4, 3)
    recorder = Recorder()
    recorder.words = [(5, 9, -3), (7, -2, 7), (-9, -8, -7)]
    agent = Agent(recorder, policy, Discrete(3, start=4), target_return=500.0)
    assert [agent.act(np.zeros(4)) for _ in range(3)] == [5, 4, 6]  # the first of equals
    np.testing.assert_array_equal(agent.action, [0, 0, 1])
    one = np.rint(policy.input_scale[4:7]).clip(max=127)
    for token, chosen in zip(recorder.tokens, (None, 1, 0), strict=True):
        np.testing.assert_array_equal(token[4:7], 0 if chosen is None else np.eye(3)[chosen] * one)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_observation_that_is_no_number_is_refused(value):
    recorder = Recorder()
    agent = Agent(recorder, random_policy(TINY, 3, 4, 2), SPACE, 500.0)
    agent.act(np.zeros(4))
    with pytest.raises(AgentError, match=r"a NaN or an infinity in step 1 \(component 2\)"):
        agent.act(np.array([0.0, 1.0, value, 2.0]))
    assert len(recorder.tokens) == 1


def test_a_reward_that_is_no_number_is_refused():
    agent = Agent(Recorder(), random_policy(TINY, 3, 4, 2), SPACE, 500.0)
    agent.act(np.zeros(4))
    with pytest.raises(AgentError, match="the reward of step 0 is nan"):
        agent.reward(np.nan)


# The check


def altered(policy, name, change):
    tensors = {**policy.tensors, name: change(policy.tensors[name])}
    return dataclasses.replace(policy, tensors=tensors)


@pytest.mark.parametrize(
    ("tensor", "origin"),
    [
        ("embed.bias", "the embedding"),
        ("layer0.proj.bias", "the attention of layer 0"),
        ("layer0.fc2.bias", "the MLP of layer 0"),
        ("layer1.proj.bias", "the attention of layer 1"),
        ("layer1.fc2.bias", "the MLP of layer 1"),
        ("head.table", "the head"),
    ],
)
def test_the_check_says_where_a_difference_begins(tensor, origin):
    policy = random_policy(TINY, 1)
    wrong = altered(policy, tensor, lambda values: values - np.sign(values + 0.5).astype(int))
    accelerator = Accelerator(GoldenBus(TINY), TINY)
    accelerator.load(wrong)
    check = GoldenCheck(policy)
    token = random_tokens(policy, 1, 0)[0]
    decision = accelerator.decide(token)
    check.add(token, decision, accelerator.signatures())
    with pytest.raises(Difference, match=f"decision 0 of the episode differs .*beginning in {origin}"):
        check.finish()
    assert check.compared == 0


def test_the_check_counts_what_it_compared():
    policy = random_policy(TINY, 1)
    accelerator = Accelerator(GoldenBus(TINY), TINY)
    accelerator.load(policy)
    check = GoldenCheck(policy)
    for token in random_tokens(policy, BEHIND + 7, 0):
        check.add(token, accelerator.decide(token), accelerator.signatures())
    assert (check.decisions, check.compared) == (BEHIND, 3 * BEHIND)
    check.finish()
    check.finish()
    assert (check.decisions, check.compared) == (BEHIND + 7, 3 * (BEHIND + 7))


@pytest.mark.parametrize("wrong", [0, 1, BEHIND - 1, BEHIND, 2 * BEHIND - 1, 2 * BEHIND + 3])
def test_the_check_names_the_first_decision_that_is_wrong_wherever_it_falls(wrong):
    policy = random_policy(TINY, 1)
    accelerator = Accelerator(GoldenBus(TINY), TINY)
    accelerator.load(policy)
    check = GoldenCheck(policy)

    def fly():
        for number, token in enumerate(random_tokens(policy, 2 * BEHIND + 5, 0)):
            decision, signatures = accelerator.decide(token), accelerator.signatures()
            if number in (wrong, wrong + 1):
                signatures[3 if number == wrong else 0] ^= 1
            check.add(token, decision, signatures)
        check.finish()

    with pytest.raises(Difference, match=f"decision {wrong} of the episode differs .*the attention of layer 1"):
        fly()
    assert (check.decisions, check.compared) == (wrong, 3 * wrong)


def test_one_wrong_action_component_is_found():
    policy = random_policy(TINY, 1)
    accelerator = Accelerator(GoldenBus(TINY), TINY)
    accelerator.load(policy)
    token = random_tokens(policy, 1, 0)[0]
    decision = accelerator.decide(token)
    words = decision.words.copy()
    words[-1] ^= 1
    check = GoldenCheck(policy)
    check.add(token, decision._replace(words=words), accelerator.signatures())
    with pytest.raises(Difference, match="the head"):
        check.finish()


# The score


@pytest.mark.parametrize(
    ("environment", "total", "score"),
    [
        ("Hopper-v5", 3234.3, 100.0),
        ("Hopper-v4", -20.272305, 0.0),
        ("HalfCheetah-v5", 5927.4105235, 50.0),
        ("Walker2d-v5", 1.629008, 0.0),
        ("Ant-v5", 3879.7, 100.0),
        ("Pendulum-v1", 1.0, None),
        ("HopperLike-v1", 1.0, None),
    ],
)
def test_scores_are_d4rl_s(environment, total, score):
    assert normalized_score(environment, total) == (None if score is None else pytest.approx(score))
