# SPDX-License-Identifier: MIT
"""A table's file over several evenings: what it holds is not run again and never lost."""

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model import table
from model.data import offline
from model.data.offline import DataError, Episodes
from model.scores import cells, document
from model.scores.cells import Cell, Resources
from model.scores.report import markdown
from model.scores.suites import METHODS
from sim.table import RESULTS

SMALL = ["--suite", "classic", "--d-model", "16", "--layers", "1", "--window", "4", "--length", "8", "--episodes", "2"]
HERE = ("cartpole", "pendulum")
Document = dict[str, Any]


def data(name: str, step: float = 1.0) -> Episodes:
    """Episodes of a classic task, never trained on."""
    family = name.split("/")[0]
    if family not in HERE:
        raise DataError(f"there is no data set {name}")
    rng = np.random.default_rng(0)
    size, environment = {"cartpole": ((4, 2), "CartPole-v1"), "pendulum": ((3, 1), "Pendulum-v1")}[family]
    observations, actions = (rng.normal(size=(20, n)).astype(np.float32) for n in size)
    rewards, lengths = np.full(20, step, np.float32), np.array([10, 10])
    return Episodes(name, environment, observations, actions, rewards, lengths, family == "cartpole")


def result_of(cell: Cell) -> Document:
    """What a finished cell could be; its returns are its own."""
    returns = [float(int(cell.digest[:4], 16)), 7.0]
    score = {"step": 40, "returns": returns, "mean_return": sum(returns) / 2}
    return {
        "cell": dataclasses.asdict(cell) | {"config": json.loads(cell.config)},
        "parameters": 1000,
        "float": [score],
        "deployed": [score] if METHODS[cell.method].integer else [],
        "commit": "c0ffee",
        "versions": {"torch": "2"},
    }


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """The cells that were run, each in no time, on data of no meaning."""
    done: list[Cell] = []

    def sweep(missing: list[Cell], *_: Any) -> Iterator[tuple[Cell, Document]]:
        for cell in missing:
            done.append(cell)
            yield cell, result_of(cell)

    monkeypatch.setattr(cells, "sweep", sweep)
    monkeypatch.setattr(offline, "load", data)
    monkeypatch.setenv("TERM", "dumb")
    return done


def evening(folder: Path, file: str, *arguments: str, status: int = 0) -> Document:
    """Give the command on a machine that has nothing but the file; return what is in it then."""
    scratch = folder / f"machine{len(list(folder.iterdir()))}"
    scratch.mkdir()
    assert table.main([*SMALL, "--out", str(scratch), "--json", str(folder / file), *arguments]) == status
    return json.loads((folder / file).read_text())


def rows(of: Document, task: str = "cartpole-mixed") -> dict[str, list[int]]:
    """Method -> seeds of a task that are in the table."""
    (found,) = [each for each in of["tasks"] if each["name"] == task]
    return {row["method"]: [result["cell"]["config"]["seed"] for result in row["cells"]] for row in found["rows"]}


def named(run: list[Cell]) -> list[tuple[str, str, int]]:
    """Task, method and seed of the cells that were run since the last call."""
    found = [(cell.task.split("-")[0], cell.method, cell.seed) for cell in run]
    run.clear()
    return found


def test_a_table_is_filled_method_by_method(
    tmp_path: Path, run: list[Cell], capsys: pytest.CaptureFixture[str]
) -> None:
    first = evening(tmp_path, "t.json", "--tasks", "cartpole-mixed", "--methods", "bc", "--seeds", "2")
    assert named(run) == [("cartpole", "bc", 0), ("cartpole", "bc", 1)]
    # another method, another machine: the file's rows stay, with their cells as they were
    second = evening(tmp_path, "t.json", "--tasks", "cartpole-mixed", "--methods", "pssa", "--seeds", "2")
    assert named(run) == [("cartpole", "pssa", 0), ("cartpole", "pssa", 1)]
    assert rows(second) == {"pssa": [0, 1], "bc": [0, 1]}
    assert second["tasks"][0]["rows"][1] == first["tasks"][0]["rows"][0]
    # a task more, and one whose data are not here
    third = evening(tmp_path, "t.json", "--tasks", "acrobot-mixed", "pendulum-mixed", "--methods", "bc", "--seeds", "1")
    assert named(run) == [("pendulum", "bc", 0)]
    assert [task["name"] for task in third["tasks"]] == ["cartpole-mixed", "acrobot-mixed", "pendulum-mixed"]
    assert third["tasks"][1]["absent"] == "there is no data set acrobot/mixed-v0"
    assert third["tasks"][0] == second["tasks"][0]
    # a seed more of one method
    fourth = evening(tmp_path, "t.json", "--tasks", "cartpole-mixed", "--methods", "pssa", "--seeds", "3")
    assert named(run) == [("cartpole", "pssa", 2)]
    assert rows(fourth) == {"pssa": [0, 1, 2], "bc": [0, 1]}
    (row,) = [row for row in fourth["tasks"][0]["rows"] if row["method"] == "pssa"]
    # 0 and 100 are CartPole's returns of 23.68 and 500
    means = [(result["float"][0]["mean_return"] - 23.68) / 4.7632 for result in row["cells"]]
    assert row["float_last"]["runs"] == row["deployed_last"]["runs"] == 3
    assert row["float_last"]["mean"] == pytest.approx(np.mean(means))
    assert rows(fourth, "pendulum-mixed") == {"bc": [0]}
    # everything once more runs only what is missing, and prints the whole table
    capsys.readouterr()
    fifth = evening(tmp_path, "t.json", "--methods", "pssa", "bc", "--seeds", "3")
    assert sorted(named(run)) == [
        ("cartpole", "bc", 2), ("pendulum", "bc", 1), ("pendulum", "bc", 2),
        *(("pendulum", "pssa", seed) for seed in range(3)),
    ]  # fmt: skip
    assert fifth["protocol"]["seeds"] == [0, 1, 2]
    assert len(fifth["commands"]) == 5
    printed = capsys.readouterr().out
    assert printed == markdown(fifth)
    assert all(f"* Command: `{command}`" in printed for command in fifth["commands"])
    # fewer tasks, methods and seeds lose nothing
    again = evening(tmp_path, "t.json", "--tasks", "cartpole-mixed", "--methods", "bc", "--seeds", "1")
    assert named(run) == []
    assert again["tasks"] == fifth["tasks"]


def test_what_a_row_lacks_is_said(tmp_path: Path, run: list[Cell]) -> None:
    evening(tmp_path, "t.json", "--tasks", "cartpole-mixed", "--methods", "bc", "--seeds", "1")
    both = evening(tmp_path, "t.json", "--tasks", "cartpole-mixed", "--methods", "pssa", "--seeds", "2")
    assert "* bc, seed 1: not run yet" in markdown(both)
    assert "pssa, seed" not in markdown(both)


def test_cells_of_other_files_are_known(tmp_path: Path, run: list[Cell]) -> None:
    common = ["--tasks", "cartpole-mixed", "--seeds", "2"]
    one = evening(tmp_path, "one.json", *common, "--methods", "bc")
    two = evening(tmp_path, "two.json", *common, "--methods", "pssa")
    named(run)
    known = ["--known", str(tmp_path / "one.json"), str(tmp_path / "two.json"), "--time-limit", "0"]
    both = evening(tmp_path, "both.json", *common, "--methods", "bc", "pssa", *known)
    assert named(run) == []
    assert both["tasks"][0]["rows"] == [two["tasks"][0]["rows"][0], one["tasks"][0]["rows"][0]]
    assert len(both["commands"]) == 1
    # without being asked for, what is known elsewhere does not come into the table
    bc = evening(tmp_path, "bc.json", *common, "--methods", "bc", *known)
    assert rows(bc) == {"bc": [0, 1]}
    # another budget: nothing fits
    other = evening(tmp_path, "other.json", *common, "--methods", "bc", "--steps", "77", *known)
    assert rows(other) == {"bc": []}


def test_cells_of_an_earlier_recipe_stay_in_the_file(
    tmp_path: Path, run: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["--tasks", "cartpole-mixed", "--methods", "bc", "--seeds", "2"]
    first = evening(tmp_path, "t.json", *common)
    named(run)
    with monkeypatch.context() as patch:
        patch.setitem(METHODS, "bc", dataclasses.replace(METHODS["bc"], recipe={"rate": 0.5}))
        # a seed of the new recipe: the other seed's cell is of the old one and no part of the row
        second = evening(tmp_path, "t.json", *common[:-1], "1")
        assert named(run) == [("cartpole", "bc", 0)]
        assert rows(second) == {"bc": [0]}
        assert second["tasks"][0]["rows"][0]["recipe"]["rate"] == 0.5
        assert len(second["others"]) == 2
        assert "* Recipe of bc: steps 3000, quant_steps 0, batch 64, rate 0.5." in markdown(second)
        assert "The file also holds 2 finished cells of other configurations" in markdown(second)
        assert evening(tmp_path, "t.json", *common)["others"] == second["others"]
        assert named(run) == [("cartpole", "bc", 1)]
    last = evening(tmp_path, "t.json", *common)
    assert named(run) == []
    assert last["tasks"] == first["tasks"]
    assert len(last["others"]) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--steps", "7"], "is a table with steps 2000, this command asks for steps 7: ask for the same, or choose"),
        (
            ["--protocol", "paper"],
            "is a table with protocol honest, checkpoints 5, this command asks for protocol paper",
        ),
        (["--suite", "hopper"], "is a table with suite classic"),
    ],
)
def test_another_table_is_refused_and_left_alone(
    arguments: list[str], sentence: str, tmp_path: Path, run: list[Cell], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    evening(tmp_path, "t.json", "--methods", "bc", "--seeds", "1")
    before = (tmp_path / "t.json").read_bytes()
    monkeypatch.setattr(offline, "load", lambda name: data("pendulum/mixed-v0"))
    evening(tmp_path, "t.json", "--methods", "bc", *arguments, status=2)
    assert sentence in capsys.readouterr().err
    assert (tmp_path / "t.json").read_bytes() == before


def test_other_data_of_a_task_are_refused(
    tmp_path: Path, run: list[Cell], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    evening(tmp_path, "t.json", "--methods", "bc", "--seeds", "1")
    monkeypatch.setattr(offline, "load", lambda name: data(name, step=2.0))
    evening(tmp_path, "t.json", "--methods", "bc", "--seeds", "1", status=2)
    assert "were made with another dataset_digest than there is now" in capsys.readouterr().err


def test_a_task_whose_data_are_gone_keeps_its_rows(
    tmp_path: Path, run: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evening(tmp_path, "t.json", "--methods", "bc", "--seeds", "1")
    monkeypatch.setattr(f"{__name__}.HERE", ("cartpole",))
    assert evening(tmp_path, "t.json", "--methods", "bc", "--seeds", "1")["tasks"] == first["tasks"]


@pytest.mark.parametrize("spoil", ["", "{}", "[1]", "cell", "fields"])
def test_a_file_that_is_no_table_is_left_alone(
    spoil: str, tmp_path: Path, run: list[Cell], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--tasks", "cartpole-mixed", "--methods", "bc"]
    damaged = evening(tmp_path, "t.json", *arguments)
    damaged["tasks"][0]["rows"][0]["cells"][0] = {"fields": {"cell": {"task": "?"}}}.get(spoil, {})
    text = json.dumps(damaged) if spoil in ("cell", "fields") else spoil
    (tmp_path / "t.json").write_text(text)
    assert table.main([*SMALL, *arguments, "--json", str(tmp_path / "t.json")]) == 2
    assert "t.json holds no table; give a file that" in capsys.readouterr().err
    assert (tmp_path / "t.json").read_text() == text


def test_every_finished_cell_is_in_the_file_at_once(
    tmp_path: Path, run: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["--tasks", "cartpole-mixed", "--methods", "bc"]
    sweep, seen = cells.sweep, []

    def watched(*arguments: Any) -> Iterator[Any]:
        for number, (cell, result) in enumerate(sweep(*arguments)):
            yield cell, result
            seen.append(rows(json.loads((tmp_path / "t.json").read_text())))
            if number == 0:  # meanwhile somebody else fills another row
                with monkeypatch.context() as patch:
                    patch.setattr(cells, "sweep", sweep)
                    evening(tmp_path, "t.json", *common[:-1], "pssa", "--seeds", "4")
            if number == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(cells, "sweep", watched)
    last = evening(tmp_path, "t.json", *common, "--seeds", "3", status=130)
    assert seen == [{"bc": [0]}, {"pssa": [0, 1, 2, 3], "bc": [0, 1]}]
    assert rows(last) == seen[-1]
    assert last["protocol"]["seeds"] == [0, 1, 2, 3]


def test_a_file_is_read_and_written_by_one_command_at_a_time(
    tmp_path: Path, run: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, refused = table.write, []

    def tried(path: Path, text: str) -> None:
        other = os.open(path.parent, os.O_RDONLY)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            refused.append(path.name)
        os.close(other)
        write(path, text)

    monkeypatch.setattr(table, "write", tried)
    evening(tmp_path, "t.json", "--tasks", "cartpole-mixed", "--methods", "bc", "--seeds", "1")
    assert refused == ["t.json"] * 2  # after the cell, and at the end


def test_a_time_limit_leaves_cells_out(tmp_path: Path, run: list[Cell], capsys: pytest.CaptureFixture[str]) -> None:
    left = evening(tmp_path, "t.json", "--tasks", "cartpole-mixed", "--methods", "bc", "--time-limit", "0")
    assert named(run) == []
    printed, errors = capsys.readouterr()
    assert errors == "the time limit is over and 3 of 3 cells are missing; the same command goes on\n"
    assert "* bc, seed 2: not run yet" in printed
    assert rows(left) == {"bc": []}


def test_after_the_time_limit_no_cell_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "load", data)
    config = table.Sweep([table.tasks.find("cartpole-mixed")], ["bc"], [0], table.PROTOCOLS["honest"], table.Budget())
    (cell,) = config.cells
    lost = [dataclasses.replace(cell, dataset="no/where-v0", episodes=number) for number in (1, 2, 3)]
    ended: list[int] = []
    monkeypatch.setattr(cells, "time", SimpleNamespace(monotonic=lambda: float(len(ended))))
    with contextlib.closing(cells.sweep(lost, tmp_path, Resources(), 1, None, until=2.0)) as running:
        for cell, _ in running:
            ended.append(cell.episodes)  # the clock goes on with each
    assert ended == [1, 2]


def test_a_printed_file_is_not_written_again(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        table.main(["--from", "a.json", "--json", str(tmp_path / "b.json")])


def test_a_cell_is_known_again_from_json(run: list[Cell]) -> None:
    sweep = table.Sweep(
        [table.tasks.find(f"{name}-mixed") for name in HERE], list(METHODS), [0, 5], table.PROTOCOLS["paper"],
        table.Budget(d_model=16),
    )  # fmt: skip
    assert len({cell.digest for cell in sweep.cells}) == 2 * 2 * len(METHODS)
    for cell in sweep.cells:
        stored = json.loads(json.dumps(result_of(cell)))
        assert Cell.stored(stored["cell"]) == cell
        assert document.digest(stored) == cell.digest
        # a field that came after the file was written has today's default; one that is gone fits nothing
        del stored["cell"]["config"]["clip"]
        assert document.digest(stored) == cell.digest
        stored["cell"]["config"]["gone"] = 1
        assert document.digest(stored) != cell.digest


def holds(whole: Any, part: Any) -> bool:
    """Whether all that `part` says is in `whole`; what came later may be there too."""
    if isinstance(part, dict):
        return all(name in whole and holds(whole[name], value) for name, value in part.items())
    return whole == part


@pytest.mark.parametrize("suite", ["hopper", "mujoco", "adroit", "classic"])
def test_the_committed_tables_can_be_gone_on_from(suite: str) -> None:
    found = list(document.results(document.read(RESULTS / f"{suite}.json")))
    assert len({document.digest(result) for result in found}) == len(found) > 0
    for result in found:
        cell = Cell.stored(result["cell"])
        assert holds(json.loads(cell.config), result["cell"]["config"])
        assert cell.seed == result["cell"]["config"]["seed"]
