# SPDX-License-Identifier: MIT
"""Learning curves: what the logs hold is what is drawn, printed and written."""

import json
from pathlib import Path

import numpy as np
import pytest

from model import curves

LINES = {
    "one": ["float,100,0.5,0.6,0.001", "float,200,0.25,0.3,0.0005", "quant,50,0.2,0.31,0.0003"],
    "two": ["float,100,0.4,nan,0.001"],
    "old": ["float,100,0.4,0.45"],
}


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    folders = {name: tmp_path / name for name in LINES}
    for name, folder in folders.items():
        folder.mkdir()
        header = "phase,step,loss,validation_loss" + (",rate" if name != "old" else "")
        (folder / "log.csv").write_text("\n".join([header, *LINES[name]]) + "\n")
    return folders


def test_a_run_is_read_phase_by_phase(runs: dict[str, Path]) -> None:
    assert curves.read(runs["one"]) == {
        "name": str(runs["one"]),
        "float": [
            {"step": 100, "loss": 0.5, "validation_loss": 0.6},
            {"step": 200, "loss": 0.25, "validation_loss": 0.3},
        ],
        "quant": [{"step": 50, "loss": 0.2, "validation_loss": 0.31}],
    }
    assert curves.read(runs["two"])["float"] == [{"step": 100, "loss": 0.4, "validation_loss": None}]
    # logs had no rate once
    assert curves.read(runs["old"])["float"] == [{"step": 100, "loss": 0.4, "validation_loss": 0.45}]


def test_every_run_and_loss_is_a_line_of_its_phase_s_panel(runs: dict[str, Path]) -> None:
    figure = curves.draw([curves.read(runs["one"]), curves.read(runs["two"])])
    float_panel, quant_panel = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["float phase", "quantised phase"]
    # lines without points are the legend's
    drawn = [(*line.get_xdata(), *line.get_ydata()) for line in float_panel.lines if len(line.get_xdata())]
    np.testing.assert_equal(drawn, [(100, 200, 0.6, 0.3), (100, 200, 0.5, 0.25), (100, np.nan), (100, 0.4)])
    drawn = [(*line.get_xdata(), *line.get_ydata()) for line in quant_panel.lines if len(line.get_xdata())]
    assert drawn == [(50, 0.31), (50, 0.2)]
    colours = [line.get_color() for line in float_panel.lines[:4]]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert [text.get_text() for text in figure.legends[0].texts][2:] == [str(runs["one"]), str(runs["two"])]


def test_a_run_of_one_phase_has_one_panel(runs: dict[str, Path]) -> None:
    assert len(curves.draw([curves.read(runs["two"])]).axes) == 1


def test_command_prints_draws_and_writes(runs: dict[str, Path], tmp_path: Path, capsys) -> None:
    png, written = tmp_path / "new" / "curves.png", tmp_path / "new" / "curves.json"
    arguments = [str(runs["one"]), str(runs["two"]), "--png", str(png), "--json", str(written)]
    assert curves.main(arguments) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{runs['one']}: float phase, 200 updates, training loss 0.2500, validation loss 0.3000",
        f"{runs['one']}: quantised phase, 50 updates, training loss 0.2000, validation loss 0.3100",
        f"{runs['two']}: float phase, 100 updates, training loss 0.4000",
    ]
    assert png.read_bytes().startswith(b"\x89PNG")
    assert json.loads(written.read_text()) == [curves.read(runs["one"]), curves.read(runs["two"])]
    first = png.read_bytes()
    assert curves.main(arguments) == 0
    assert png.read_bytes() == first


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read (No such file or directory); give the folder of a run of model.train"),
        ("step,return\n0,1.0\n", "is no log of model.train; give the folder of one of its runs"),
        ("phase,step,loss,validation_loss\nfloat,many,0.1,0.1\n", "is no log of model.train"),
        ("phase,step,loss,validation_loss\nfloat,100,0.1\n", "is no log of model.train"),
        ("phase,step,loss,validation_loss\n", "holds no update yet; wait until the run has logged one"),
    ],
)
def test_what_is_no_run_is_one_sentence(content: str | None, sentence: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "run").mkdir()
    if content is not None:
        (tmp_path / "run" / "log.csv").write_text(content)
    assert curves.main([str(tmp_path / "run"), "--png", str(tmp_path / "curves.png")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'run' / 'log.csv'} {sentence}")
    assert error.count("\n") == 1
    assert not (tmp_path / "curves.png").exists()
