# SPDX-License-Identifier: MIT
"""The studies of plasticity: beside the gradient, and alone in a changed world."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from model import study
from model.data import offline
from model.data.offline import Episodes, Normaliser
from model.data.tasks import find
from model.deployed import zoo
from model.deployed.artifact import ACTION_SCALE, Policy, quantise_token
from model.deployed.golden_plasticity import PlasticNetwork
from model.deployed.presets import TINY
from model.deployed.sizes import Plasticity
from model.deployed.yardstick import Yardstick
from model.scores import rollout
from model.studies import changed, plasticity
from model.studies.learners import Learners
from model.studies.runs import Bench, Budget
from model.training import trainer

torch.set_num_threads(1)

RULE = Plasticity(trace_bits=10, trace_shift=2, rate_shift=6, most_change=5)


def _learning() -> Policy:
    policy = Policy.load(zoo.find(zoo.TEST_POLICY))
    return dataclasses.replace(policy, geometry=dataclasses.replace(policy.geometry, plasticity=RULE))


def _bench(task: str, out: Path, monkeypatch: pytest.MonkeyPatch, steps: int = 6, flights: int = 2) -> Bench:
    rng, lengths = np.random.default_rng(0), np.array([60, 50, 40])
    chosen = np.arange(150) // 8 % 2
    seen = rng.normal(size=(150, 4)).astype(np.float32)
    seen[:, 0] = chosen
    actions = np.eye(2, dtype=np.float32)[chosen]
    episodes = Episodes("test", "CartPole-v1", seen, actions, np.ones(150, np.float32), lengths, True)
    monkeypatch.setattr(offline, "load", lambda *_, **__: episodes)
    return Bench(Budget(find(task), TINY, steps=steps, quant_steps=2, batch=4, seeds=2, episodes=flights), out, "test")


# Beside the gradient


def test_a_target_is_reached_where_the_line_between_two_losses_crosses_it() -> None:
    curve = [(100, 9.0, 3.0), (200, 9.0, 2.0), (300, 9.0, 2.5), (400, 9.0, 1.0)]
    assert plasticity.reached(curve, 2.25) == 175
    assert plasticity.reached(curve, 2.0) == 200
    assert plasticity.reached(curve, 1.5) == pytest.approx(300 + 100 * 1.0 / 1.5)
    assert plasticity.reached(curve, 4.0) == 100
    assert plasticity.reached(curve, 0.5) is None


def test_updates_are_compared_with_the_same_seed_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "LOG_EVERY", 4)
    bench = _bench("cartpole-mixed", tmp_path, monkeypatch, steps=20)
    rows = plasticity.measure(bench)
    names = ["without", *(f"{rate:g}" for rate in plasticity.RATES[1:])]
    assert [(row["variant"], row["seed"]) for row in rows] == [(name, seed) for name in names for seed in range(2)]
    for row in rows[:2]:
        # at four fifths of the updates or, where the loss rose again, before
        assert row["reached"] == 1
        assert row["updates_to_target"] <= 16
        assert dict(row["curve"])[16] == pytest.approx(1.0)
        assert row["updates_over"] is row["loss_over"] is row["return_over"] is None
    for row in rows[2:]:
        plain = rows[row["seed"]]
        assert row["target"] == plain["target"]
        assert row["loss_over"] == row["validation_loss"] - plain["validation_loss"]
        assert row["loss_over"]
        assert row["return_over"] == row["return"] - plain["return"]
        assert (row["updates_over"] is None) == (row["reached"] == 0)
    text = study.table(plasticity.STUDY, rows)
    assert "without" in text
    plasticity.draw(Figure(), rows)
    again = plasticity.measure(bench)
    assert again == rows


# Alone in a changed world


def test_yardsticks_measure_each_learner_against_its_own_past() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(100, 20, (12, 3))
    told = [[0, 1, 2], [0, 2], [0, 1, 2], *([[0, 1, 2]] * 9)]
    stick, past = Yardstick(3, 127), [[], [], []]
    for now, rows in zip(values, told, strict=True):
        factors = stick.factor(now, rows).tolist()
        for row in range(3):
            expected = 0
            if row in rows:
                if len(past[row]) > 1:
                    worth = (now[row] - np.mean(past[row])) / (2 * np.std(past[row], ddof=1))
                    expected = round(127 * float(np.clip(worth, -1, 1)))
                past[row].append(now[row])
            assert factors[row] == expected
    assert Yardstick(1, 127).factor(np.ones(1), [0]).tolist() == [0]
    same = Yardstick(1, 127)
    assert [same.factor(np.ones(1), [0]).tolist() for _ in range(4)] == [[0]] * 4  # no deviation


@pytest.mark.parametrize("every", [0, 3])
def test_learners_are_as_many_plastic_networks(every: int) -> None:
    policy, learners = _learning(), 3
    ours = Learners(policy, changed.weights(policy, learners), every=every)
    theirs = [PlasticNetwork(policy) for _ in range(learners)]
    sticks = [Yardstick(1, ours.limit) for _ in range(learners)]
    rng = np.random.default_rng(0)
    lengths = [30, 17, 24]
    for episode in range(3):
        ours.begin(learners)
        for network in theirs:
            network.reset()
        to_go = np.full(learners, 3.0)
        told = to_go.copy()
        for step in range(max(lengths)):
            live = [row for row in range(learners) if step < lengths[row]]
            tokens = rng.normal(0, 1.5, (learners, policy.input_size))
            tokens[:, -1] = to_go
            actions = ours.decide(tokens, live)
            for row in live:
                if every and step and step % every == 0:
                    reward = (told[row] - to_go[row]) * policy.return_scale
                    theirs[row].learn(int(sticks[row].factor(np.array([reward]), [0])[0]))
                    told[row] = to_go[row]
                words = theirs[row].decide(quantise_token(policy, tokens[row])).action
                np.testing.assert_array_equal(actions[row] * ACTION_SCALE, words)
            to_go[live] -= rng.normal(0, 0.1, len(live))
        for row, network in enumerate(theirs):
            np.testing.assert_array_equal(ours.eligibility[row].numpy(), network.eligibility)
            np.testing.assert_array_equal(ours.weight[row].numpy(), network.weight)
        if not every:
            factors = [100, -90 + episode, 0]
            ours.learn(torch.tensor(factors))
            for factor, network in zip(factors, theirs, strict=True):
                network.learn(factor)
        lengths = lengths[1:] + lengths[:1]
    moved = (ours.weight != changed.weights(policy, learners)).flatten(1).any(1).tolist()
    assert moved == [True, True, bool(every)]


def test_frozen_learners_stand_still() -> None:
    policy = _learning()
    frozen = Learners(policy, changed.weights(policy, 2), frozen=True, every=2)
    frozen.begin(2)
    for n in range(6):
        frozen.decide(np.full((2, policy.input_size), 1.0 - n), [0, 1])
    frozen.learn(torch.tensor([127, -127]))
    assert torch.equal(frozen.weight, changed.weights(policy, 2))
    assert not frozen.eligibility.any()


def test_a_score_is_what_the_golden_network_returns_with_each_learner_s_head() -> None:
    policy = dataclasses.replace(Policy.load(zoo.find(zoo.TEST_POLICY)), environment='Hopper-v5 {"frame_skip": 8}')
    weight = changed.weights(policy, 2)
    weight[1] = -weight[1]
    normaliser = Normaliser(policy.input_mean, policy.input_std, policy.return_scale)
    for learner, found in enumerate(changed.score(policy, weight, policy.environment, 3)):
        tensors = policy.tensors | {"head.weight": weight[learner].numpy()}
        brain = rollout.GoldenBrain(dataclasses.replace(policy, tensors=tensors))
        seeds = range(1000 * (learner + 1) + 500, 1000 * (learner + 1) + 503)
        done = rollout.run(brain, policy.environment, normaliser, policy.target_return, seeds)
        assert found == np.mean([sum(episode.rewards) for episode in done])


def test_chance_moves_other_weights_by_the_same() -> None:
    rng = torch.Generator().manual_seed(0)
    before = torch.randint(-50, 50, (2, 3, 16), generator=rng)
    after = before + torch.randint(-8, 9, before.shape, generator=rng) * (torch.rand(before.shape, generator=rng) < 0.3)
    chance = changed.scattered(before, after, 8)
    for old, learned, drawn in zip(before, after, chance, strict=True):
        sizes = [sorted((new - old).abs().flatten().tolist()) for new in (learned, drawn)]
        assert sizes[0] == sizes[1]
        assert not torch.equal(learned, drawn)
    assert {-1, 1} <= set(torch.sign(chance - before).flatten().tolist())
    assert torch.equal(chance, changed.scattered(before, after, 8))
    edge = changed.scattered(torch.full((1, 1, 64), 127), torch.full((1, 1, 64), 107), 8)
    assert edge.tolist() == [[[107] * 64]]  # the other way is out of range


def test_a_shipped_policy_learns_in_every_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = Policy.load(zoo.find(zoo.TEST_POLICY))
    test_policy = tmp_path / "short.safetensors"
    dataclasses.replace(short, environment='Hopper-v5 {"max_episode_steps": 30}').save(test_policy)
    monkeypatch.setattr(zoo, "find", lambda name: test_policy if name == "hopper-medium" else Path("none"))
    monkeypatch.setattr(changed, "LEARNING", 4)
    monkeypatch.setattr(changed, "WORLDS", {"as trained": {}, "gear x 0.5": {"gear": 0.5}})
    rule = dataclasses.replace(RULE, rate_shift=8)
    monkeypatch.setattr(changed, "RULES", {"episodes": (0, rule), "4 steps": (4, rule)})
    bench = _bench("hopper-medium", tmp_path, monkeypatch)
    rows = changed.measure(bench)
    labels = ["none", "episodes", "chance, as episodes", "4 steps", "chance, as 4 steps"]
    assert [(row["world"], row["learning"], row["seed"]) for row in rows] == [
        (world, label, seed) for world in changed.WORLDS for label in labels for seed in range(2)
    ]
    policy = Policy.load(test_policy)
    again = changed.score(policy, changed.weights(policy, 2), policy.environment, 2)
    for row in rows:
        assert row["over_before"] == row["after"] - row["before"]
        assert (row["size"] == 0) == (row["learning"] == "none")
        assert len(row["flown"] or []) == (4 if row["learning"] in changed.RULES else 0)
        if row["world"] == "as trained":
            assert row["before"] == again[row["seed"]]
        if row["learning"] == "none":
            assert row["after"] == row["before"]
        if row["learning"] not in changed.RULES:
            assert row["over_chance"] is None
        if row["learning"].startswith("chance"):
            (learned,) = [
                other
                for other in rows
                if (other["world"], other["seed"]) == (row["world"], row["seed"])
                and row["learning"] == f"chance, as {other['learning']}"
            ]
            assert row["size"] == pytest.approx(learned["size"])
            assert learned["over_chance"] == learned["after"] - row["after"]
    assert len({rows[0]["before"], rows[1]["before"], rows[10]["before"]}) == 3  # of each learner, of each world
    text = study.table(changed.STUDY, rows)
    assert "chance, as episodes" in text
    changed.draw(Figure(), rows)
    kept: list[Any] = []
    monkeypatch.setattr(changed, "_measure", lambda *_: kept.append(1))
    assert changed.measure(bench) == rows
    assert not kept


def test_a_task_without_a_shipped_policy_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _bench("cartpole-mixed", tmp_path, monkeypatch)
    command = ["changed", "--task", "cartpole-mixed", "--geometry", "CLASSIC", "--out", str(tmp_path)]
    assert study.main(command) == 2
    assert "there is no policy cartpole-mixed, neither a file nor a shipped one" in capsys.readouterr().err
