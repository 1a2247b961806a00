# SPDX-License-Identifier: MIT
"""TensorBoard shows what log.csv and firing.json hold, each update once, however often the run was interrupted."""

import csv
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model import train
from model.data import offline
from model.deployed.presets import TINY
from model.training import trainer as trainer_module
from model.training.board import TensorBoard
from model.training.config import TrainConfig
from model.training.trainer import Trainer
from tests import swing

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")

CONFIG = TrainConfig(
    geometry=TINY, length=8, batch=4, steps=10, quant_steps=6, return_scale=5.0, target_return=3.0, held_out=0.2
)
SCALARS = ("loss", "validation_loss", "rate")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("library")
    swing.make(root, "test/swing-v0", [40, 25, 60, 3, 30, 45])
    return root


@pytest.fixture(autouse=True)
def _small_steps(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(library))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(trainer_module, "LOG_EVERY", 2)


Series = dict[str, list[tuple[int, float]]]


def shown(run: Path, phase: str) -> Series:
    """Return what TensorBoard shows of a phase: per tag, (step, value)."""
    events = EventAccumulator(str(run / "tensorboard" / phase)).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def logged(run: Path, phase: str) -> Series:
    """Return what the run's own files hold of a phase, as TensorBoard keeps it: in single precision."""

    def single(value: float | str) -> float:
        return torch.tensor(float(value), dtype=torch.float32).item()

    with (run / "log.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["phase"] == phase]
    series = {name: [(int(row["step"]), single(row[name])) for row in rows] for name in SCALARS}
    last = int(rows[-1]["step"])
    for neurons, rates in json.loads((run / "firing.json").read_text())[phase].items():
        for kind, rate in rates.items():
            series[f"firing_{kind}/{neurons}"] = [(last, single(rate))]
    return series


class Killed(BaseException):
    pass


def fly(
    run: Path,
    resume: bool = False,
    shown_too: bool = True,
    stop: tuple[str, int] = ("", 0),
    config: TrainConfig = CONFIG,
) -> None:
    """Train, or go on, until done or killed before update `stop`; checkpoints every 5 updates."""
    with TensorBoard(run) as board:
        trainer = Trainer(
            *(config, offline.load("test/swing-v0"), run, resume, 5, "test"), tensorboard=board if shown_too else None
        )
        update = trainer._update

        def maybe_die(learning_rate: float) -> float:
            if (trainer.phase, trainer.step) == stop:
                raise Killed
            return update(learning_rate)

        trainer._update = maybe_die  # type: ignore[method-assign]
        trainer.run(progress=False)


def test_command_shows_every_figure_of_both_phases(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (tmp_path / "small.json").write_text(CONFIG.to_json())
    arguments = ["--dataset", "test/swing-v0", "--config", str(tmp_path / "small.json"), "--out", str(run)]
    assert train.main([*arguments, "--tensorboard"]) == 0
    for phase, steps in (("float", [2, 4, 6, 8, 10]), ("quant", [2, 4, 6])):
        series = shown(run, phase)
        assert series == logged(run, phase)
        assert [step for step, _ in series["loss"]] == steps
        assert len({value for _, value in series["rate"]}) == len(steps)
        assert len(series) == 3 + 2 * 7 * TINY.layers
    # a finished run, given again: its end is written anew, not twice
    time.sleep(1.1)  # event files are ordered by the second in their names
    assert train.main([*arguments, "--tensorboard", "--resume"]) == 0
    assert len(list((run / "tensorboard" / "quant").iterdir())) == 2
    assert shown(run, "quant") == logged(run, "quant")


@pytest.mark.parametrize("stop", [("float", 9), ("quant", 4)], ids=["float", "quant"])
def test_a_killed_run_shows_no_update_twice(stop: tuple[str, int], tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Killed):
        fly(run, stop=stop)
    before = shown(run, stop[0])["loss"]
    # what was logged after the last checkpoint, at 5 or at the phase's beginning, comes again
    assert before[-1][0] == stop[1] - stop[1] % 2
    time.sleep(1.1)
    fly(run, resume=True)
    for phase in ("float", "quant"):
        assert shown(run, phase) == logged(run, phase)
    assert shown(run, stop[0])["loss"][: len(before)] == before


def test_begun_in_the_middle_of_a_phase_it_shows_what_came_before(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Killed):
        fly(run, shown_too=False, stop=("float", 7))
    assert not (run / "tensorboard").exists()
    fly(run, resume=True)
    assert shown(run, "float") == logged(run, "float")


def test_what_an_earlier_process_wrote_keeps_its_time(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Killed):
        fly(run, stop=("float", 7))
    killed = time.time()
    time.sleep(1.1)
    fly(run, resume=True)
    events = EventAccumulator(str(run / "tensorboard" / "float")).Reload().Scalars("loss")
    assert [event.step for event in events if event.wall_time < killed] == [2, 4]


def test_without_validation_data_there_are_no_such_scalars(tmp_path: Path) -> None:
    fly(tmp_path / "run", config=dataclasses.replace(CONFIG, held_out=0.0, quant_steps=0))
    assert set(shown(tmp_path / "run", "float")) == {"loss", "rate"}


# what can go wrong


def fails(tmp_path: Path, capsys: pytest.CaptureFixture[str], prepare: Callable[[Path], None]) -> str:
    """Return what the command says when it cannot write for TensorBoard, after checking that it is one sentence."""
    (tmp_path / "small.json").write_text(CONFIG.to_json())
    prepare(tmp_path / "run")
    arguments = ["--dataset", "test/swing-v0", "--config", str(tmp_path / "small.json"), "--out", str(tmp_path / "run")]
    assert train.main([*arguments, "--tensorboard"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_a_missing_package_is_one_sentence_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    error = fails(tmp_path, capsys, lambda run: None)
    assert "the Python package tensorboard is missing; `pip install '.[tensorboard]'`, or leave --tensorboard" in error
    assert not (tmp_path / "run").exists()


def test_a_place_that_takes_no_files_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def block(run: Path) -> None:
        run.mkdir()
        (run / "tensorboard").write_text("")

    error = fails(tmp_path, capsys, block)
    assert "tensorboard cannot be written (Not a directory)" in error
