# SPDX-License-Identifier: MIT
"""Recipes of the methods of a table, and the search for their learning rates."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from model.data import offline
from model.data.tasks import find
from model.deployed.presets import TINY
from model.scores import suites
from model.scores.suites import METHODS, Method, configuration
from model.studies import rates
from model.studies.runs import Bench, Budget
from model.training.config import TrainConfig
from tests import swing

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")

TASK = find("pendulum-mixed")


@pytest.fixture(scope="module", autouse=True)
def _library(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("library")
    swing.make(root, TASK.dataset, [200, 150, 120, 60])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        yield


def of(method: Method, **budget: int) -> TrainConfig:
    return configuration(TASK, method, suites.Budget(**budget), offline.load(TASK.dataset), seed=5)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gets_as_many_updates(name: str) -> None:
    config = of(METHODS[name], d_model=16, layers=1, window=4, length=8, steps=70, quant_steps=30)
    assert config.steps + config.quant_steps == 100
    assert config.quant_steps == (30 if METHODS[name].integer else 0)


def test_a_recipe_replaces_what_it_names_and_nothing_else() -> None:
    usual, own = Method("bc", integer=False), {"rate": 0.02, "batch": 5, "warmup": 0.3, "weight_decay": 0.0}
    plain = of(usual)
    assert plain.batch == suites.Budget().batch
    assert of(dataclasses.replace(usual, recipe=own)) == dataclasses.replace(plain, **own)


def test_the_search_trains_as_a_table_does_at_every_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "RATES", (1e-5, 1e-2))
    budget = Budget(TASK, TINY, steps=20, quant_steps=40, batch=8, seeds=1, episodes=1)
    bench = Bench(budget, tmp_path, "test")
    rows = rates.measure(bench)
    searched = ("dt-3-token", "dt-1-token", "dt-3-bit")
    cases = [(name, hidden, rate, 0) for name in searched for hidden in (0.0, 0.9) for rate in (1e-5, 1e-2)]
    assert [(row["method"], row["action_dropout"], row["rate"], row["seed"]) for row in rows] == [
        *cases, ("bc", 0.0, 1e-5, 0), ("bc", 0.0, 1e-2, 0)
    ]  # fmt: skip
    size = suites.Budget(TINY.d_model, TINY.layers, TINY.window, batch=8, steps=20, quant_steps=0)
    trained = {TrainConfig.from_json(file.read_text()) for file in tmp_path.glob("*/config.json")}
    assert trained == {
        dataclasses.replace(
            configuration(TASK, METHODS[row["method"]], size, bench.episodes, 0),
            rate=row["rate"],
            action_dropout=row["action_dropout"],
        )
        for row in rows
    }
    losses = {(row["method"], row["action_dropout"], row["rate"]): row["validation_loss"] for row in rows}
    assert all(losses[name, hidden, 1e-2] < losses[name, hidden, 1e-5] for name, hidden, _ in losses)
    assert all(row["return"] < 0 for row in rows)  # of a pendulum


def test_the_figure_draws_means_over_seeds() -> None:
    def row(rate: float, seed: int, loss: float, hidden: float = 0.0) -> dict[str, object]:
        return {
            "method": "dt-3-bit",
            "action_dropout": hidden,
            "rate": rate,
            "seed": seed,
            "validation_loss": loss,
            "return": None,
        }

    figure = Figure()
    rates.draw(figure, [row(1e-3, 0, 0.2), row(1e-3, 1, 0.4), row(1e-4, 0, 0.5), row(1e-3, 0, 0.9, 0.9)])
    dots, means, _, hidden = figure.axes[0].lines
    assert [line.get_linestyle() for line in (means, hidden)] == ["-", "--"]
    assert hidden.get_ydata() == [0.9]
    assert sorted(zip(*dots.get_data(), strict=True)) == [(1e-4, 0.5), (1e-3, 0.2), (1e-3, 0.4)]
    np.testing.assert_allclose(means.get_data(), [[1e-4, 1e-3], [0.5, 0.3]])
    assert [text.get_text() for text in figure.axes[1].texts] == ["no episodes flown"]
