# SPDX-License-Identifier: MIT
"""The studies of classic control: modules beside printed returns, and the copied previous action."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from model import study
from model.data import offline
from model.data.offline import Episodes
from model.data.tasks import find
from model.deployed.presets import TINY
from model.studies import classic, dropout
from model.studies.runs import Bench, Budget, Run, half_width, measured, summed_up
from model.training import trainer
from model.training.checkpoint import Checkpoint
from model.training.config import TrainConfig
from model.training.deployment import export

torch.set_num_threads(1)

LENGTHS = (60, 50, 40)


def _repeated(environment: str, observations: int, choices: int) -> Episodes:
    """Return episodes whose action changes every eighth step, and is seen in the observation."""
    rng, steps = np.random.default_rng(0), sum(LENGTHS)
    chosen = np.arange(steps) // 8 % choices
    seen = rng.normal(size=(steps, observations)).astype(np.float32)
    seen[:, 0] = chosen
    rewards = -np.ones(steps, np.float32)
    actions = np.eye(choices, dtype=np.float32)[chosen]
    return Episodes("repeated", environment, seen, actions, rewards, np.array(LENGTHS), True)


def _bench(
    task: str, episodes: Episodes, out: Path, monkeypatch: pytest.MonkeyPatch, flights: int = 2, seeds: int = 2
) -> Bench:
    monkeypatch.setattr(offline, "load", lambda *_, **__: episodes)
    return Bench(Budget(find(task), TINY, steps=6, quant_steps=2, batch=4, seeds=seeds, episodes=flights), out, "test")


def test_modules_are_flown_beside_what_was_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = _bench("cartpole-mixed", _repeated("CartPole-v1", 4, 2), tmp_path, monkeypatch)
    score_all, better = Bench.score_all, iter(range(100))

    def scores(self: Bench, runs: list[Run]) -> list[dict[str, Any]]:  # after six updates all return the same
        return [score | {"mean_return": score["mean_return"] + next(better) ** 2} for score in score_all(self, runs)]

    monkeypatch.setattr(Bench, "score_all", scores)
    rows = classic.measure(bench)
    assert [row["variant"] for row in rows] == [name for name in classic.VARIANTS for _ in range(2)]
    printed = {row["variant"]: row["printed_by_authors"] for row in rows}
    assert (printed["none"], printed["phase and routing"]) == ("452.3 +- 11.7", "492.3 +- 6.8")
    assert printed["adaptive"] == printed["all"] == "-"
    trained = {}
    for path in bench.out.glob("*/config.json"):
        config = json.loads(path.read_text())
        g = config["geometry"]
        trained[(g["phase"], g["routing"], g.get("adaptive", False))] = (g["heads"], config.get("step_cost", 0.0))
    assert trained == {
        ("none", "none", False): (1, 0.0),
        ("query", "none", False): (4, 0.0),
        ("none", "mlp", False): (4, 0.0),
        ("query", "mlp", False): (4, 0.0),
        ("none", "none", True): (1, classic.STEP_COST),
        ("query", "mlp", True): (4, classic.STEP_COST),
    }
    assert [row["over_none"] for row in rows] == [None, None, *(n**2 - (n % 2) ** 2 for n in range(2, 12))]
    text = study.table(classic.STUDY, rows)
    spread = np.std([row["return"] for row in rows[2:4]], ddof=1)
    half = summed_up(rows[2:4], ("variant",), ("return",))[0]["return_half"]
    assert half == pytest.approx(12.706 * spread / 2**0.5, rel=1e-3)
    assert "452.3 +- 11.7" in text
    classic.draw(Figure(), rows)


def test_an_interval_is_student_s() -> None:
    # quantiles 0.975 of 4 and 9 degrees of freedom, from a table
    assert half_width(1.0, 5) == pytest.approx(2.776 / 5**0.5)
    assert half_width(3.0, 10) == pytest.approx(3 * 2.262 / 10**0.5)
    assert half_width(1.0, 50) == pytest.approx(2.262 / 50**0.5)  # wider than its own 2.010


class _Rule(torch.nn.Module):
    """Repeats the previous action of 2 where the first observation is positive, else takes the first."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        first = torch.tensor([1.0, 0.0]).expand(*tokens.shape[:2], 2)
        return torch.where(tokens[..., :1] > 0, tokens[..., 1:3], first)


def test_hits_tell_what_a_copy_is_worth_and_where_it_fails() -> None:
    # observation, previous action, return-to-go; the first token begins an episode
    tokens = torch.tensor(
        [[[1.0, 0, 0, 9], [1, 1, 0, 9], [1, 0, 1, 9], [-1, 0, 1, 9], [-1, 1, 0, 9], [1, 1, 0, 9], [1, 0, 1, 9]]]
    )
    actions = torch.eye(2)[torch.tensor([[0, 1, 1, 0, 0, 1, 1]])]
    found = dropout.hits(_Rule(), tokens, actions)
    # turns: tokens 1, 3 and 5, of which the rule copies at 1 and 5, and is right at 3
    assert found == pytest.approx({"data_repeats": 3 / 6, "right_at_turns": 1 / 3, "copies_at_turns": 2 / 3})
    still = dropout.hits(_Rule(), tokens[:, 2:3], actions[:, 2:3])
    assert still == {"data_repeats": 1.0, "right_at_turns": None, "copies_at_turns": None}


class _Memory(torch.nn.Module):
    """Repeats the action that the token before the newest shows."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, [0, 0, 1], 1:3]


def test_leaning_of_the_window_finds_what_that_of_the_newest_token_does_not() -> None:
    tokens = torch.zeros(40, 3, 4)
    tokens[..., 1:3] = torch.eye(2)[torch.arange(40) % 2][:, None]
    assert dropout.leaning(_Memory(), tokens, 2) == 0
    assert dropout.leaning(_Memory(), tokens, 2, whole=True) == 1


def test_hidden_flights_see_no_previous_action() -> None:
    seen = []

    class Brain:
        def begin(self, batch: int) -> None:
            seen.append(batch)

        def decide(self, tokens: np.ndarray, live: list[int]) -> np.ndarray:
            seen.append(tokens)
            return tokens[:, :2]

    given = np.arange(8.0).reshape(2, 4) + 1
    blind = dropout._Blind(Brain(), slice(1, 3))
    blind.begin(2)
    np.testing.assert_array_equal(blind.decide(given, [0, 1]), [[1, 0], [5, 0]])
    assert seen[0] == 2
    np.testing.assert_array_equal(seen[1], [[1, 0, 0, 4], [5, 0, 0, 8]])
    assert given[0, 1] == 2  # the caller's stay


class _Turner:
    """Takes another action than the last it sees, and the first where it sees none."""

    def begin(self, batch: int) -> None:
        pass

    def decide(self, tokens: np.ndarray, live: list[int]) -> np.ndarray:
        return np.where(tokens[:, 2:5].any(1, keepdims=True), np.roll(tokens[:, 2:5], 1, axis=1), [1.0, 0, 0])


@pytest.mark.parametrize(("hidden", "repeats", "first_swing"), [(False, 0.0, 1.0), (True, 1.0, 200.0)])
def test_a_flight_tells_how_often_the_last_action_comes_again(
    hidden: bool, repeats: float, first_swing: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = _bench("mountaincar-mixed", _repeated("MountainCar-v0", 2, 3), tmp_path, monkeypatch)
    (run,) = bench.train([bench.budget.config(0, steps=1)])
    monkeypatch.setattr(dropout, "brain_of", lambda _: _Turner())
    assert dropout.fly(run, 2, hidden) == {"return": -200.0, "repeats": repeats, "first_swing": first_swing}


@pytest.mark.parametrize("name", ["PSSA", "DT, three tokens"])
def test_a_policy_that_was_never_shown_its_action_does_not_read_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = _bench("mountaincar-mixed", _repeated("MountainCar-v0", 2, 3), tmp_path / "a", monkeypatch)
    config = bench.budget.config(0, **dropout.NETWORKS[name] | {"action_dropout": 1.0})
    (run,) = bench.train([config])
    network = run.load().network
    tokens = torch.randn(16, 24, 6, generator=torch.Generator().manual_seed(0))
    hidden = tokens.clone()
    hidden[..., 2:5] = 0
    assert torch.equal(network(tokens), network(hidden))
    assert not torch.equal(network(tokens[..., [1, 0, 2, 3, 4, 5]]), network(hidden))
    # it is the policy that training without would come to, flown without its action
    monkeypatch.setattr(trainer, "unread", lambda *_: None)
    other = Bench(bench.budget, tmp_path / "b", "test")
    (reading,) = other.train([config])
    assert torch.equal(reading.load().network(hidden), network(hidden))
    assert not torch.equal(reading.load().network(tokens), network(tokens))


def test_the_artifact_of_such_a_policy_does_not_read_it_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = _bench("mountaincar-mixed", _repeated("MountainCar-v0", 2, 3), tmp_path, monkeypatch)
    (run,) = bench.train([bench.budget.config(0, action_dropout=1.0, quant_steps=4)])
    policy, _ = export(run.file)
    assert not policy.tensors["embed.weight"][:, 2:5].any()
    assert policy.tensors["embed.weight"][:, :2].any()


def test_a_result_can_leave_out_the_action_that_training_showed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = _bench("mountaincar-mixed", _repeated("MountainCar-v0", 2, 3), tmp_path, monkeypatch)
    shown = bench.budget.config(0, action_dropout=0.25, average=0.9)
    (with_it,), (without,) = (
        bench.train([dataclasses.replace(shown, **more)]) for more in ({}, {"action_hidden": True, "quant_steps": 4})
    )
    network, blind = with_it.load().network, Checkpoint.load(without.folder / "float.pt").network.eval()
    tokens = torch.randn(16, 24, 6, generator=torch.Generator().manual_seed(0))
    hidden = tokens.clone()
    hidden[..., 2:5] = 0
    assert torch.equal(blind(tokens), network(hidden))
    assert not torch.equal(network(tokens), network(hidden))
    policy, _ = export(without.file)  # the quantised phase has not learned to read it again
    assert not policy.tensors["embed.weight"][:, 2:5].any()
    assert "action_hidden" not in shown.to_json()
    assert TrainConfig.from_json(without.config.to_json()) == without.config


def test_networks_are_flown_with_and_without_their_last_action(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = ("PSSA", "PSSA, deployed", "DT, three tokens", "BC")
    monkeypatch.setattr(dropout, "NETWORKS", {name: dropout.NETWORKS[name] for name in kept})
    monkeypatch.setattr(dropout, "DROPOUTS", (0.0, 1.0))
    monkeypatch.setattr(dropout, "SAMPLES", 8)
    bench = _bench("mountaincar-mixed", _repeated("MountainCar-v0", 2, 3), tmp_path, monkeypatch, seeds=1)
    rows = dropout.measure(bench)
    assert [(row["network"], row["action_dropout"]) for row in rows] == [
        ("PSSA", 0.0),
        ("PSSA", 1.0),
        ("PSSA, deployed", 0.25),
        ("DT, three tokens", 0.0),
        ("DT, three tokens", 1.0),
        ("BC", 0.0),
    ]
    assert all(-200 <= row[value] <= 0 for row in rows for value in ("return", "return_hidden"))
    assert all(0 <= row["repeats"] <= 1 <= row["first_swing"] <= 200 for row in rows)
    assert all(row["data_repeats"] == pytest.approx(7 / 8, abs=0.05) for row in rows)
    for row in (rows[2], rows[-1]):  # none of them reads it
        assert row["leaning"] == row["leaning_window"] == 0
        assert row["return"] == row["return_hidden"]
    dropout.draw(Figure(), rows)
    # what was flown and probed is kept
    monkeypatch.setattr(dropout, "fly", lambda *_: pytest.fail("flown again"))
    monkeypatch.setattr(dropout, "_probes", lambda *_: pytest.fail("probed again"))
    assert dropout.measure(bench) == rows
    bench = _bench("mountaincar-mixed", bench.episodes, tmp_path, monkeypatch, flights=0, seeds=1)
    unflown = dropout.measure(bench)
    assert unflown[0]["return"] is None
    assert unflown[0]["leaning"] == rows[0]["leaning"]
    dropout.draw(Figure(), unflown)


def test_what_is_measured_is_measured_once(tmp_path: Path) -> None:
    calls = []

    def job() -> dict[str, Any]:
        calls.append(1)
        return {"a": len(calls)}

    jobs = {tmp_path / "x" / "one.json": job, tmp_path / "y" / "two.json": job}
    assert measured("count", jobs) == [{"a": 1}, {"a": 2}]
    assert measured("count", jobs) == [{"a": 1}, {"a": 2}]
