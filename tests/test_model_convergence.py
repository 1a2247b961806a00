# SPDX-License-Identifier: MIT
"""The theorems of docs/theory.md on what they are about: codes, fixed points, the way there, the network's neuron."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from model.deployed.golden import lif
from model.studies import convergence
from model.studies.convergence import CODES, bounded, code_error, fixed_point, floor_bound, learn, spread
from model.studies.runs import Bench
from tests import swing

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")

GRID = np.arange(1025) / 1024
"""Exact in floating point, like every sum of them that a neuron makes."""


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 13])
def test_what_codes_stand_for(steps: int) -> None:
    rng = np.random.default_rng(0)
    stood, count = CODES["integrated rate"](GRID, steps, rng)
    assert np.array_equal(count, np.floor(steps * GRID + 0.5))
    assert np.abs(stood - GRID).max() <= code_error("integrated rate", steps) + 1e-15
    assert len(np.unique(stood)) == steps + 1
    stood, count = CODES["binary"](GRID, steps, rng)
    whole = np.floor(GRID * 2**steps).astype(int)
    whole[-1] -= 1  # 1 itself is above what the weights add up to
    assert np.array_equal(stood, whole / 2**steps)
    assert count.tolist() == [number.bit_count() for number in whole.tolist()]
    assert np.abs(stood - GRID).max() <= code_error("binary", steps)
    assert len(np.unique(stood)) == min(2**steps, 1025)


def test_chance_has_the_mean_and_the_moments_that_are_said() -> None:
    rng = np.random.default_rng(1)
    x = rng.random((20, 3))
    drawn = np.stack([CODES["random rate"](x, 4, rng)[0] for _ in range(20_000)])
    assert np.abs(drawn.mean(0) - x).max() < 0.01
    assert (
        np.abs(np.einsum("nsi,nsj->ij", drawn, drawn) / drawn[..., 0].size - spread("random rate", x, 4)).max() < 2e-3
    )


@pytest.mark.parametrize("code", CODES)
def test_the_fixed_point_is_where_the_gradient_vanishes_and_no_farther_than_said(code: str) -> None:
    rng = np.random.default_rng(2)
    x, w = rng.random((500, 6)), rng.normal(size=(2, 6))
    floors = []
    for steps in (4, 8, 16):
        best = fixed_point(code, x, w, steps)
        seen = x if code == "random rate" else CODES[code](x, steps, rng)[0]
        gradient = best @ spread(code, x, steps) - w @ x.T @ seen / len(x)
        assert np.abs(gradient).max() < 1e-12
        floors.append(math.sqrt(((best - w) ** 2).sum() / (w**2).sum()))
        assert floors[-1] <= floor_bound(code, x, steps)
    assert floors[0] > floors[1] > floors[2] > 0


@pytest.mark.parametrize("code", CODES)
def test_learning_stays_below_its_bound_on_average(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convergence, "UPDATES", 400)
    rng = np.random.default_rng(3)
    x, w = rng.random((500, 4)), rng.normal(size=(2, 4))
    runs = [learn(code, x, w, 4, np.random.default_rng(seed)) for seed in range(10)]
    for index, (update, _) in enumerate(runs[0][0]):
        mean = np.mean([path[index][1] for path, _ in runs])
        assert mean <= bounded(runs[0][1], update, 1.0) ** 2 * (1 + 1e-9)
    assert runs[0][0][-1][1] < 1e-2 * runs[0][0][0][1]


def test_inputs_that_tell_no_weights_apart_have_no_bound() -> None:
    x = np.repeat(np.random.default_rng(4).random((50, 1)), 2, 1)
    assert floor_bound("binary", x, 4) is None
    assert bounded(learn("binary", x, np.ones((1, 2)), 4, np.random.default_rng(0))[1], 10, 1.0) is None


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_a_constant_current_gives_the_networks_neuron_one_train_per_period(steps: int) -> None:
    threshold = 1 << 30
    # of period k are the currents above 3/4 threshold / (1 - 4**-k) and not above the one of k - 1
    least = [int(0.75 * threshold / (1 - 4.0**-period)) + 1 for period in range(1, steps + 1)]
    sweep = np.concatenate([np.arange(0, 2 * threshold, threshold // 1000), least])
    spikes, _ = lif(np.repeat(sweep[None], steps, 0), np.int64(threshold))
    periodic = [tuple((t + 1) % period == 0 for t in range(steps)) for period in range(1, steps + 2)]
    assert {tuple(train) for train in spikes.T.tolist()} == set(periodic)
    assert [tuple(train) for train in spikes.T[-steps:].tolist()] == periodic[:-1]
    patterns = np.array([[number >> t & 1 for number in range(2**steps)] for t in range(steps)])
    spikes, _ = lif(2 * threshold * patterns, np.int64(threshold))
    assert np.array_equal(spikes, patterns)


def test_the_study_keeps_to_its_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(swing.make_task(tmp_path)))
    monkeypatch.setattr(convergence, "UPDATES", 200)
    monkeypatch.setattr(convergence, "STEPS", (2, 8))
    bench = Bench(dataclasses.replace(swing.budget(), seeds=2, episodes=0), tmp_path, "test")
    rows = convergence.measure(bench)
    assert len(rows) == 2 * 2 * len(CODES) * 2
    for row in rows:
        for value, bound in (("largest", "bound"), ("floor", "floor_bound"), ("hidden_largest", "hidden_bound")):
            assert row[bound] is None or row[value] <= row[bound] + 1e-12
    coarse, fine = (
        np.mean([row["largest"] for row in rows if row["code"] == "binary" and row["steps"] == steps])
        for steps in (2, 8)
    )
    assert fine < coarse / 32
