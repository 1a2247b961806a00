# SPDX-License-Identifier: MIT
"""The study of step gates: what it flies and counts, gait phases by hand, its figure."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from host.golden_device import GoldenBus
from host.verilated import BuildError
from model.data.tasks import find
from model.deployed.presets import TINY
from model.deployed.random_policy import random_policy, random_tokens
from model.studies import adaptive, gait
from model.studies.plots import draw
from model.studies.runs import Bench, Budget
from tests import swing

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")

TASK = "pendulum-mixed"


@pytest.fixture
def _golden_circuit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model of the circuit's registers in place of the verilated one, which takes minutes to build."""
    monkeypatch.setattr(adaptive, "library", lambda geometry: geometry)
    monkeypatch.setattr(adaptive, "VerilatedBus", GoldenBus)


@pytest.mark.usefixtures("_golden_circuit")
def test_measures_gates_and_fixed_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swing.make(tmp_path, find(TASK).dataset, [60, 50, 40])
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setattr(adaptive, "FIXED", (1, 4))
    monkeypatch.setattr(adaptive, "STEP_COSTS", (0.0, 3.0))
    budget = Budget(find(TASK), dataclasses.replace(TINY, layers=1), 60, 20, 8, seeds=1, episodes=2)
    rows = adaptive.measure(Bench(budget, tmp_path / "runs", "test"))
    assert [(row["steps"], row["step_cost"]) for row in rows] == [
        ("1", None),
        ("4", None),
        ("1 to 4", 0.0),
        ("1 to 4", 3.0),
    ]
    assert [row["live_steps"] for row in rows[:2]] == [1.0, 4.0]
    assert rows[3]["live_steps"] < rows[2]["live_steps"]
    for row in rows:
        assert row["compared"] == 200
        by_step = np.array(row["profiles"]["step"])
        assert by_step[:, 0].tolist() == [0, 50, 100, 150]
        for name in ("step", "to_go"):
            _, means, counts = np.array(row["profiles"][name]).T
            assert counts.sum() == 400
            assert row["live_steps"] == pytest.approx(np.average(means, weights=counts), abs=1e-4)
        assert row["profiles"]["phase"] == []
        assert row["fetch_cycles"] > row["rows"] / TINY.rows_per_cycle - 1
        assert np.isfinite(row["return"])
    draw(adaptive.STUDY, rows, tmp_path / "a.png")
    draw(
        adaptive.STUDY,
        [row | dict.fromkeys((*adaptive.MEASURED, *adaptive.CHOICES)) for row in rows],
        tmp_path / "b.png",
    )
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


@pytest.mark.usefixtures("_golden_circuit")
def test_the_circuit_s_words_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, other = (random_policy(dataclasses.replace(TINY, adaptive=True), seed) for seed in (0, 1))
    tokens = random_tokens(policy, 10, 0)
    assert adaptive.circuit_cycles(policy, tokens)[1] == 30
    golden = adaptive.GoldenNetwork
    monkeypatch.setattr(adaptive, "GoldenNetwork", lambda _: golden(other))
    with pytest.raises(AssertionError, match="Arrays are not equal"):
        adaptive.circuit_cycles(policy, tokens)


def test_without_a_compiler_there_are_no_cycles(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def broken(geometry: Any) -> Path:
        raise BuildError("no g++ found")

    monkeypatch.setattr(adaptive, "library", broken)
    policy = random_policy(TINY, 0)
    assert adaptive.circuit_cycles(policy, random_tokens(policy, 3, 0)) == (None, 0)
    assert "no cycles: no g++ found" in capsys.readouterr().out


def test_cycles_and_live_steps_by_what_was_chosen() -> None:
    first = {"live": [[1, 1], [1, 3], [4, 4], [4, 2]], "phase": [None, 0.1, 0.3, 0.8], "cycles": [10, 12, 20, 14]}
    other = {"live": [[2, 2], [1, 1]], "phase": [0.74, 0.0], "cycles": None}
    found = adaptive.by_choice([first, other])
    assert found == {"cycles_few": 10.0, "cycles_many": 20.0, "live_low": 2.0, "live_high": 3.0}
    still = adaptive.by_choice([first | {"live": [[4, 4]] * 4}])
    assert still == dict.fromkeys(adaptive.CHOICES)


def test_profiles_are_means_of_the_decisions_in_a_bin() -> None:
    first = {"live": [[1, 2]] * 49 + [[4, 4], [2, 2]], "to_go": [10.0] * 50 + [3.9], "phase": [None] * 49 + [0.1, 0.05]}
    other = {"live": [[3, 3]], "to_go": [-0.5], "phase": [0.12]}
    found = adaptive.profiles([first, other], 2.0)
    early = (49 * 1.5 + 4 + 3) / 51
    assert found == {
        "step": [[0.0, round(early, 4), 51], [50.0, 2.0, 1]],
        "to_go": [[-2.0, 3.0, 1], [2.0, 2.0, 1], [10.0, round((49 * 1.5 + 4) / 50, 4), 50]],
        "phase": [[0.05, 2.0, 1], [0.1, 3.5, 2]],
    }


def test_a_phase_runs_from_lowest_point_to_lowest_point() -> None:
    hop = [1.0] * 20 + [-1.0] * 30
    velocity = [-1.0] * 7 + hop + [1.0] * 25 + [-1.0] * 25 + [1.0] * 9
    observations = np.zeros((len(velocity), 11))
    observations[:, 6] = velocity
    found = gait.phases("Hopper-v5", observations)
    assert found[:7] == [None] * 7
    assert found[7:57] == [n / 50 for n in range(50)]
    assert found[57:107] == [n / 50 for n in range(50)]
    assert found[107:] == [None] * 9
    assert gait.phases("Pendulum-v1", observations) == [None] * len(velocity)


def test_wobbles_are_part_of_a_hop_and_a_long_fall_is_none() -> None:
    observations = np.zeros((400, 11))
    observations[:, 6] = -1.0
    for turn in (10, 15, 60, 350):  # 5 after the first: a wobble; 290 after the third: no gait
        observations[turn, 6] = 1.0
    found = gait.phases("Hopper-v5", observations)
    assert found[10] == 0.0
    assert found[15] == 0.1
    assert found[59] == 0.98
    assert found[60:] == [None] * 340
