# SPDX-License-Identifier: MIT
"""The table of shipped policies from their artifacts, and the measurements it takes: stale, edited, resumed."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from host.accelerator import Counters, Decision
from host.check import GoldenCheck
from host.episode import Episode, Step
from host.golden_device import GoldenBus
from host.run_folder import summarise
from model import policies as table
from model.deployed import zoo
from model.deployed.artifact import Policy
from model.deployed.presets import TINY
from model.deployed.random_policy import random_policy
from sim import flight
from sim import policies as measuring

# MuJoCo warns of attributes in Gymnasium's own models, Gymnasium of its older environments
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gymnasium", "ignore::DeprecationWarning:mujoco")

SMALL = dataclasses.replace(TINY, observation_size=4, action_size=2)


def score(kind: str, mean: float, normalised: float | None, first_seed: int = 0) -> dict[str, Any]:
    return {
        "kind": kind,
        "mean_return": mean,
        "std_return": 12.5,
        "normalised_score": normalised,
        "episodes": 20,
        "first_seed": first_seed,
        "active_rows_per_decision": 163.906,
        "dense_rows_per_decision": 384,
    }


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Policy]:
    """A zoo of two policies in a folder of its own, nothing measured."""
    scores = [score("float", 410.25, 80.04, first_seed=5), score("quantised", 400.0, 77.96)]
    shelf = {
        "bare": dataclasses.replace(random_policy(TINY, 2), environment="Hopper-v5"),
        "scored": dataclasses.replace(
            random_policy(SMALL, 1),
            environment="CartPole-v1",
            discrete=True,
            provenance={"dataset": "cartpole/mixed-v0", "scores": scores},
        ),
    }
    (tmp_path / "shelf").mkdir()
    monkeypatch.setattr(zoo, "POLICIES", tmp_path / "shelf")
    monkeypatch.setattr(zoo, "TEST_POLICY", "bare")
    monkeypatch.setattr(table, "MEASURED", tmp_path / "policies.json")
    for name, policy in shelf.items():
        policy.save(tmp_path / "shelf" / f"{name}.safetensors")
    return shelf


def measurement(policy: Policy) -> dict[str, Any]:
    entry = {"policy_digest": policy.digest, "cycles_min": 1973, "cycles_median": 2058.5, "cycles_max": 3157}
    return entry | {"checked_actions": 60000, "mismatches": 0}


def lines(text: str) -> list[dict[str, str]]:
    """Return a table's rows by heading."""
    head, rule, *rest = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines()]
    assert set("".join(rule)) == {"-"}
    return [dict(zip(head, row, strict=True)) for row in rest]


# The table


def test_the_table_is_made_of_artifacts_and_measurements(
    shelf: dict[str, Policy], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = shelf["scored"].digest
    table.MEASURED.write_text(json.dumps({digest: measurement(shelf["scored"])}))
    assert table.main(["--json", str(tmp_path / "all.json"), "--markdown", str(tmp_path / "all.md")]) == 0
    printed = capsys.readouterr().out
    assert printed in (tmp_path / "all.md").read_text()
    bare, scored = lines(printed)
    assert scored == {
        "policy": "scored",
        "data set": "cartpole/mixed-v0",
        "environment": "CartPole-v1",
        "geometry": SMALL.digest[:12],
        "return": "400.0 ± 12.5 (78.0)",
        "float model's": "410.2 ± 12.5 (80.0)",
        "episodes (seeds)": "20 (0 to 19); 20 (5 to 24)",
        "rows a decision": "164 of 384",
        "cycles a decision": "2,058 (1,973 to 3,157)",
        "words compared; different": "60,000; 0",
        "bytes": f"{(zoo.POLICIES / 'scored.safetensors').stat().st_size:,}",
        "digest": digest[:16],
    }
    assert (bare["policy"], bare["data set"], bare["geometry"]) == ("bare (test policy)", "unknown", "TINY")
    assert (bare["return"], bare["float model's"], bare["rows a decision"]) == ("not scored",) * 3
    assert bare["cycles a decision"] == bare["words compared; different"] == "not measured"
    second = json.loads((tmp_path / "all.json").read_text())[1]
    assert second["measured"] == measurement(shelf["scored"])
    assert second["score"] == shelf["scored"].provenance["scores"][1]
    assert (second["discrete"], second["digest"], second["geometry_digest"]) == (True, digest, SMALL.digest)


def test_a_measurement_of_another_artifact_shows_no_figure(
    shelf: dict[str, Policy], capsys: pytest.CaptureFixture[str]
) -> None:
    table.MEASURED.write_text(json.dumps({shelf["scored"].digest: measurement(shelf["scored"])}))
    trained_again = dataclasses.replace(shelf["scored"], target_return=1.0)
    trained_again.save(zoo.POLICIES / "scored.safetensors")
    assert table.main([]) == 0
    scored = lines(capsys.readouterr().out)[1]
    assert scored["digest"] == trained_again.digest[:16]
    assert scored["cycles a decision"] == scored["words compared; different"] == "not measured"


def test_scores_say_their_episodes() -> None:
    assert table.flown(score("float", 1, 1), score("quantised", 1, 1)) == "20 (0 to 19)"
    assert table.flown(score("float", 1, 1, 5), score("quantised", 1, 1)) == "20 (5 to 24); 20 (0 to 19)"
    assert table.flown(None, score("quantised", 1, 1)) == "20 (0 to 19)"
    assert table.reached(score("float", -170.0, None)) == "-170.0 ± 12.5"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[1", "holds no measurements"),
        ("[1]", "holds no measurements"),
        ('{"a": 1}', "holds no measurements"),
        ('{"abc": {"policy_digest": "abd"}}', "abc names the measurement of another artifact"),
    ],
)
@pytest.mark.parametrize("command", [table, measuring], ids=["model", "sim"])
def test_measurements_that_cannot_be_read_are_refused_and_kept(
    command: Any, content: str, sentence: str, shelf: dict[str, Policy], capsys: pytest.CaptureFixture[str]
) -> None:
    table.MEASURED.write_text(content)
    assert command.main([] if command is table else ["--json", str(table.MEASURED)]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1
    assert table.MEASURED.read_text() == content


def test_a_place_that_cannot_be_written_is_named_first(
    shelf: dict[str, Policy], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert table.main(["--markdown", str(tmp_path / "shelf")]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "cannot be written" in err


# The measurement


def test_a_summary_takes_cycles_and_rows_of_all_decisions() -> None:
    policy, episodes = random_policy(TINY, 1), [Episode(0), Episode(1)]
    for index, cycles in enumerate([10, 50, 30, 90, 25]):
        counters = Counters(0, 0, [index, 10], {}, {})
        step = Step([], [], Decision(index, cycles, []), counters, [], 0.0, 1.0)  # type: ignore[arg-type]
        episodes[index // 4].steps.append(step)
    summary = summarise(episodes, policy, "Hopper-v5", 1.0, "verilated", False)
    assert [summary[f"cycles_{name}"] for name in ("min", "median", "max")] == [10, 30, 90]
    assert summary["active_rows_per_decision"] == 12
    assert [episode["cycles_median"] for episode in summary["episodes"]] == [40, 25]


@pytest.fixture
def golden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fly on the golden integers, which need no compiler and have no cycles."""
    monkeypatch.setattr(flight, "library", lambda geometry, note: geometry)
    monkeypatch.setattr(flight, "VerilatedBus", GoldenBus)


def measure(*options: str) -> int:
    return measuring.main([*options, "--episodes", "2", "--json", str(table.MEASURED)])


@pytest.mark.usefixtures("golden")
def test_measuring_goes_on_where_it_stopped(
    shelf: dict[str, Policy], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flown: list[int] = []
    fly = measuring.fly

    def stop(episode: Episode, *others: Any) -> None:
        if len(flown) == 3:
            raise KeyboardInterrupt
        flown.append(episode.seed)
        fly(episode, *others)

    monkeypatch.setattr(measuring, "fly", stop)
    assert measure("--seed", "7") == 130
    assert "keeps the policies that had flown all their episodes" in capsys.readouterr().err
    (entry,) = table.measurements(table.MEASURED).values()
    assert (entry["policy"], entry["policy_digest"], flown) == ("bare", shelf["bare"].digest, [7, 8, 7])
    assert [episode["seed"] for episode in entry["episodes"]] == [7, 8]
    assert entry["checked_actions"] == 3 * entry["steps"] > 0

    flown.clear()
    monkeypatch.setattr(measuring, "fly", lambda e, *others: flown.append(e.seed) or fly(e, *others))
    assert measure("--seed", "7") == 0
    assert flown == [7, 8]  # the other policy alone
    assert "bare: measured before" in capsys.readouterr().err
    assert list(table.measurements(table.MEASURED)) == [shelf["bare"].digest, shelf["scored"].digest]
    assert table.measurements(table.MEASURED)[shelf["bare"].digest] == entry

    flown.clear()
    assert measure("--seed", "7") == 0
    assert flown == []
    assert measure("scored", "--seed", "9") == 0  # other episodes
    assert measure("scored", "--seed", "9", "--again") == 0
    assert flown == [9, 10, 9, 10]


@pytest.mark.usefixtures("golden")
def test_a_policy_that_changed_is_measured_again_and_replaces_its_measurement(shelf: dict[str, Policy]) -> None:
    assert measure("scored", "bare") == 0
    other = dataclasses.replace(shelf["scored"], target_return=3.0)
    other.save(zoo.POLICIES / "scored.safetensors")
    assert measure() == 0
    assert list(table.measurements(table.MEASURED)) == [shelf["bare"].digest, other.digest]


@pytest.mark.usefixtures("golden")
def test_a_difference_is_kept_and_flown_again(
    shelf: dict[str, Policy], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Wrong(GoldenCheck):
        episode = -1

        def begin(self) -> None:
            super().begin()
            self.episode += 1
            self.taken = 0

        def add(self, token: Any, decision: Decision, signatures: list[int]) -> None:
            if (self.episode, self.taken) == (2, 3):  # it begins once more when it is made
                decision = decision._replace(words=decision.words ^ 1)
            self.taken += 1
            super().add(token, decision, signatures)

    with monkeypatch.context() as patch:
        patch.setattr(measuring, "GoldenCheck", Wrong)
        assert measure("scored") == 1
    out, err = capsys.readouterr()
    assert "scored, seed 1: decision 3 of the episode differs from the golden network" in err
    (entry,) = table.measurements(table.MEASURED).values()
    assert [(e["mismatches"], e["checked_actions"]) for e in entry["episodes"]][1] == (1, 6)
    assert (entry["mismatches"], len(entry["episodes"])) == (1, 2)
    assert out.endswith(f"action words compared; different: {entry['checked_actions']}; 1\n")
    assert entry["checked_actions"] < 2 * entry["steps"]  # the check follows behind
    assert measure("scored") == 0
    (entry,) = table.measurements(table.MEASURED).values()
    assert (entry["mismatches"], len(entry["episodes"])) == (0, 2)


@pytest.mark.usefixtures("golden")
def test_a_policy_that_cannot_fly_does_not_keep_the_others(
    shelf: dict[str, Policy], capsys: pytest.CaptureFixture[str]
) -> None:
    (zoo.POLICIES / "bare.safetensors").write_text("damaged")
    dataclasses.replace(shelf["scored"], environment="Nowhere-v0").save(zoo.POLICIES / "lost.safetensors")
    assert measure() == 1
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 2
    assert "sim.policies: bare: " in err[0]
    assert "is no whole policy artifact" in err[0]
    assert "sim.policies: lost: the environment Nowhere-v0 cannot be made" in err[1]
    assert list(table.measurements(table.MEASURED)) == [shelf["scored"].digest]


def test_only_shipped_policies_are_measured(shelf: dict[str, Policy], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        measure("hopper-medium")
    assert stopped.value.code == 2
    assert "hopper-medium is not among the shipped policies: bare (test policy), scored" in capsys.readouterr().err
