# SPDX-License-Identifier: MIT
"""The head's three-factor rule beside the gradient: what it adds, off means off, and refusals."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model import train
from model.data import offline
from model.deployed.presets import TINY
from model.deployed.sizes import Plasticity
from model.training.checkpoint import Checkpoint
from model.training.config import ConfigError, TrainConfig
from model.training.plasticity import DECAY, MOST, LocalRule, third_factor
from model.training.trainer import Trainer
from tests import swing

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")
CONFIG = TrainConfig(geometry=TINY, length=16, batch=8, steps=6, quant_steps=2, return_scale=100.0)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("library")
    swing.make(root, "test/swing-v0", [60, 50, 40])
    return root


@pytest.fixture(autouse=True)
def _at_library(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(library))


def trained(out: Path, **changes: Any) -> Trainer:
    run = Trainer(dataclasses.replace(CONFIG, **changes), offline.load("test/swing-v0"), out, False, 1000, "test")
    run.run(progress=False)
    return run


def test_the_change_is_that_of_a_loop_over_tokens() -> None:
    rng = torch.Generator().manual_seed(0)
    batch, length, actions, channels, steps = 3, 5, 2, 4, 4
    real = torch.ones(batch, length, dtype=torch.bool)
    real[1, :3] = False
    membrane = torch.randn(steps, int(real.sum()), channels, generator=rng)
    outputs = torch.randn(batch, length, actions, generator=rng) * real[..., None]
    to_go = torch.tensor([3.0, -1.0, 1.0])[:, None] + torch.arange(length)
    threshold = torch.full((channels,), 0.1)
    rule = LocalRule(0.5)
    rule.observe(membrane, threshold, outputs, to_go, real)

    factors = np.array([2.0, -2.0, 0.0]) / 2  # less their mean, over the largest
    expected, row = np.zeros((actions, channels)), 0
    for window in range(batch):
        trace = np.zeros((actions, channels))
        for token in range(length):
            trace *= DECAY
            if not real[window, token]:
                continue
            pre = (membrane[:, row] > 0.1).float().mean(0).numpy()
            trace += (1 - DECAY) * np.outer(np.sign(outputs[window, token].numpy()), pre)
            row += 1
        expected += np.clip(trace * factors[window], -MOST, MOST) / batch
    np.testing.assert_allclose(rule.change.numpy(), expected, rtol=1e-5, atol=1e-7)
    assert expected.any()
    weight = torch.zeros(actions, channels)
    rule.apply(weight)
    np.testing.assert_allclose(weight.numpy(), 0.5 * expected, rtol=1e-5, atol=1e-7)


def test_a_change_is_clipped_and_windows_that_end_alike_teach_nothing() -> None:
    ones = torch.ones(4, 2 * 100, 3)
    real = torch.ones(2, 100, dtype=torch.bool)
    to_go = torch.tensor([[1.0], [0.0]]).expand(2, 100)
    rule = LocalRule(1.0)
    rule.observe(ones, torch.zeros(3), torch.tensor([1.0, -1.0])[:, None, None].expand(2, 100, 1), to_go, real)
    assert (rule.change == MOST).all()  # a good window with positive outputs, a bad one with negative ones
    assert third_factor(torch.ones(4, 2)).tolist() == [0.0] * 4


def test_it_changes_the_training_and_off_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learned = trained(tmp_path / "on", plasticity=0.1)
    heads = []
    monkeypatch.setattr(LocalRule, "observe", lambda *_: heads.append(1))
    plain = trained(tmp_path / "off")
    assert not heads
    weights = [Checkpoint.load(tmp_path / name / "float.pt").network.head.linear.weight for name in ("on", "off")]
    assert not torch.equal(*weights)
    assert (tmp_path / "on" / "log.csv").read_text() != (tmp_path / "off" / "log.csv").read_text()
    assert learned.config.plasticity == 0.1
    assert plain.phase == "quant"


def test_an_update_moves_the_head_by_the_rule_and_by_nothing_else(tmp_path: Path) -> None:
    heads, changes = {}, []
    observe = LocalRule.observe

    def watched(self: LocalRule, *seen: Any) -> None:
        observe(self, *seen)
        changes.append(self.change)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalRule, "observe", watched)
        for rate in (0.0, 0.1):
            heads[rate] = trained(tmp_path / str(rate), plasticity=rate, steps=1, quant_steps=0).network
    first, second = (dict(heads[rate].named_parameters()) for rate in heads)
    for name in first:
        if name == "head.linear.weight":
            torch.testing.assert_close(second[name] - first[name], 0.1 * changes[0], rtol=1e-4, atol=1e-7)
            assert changes[0].any()
        else:
            assert torch.equal(first[name], second[name]), name
    assert len(changes) == 1


def test_the_quantised_phase_has_no_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    observe = LocalRule.observe

    def watched(self: LocalRule, *shown: Any) -> None:
        seen.append(1)
        observe(self, *shown)

    monkeypatch.setattr(LocalRule, "observe", watched)
    trained(tmp_path, plasticity=0.01, row_cost=0.01)
    assert len(seen) == CONFIG.steps


def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", plasticity=0.1, quant_steps=0)
    config = dataclasses.replace(CONFIG, plasticity=0.1, quant_steps=0)
    for stop in (3, 6):
        part = Trainer(config, offline.load("test/swing-v0"), tmp_path / "part", True, 3, "test")
        if stop == 3:
            part._log = lambda _: None  # type: ignore[method-assign]
            update = part._update

            def stopping(rate: float, update: Any = update, part: Trainer = part) -> float:
                if part.step == 3:
                    raise KeyboardInterrupt
                return update(rate)

            part._update = stopping  # type: ignore[method-assign]
            with pytest.raises(KeyboardInterrupt):
                part.run(progress=False)
        else:
            part.run(progress=False)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, part.network.state_dict()[name]), name


def test_a_configuration_without_is_what_it_was() -> None:
    assert "plasticity" not in CONFIG.to_json()
    learning = dataclasses.replace(CONFIG, plasticity=0.01)
    assert json.loads(learning.to_json())["plasticity"] == 0.01
    assert TrainConfig.from_json(learning.to_json()) == learning
    assert TrainConfig.from_json(CONFIG.to_json()) == CONFIG
    deployed = dataclasses.replace(CONFIG, geometry=dataclasses.replace(CONFIG.geometry, plasticity=Plasticity()))
    assert TrainConfig.from_json(deployed.to_json()) == deployed


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"plasticity": -0.1}, "plasticity must be 0 to 1, not -0.1"),
        ({"plasticity": 1.5}, "plasticity must be 0 to 1, not 1.5"),
        ({"plasticity": float("nan")}, "plasticity must be a finite number"),
        (
            {"network": "bc", "inference": "recompute", "quant_steps": 0, "plasticity": 0.1},
            "plasticity is about the spiking network; leave it at 0 for bc",
        ),
    ],
)
def test_refusals_are_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        dataclasses.replace(CONFIG, **changes)


def test_the_command_takes_a_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.json").write_text(CONFIG.to_json())
    command = ["--dataset", "test/swing-v0", "--config", str(tmp_path / "tiny.json"), "--out", str(tmp_path / "run")]
    assert train.main([*command, "--plasticity", "7"]) == 2
    assert "plasticity must be 0 to 1, not 7" in capsys.readouterr().err
    assert train.main([*command, "--plasticity", "0.5"]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["plasticity"] == 0.5
