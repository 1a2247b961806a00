# SPDX-License-Identifier: MIT
"""Results on disk: whole or not at all, and refused before the work that they take."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from model import bench, collect, curves, energy, evaluate, export, state, study, table, tasks, train
from model.files import WriteError, ready, save, write_json
from model.training import config
from model.training.config import ConfigError, TrainConfig

PRESET = config.PRESETS["tiny"]


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    write_json(path, {"score": 1})
    assert json.loads(path.read_text()) == {"score": 1}

    def half(partial: Path) -> None:
        partial.write_text("{")
        raise OSError(28, "No space left on device")

    with pytest.raises(WriteError, match=r"result.json cannot be written \(No space left on device\); make room there"):
        save(path, half)
    assert json.loads(path.read_text()) == {"score": 1}
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]


def test_a_place_is_tried_beforehand(tmp_path: Path) -> None:
    ready(None, tmp_path / "a" / "b.json")
    assert (tmp_path / "a").is_dir()
    assert not list((tmp_path / "a").iterdir())
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "b.json", tmp_path / "a"):
        with pytest.raises(WriteError, match="cannot be written"):
            ready(path)


def _never(*arguments: object, **named: object) -> None:
    raise AssertionError("began without a place for its result")


@pytest.mark.parametrize(
    ("main", "work", "arguments"),
    [
        (evaluate.main, "model.evaluate.evaluate", ["run.pt", "--json"]),
        (energy.main, "model.energy.measure", ["run.pt", "--json"]),
        (energy.main, "model.energy.measure", ["run.pt", "--png"]),
        (export.main, "model.export.export", ["run.pt", "--out"]),
        (export.main, "model.export.export", ["run.pt", "--nir"]),
        (curves.main, "model.curves.read", ["run", "--json"]),
        (curves.main, "model.curves.read", ["run", "--png"]),
        (table.main, "model.table._sweep", ["--suite", "classic", "--json"]),
        (table.main, "model.table._sweep", ["--suite", "classic", "--markdown"]),
        (tasks.main, None, ["--json"]),
        (state.main, None, ["--json"]),
    ],
)
def test_commands_refuse_a_place_that_takes_no_file_before_they_work(
    main: Callable[[list[str]], int],
    work: str | None,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("")
    if work:
        monkeypatch.setattr(work, _never)
    assert main([*arguments, str(tmp_path / "file" / "result.safetensors")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "cannot be written" in error


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rate": "fast"}, "rate must be a number, not 'fast'"),
        ({"batch": 4.5}, "batch must be a whole number, not 4.5"),
        ({"steps": True}, "steps must be a whole number, not True"),
        ({"delayed": "yes"}, "delayed must be true or false, not 'yes'"),
        ({"target_return": None}, "target_return must be a number, not None"),
        ({"clip": float("nan")}, "clip must be a finite number, not nan"),
        ({"rate": -1.0}, "rate must be positive, not -1.0"),
        ({"return_scale": 0}, "return_scale must be positive, not 0"),
        ({"seed": -1}, "seed must not be negative, but is -1"),
        ({"held_out": 1.0}, "held_out must be 0 or more and below 1, not 1.0"),
        ({"warmup": 2}, "warmup must be 0 to 1, not 2"),
    ],
)
def test_a_value_of_the_wrong_kind_is_a_sentence(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        dataclasses.replace(PRESET, **change)
    assert str(caught.value) == sentence
    assert TrainConfig.from_json(PRESET.to_json()) == PRESET


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ({"geometry": {"wide": 1}}, "unknown field wide of geometry; known: action_size, "),
        ({"geometry": "TINY", "structure": {"tap": 1}}, "unknown field tap of structure; known: block, "),
        ({"geometry": None}, "geometry must be an object of its fields, not None"),
        ({"geometry": "TINY", "structure": [1]}, "structure must be an object of its fields, not [1]"),
        ({"geometry": "TINY", "rate": "fast"}, "rate must be a number, not 'fast'"),
    ],
)
def test_a_configuration_file_says_which_field_is_wrong(part: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_json(json.dumps(part))
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("main", "sentence"),
    [
        (train.main, "--resume continue the run in the folder"),
        (table.main, "goes on where it was when the command is given again"),
        (study.main, "an interrupted study goes on where it stopped when the same command is given again"),
        (collect.main, "where one was interrupted, the same command begins again and records the same episodes"),
        (evaluate.main, "after an interruption the same command flies them again, with the same returns"),
        (bench.main, "Nothing is kept of an interrupted measurement; give the command again"),
    ],
)
def test_long_commands_say_how_to_go_on(
    main: Callable[[list[str]], int], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert sentence in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("option", ["--save-every", "--keep", "--threads"])
def test_training_options_below_one_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        train.main(["--dataset", "x/y-v0", option, "0"])
    assert caught.value.code == 2
    assert f"{option} must be at least 1" in capsys.readouterr().err
