# SPDX-License-Identifier: MIT
"""`python -m model.vision`: runs that go on where they stopped, tables of what is done, refusals in a sentence."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from model.network.attention import Rows
from model.network.match import Match
from model.vision import __main__ as vision
from model.vision import images, training
from model.vision.attention import geometry
from model.vision.report import markdown
from model.vision.taps import Grid
from model.vision.training import Run, finished, train

CPU = torch.device("cpu")
RUN = Run("digits", "spikformer", "lrf-ssa", 0, 8, 1, 2, 2, 16)
SMALL = ["--d-model", "8", "--layers", "1", "--steps", "2", "--epochs", "1", "--batch", "16", "--seeds", "1"]


def some_digits(count=48):
    rng = np.random.default_rng(0)
    part = rng.random((count, 1, 8, 8), dtype=np.float32), np.arange(count) % 10
    return images.Images(images.DIGITS, part, part)


@pytest.fixture
def _few(monkeypatch):
    monkeypatch.setattr(vision, "load", lambda *_: some_digits())


def test_an_interrupted_run_goes_on_as_it_would_have(tmp_path, monkeypatch):
    train(RUN, some_digits(), tmp_path / "whole", CPU, False)
    tested = training.accuracy

    def stopped(*given):
        if stopped.calls:
            raise KeyboardInterrupt
        stopped.calls += 1
        return tested(*given)

    stopped.calls = 0
    monkeypatch.setattr(training, "accuracy", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(RUN, some_digits(), tmp_path / "cut", CPU, False)
    monkeypatch.setattr(training, "accuracy", tested)
    assert finished(RUN, tmp_path / "cut") is None
    torch.manual_seed(99)
    train(RUN, some_digits(), tmp_path / "cut", CPU, False)
    whole, cut = (finished(RUN, tmp_path / name) for name in ("whole", "cut"))
    assert (whole | {"train_s": 0}) == (cut | {"train_s": 0})
    assert len(whole["curve"]) == 2
    assert whole["entropy"] > 0
    assert [path.name for path in RUN.folder(tmp_path / "cut").glob("*.pt")] == []


def test_another_budget_has_another_folder(tmp_path):
    other = Run(**{**vars(RUN), "epochs": 3})
    assert other.name == RUN.name
    assert other.folder(tmp_path) != RUN.folder(tmp_path)


@pytest.mark.usefixtures("_few")
def test_command_trains_reports_and_draws_again(tmp_path, capsys):
    out = ["--out", str(tmp_path / "runs"), *SMALL, "--data", "digits", "--styles", "qkformer", "sdt-v3"]
    files = [f"--{kind}={tmp_path / f'a.{kind}'}" for kind in ("json", "markdown", "png")]
    assert vision.main([*out, "--attentions", "ssa", "lrf-dyn", "--only", "digits-sdt-v3-lrf-dyn-0"]) == 0
    assert capsys.readouterr().out.count("| digits |") == 1
    assert vision.main([*out, "--attentions", "ssa", "lrf-dyn", *files]) == 0
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "a.markdown").read_text()
    assert printed.count("| digits |") == 4
    saved = json.loads((tmp_path / "a.json").read_text())
    assert saved["runs"] == len(saved["rows"]) == 4
    assert all(f"{100 * row['accuracy']:.1f}" in printed for row in saved["rows"])
    # a report trains nothing, a drawing again needs the file alone
    assert vision.main([*out, "--attentions", "ssa", "taps", "--report"]) == 0
    assert capsys.readouterr().out.count("| digits |") == 2
    assert vision.main(["--redraw", str(tmp_path / "a.json"), "--png", str(tmp_path / "b.png")]) == 0
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()


def test_command_lists_its_runs(capsys):
    assert vision.main(["--list"]) == 0
    listed = capsys.readouterr().out.split()
    assert len(listed) == len(set(listed)) == 2 * 3 * 4 * 3
    assert all(name.endswith("-0") for name in listed[:24])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "digits-ssa"], "there is no run digits-ssa among these; --list names them"),
        (["--report"], "is done; leave --report out to train"),
        (["--data", "cifar-100"], "cifar-100 is not fetched for you"),
        (["--data", "cifar-10", "--folder", "nowhere"], "data_batch_1 cannot be read"),
        (["--data", "digits", "--digits", "nothing.npz"], "nothing.npz holds no digits"),
        (["--redraw", "pyproject.toml"], "pyproject.toml is no result of this command"),
    ],
)
def test_command_says_what_is_wrong(arguments, sentence, tmp_path, capsys):
    assert vision.main([*arguments, "--out", str(tmp_path)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("training ")]
    assert len(lines) == 1
    assert sentence in lines[0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--d-model", "7"], "--d-model must be even, not 7"),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--styles", "resnet"], "invalid choice"),
    ],
)
def test_command_refuses_sizes(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as stopped:
        vision.main(arguments)
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_gpu_that_is_not_there_is_a_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert vision.main(["--device", "cuda", "--out", str(tmp_path)]) == 2
    assert "there is no usable GPU" in capsys.readouterr().err


def test_token_streams_still_have_their_taps_on_a_line():
    """The hook that puts taps on a grid leaves attention over windows as it was."""
    size = geometry("lrf-ssa", 4, 1, 2, Grid(1, 12))
    weight = torch.rand(4, len(size.local_distances))
    looks = Match(size, torch.full((4,), 0.5), 0.0, False, local=lambda: weight)  # type: ignore[arg-type]
    value = (torch.rand(2, 1, 12, 4) < 0.5).float()
    expected = torch.zeros_like(value)
    for n in range(12):
        for i, distance in enumerate(size.local_distances):
            if distance <= n:
                expected[:, :, n] += weight[:, i] * value[:, :, n - distance]
    rows = Rows(None, 1, 12)
    current = looks(*(rows.pack(value) for _ in range(3)), rows)
    torch.testing.assert_close(rows.spread(current), expected)


def test_shipped_table_is_of_the_shipped_result():
    results = Path(vision.__file__).resolve().parents[2] / "docs" / "results"
    rows = json.loads((results / "vision.json").read_text())["rows"]
    assert (results / "vision.md").read_text() == markdown(rows)
