# SPDX-License-Identifier: MIT
"""Tables of scores: cells on Ray that train, fail and go on alone; the two protocols; the printed table."""

import contextlib
import dataclasses
import json
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from model import collect, table
from model.data import offline, tasks
from model.scores import cells, protocol, suites
from model.scores.cells import Cell, Resources
from model.scores.protocol import PROTOCOLS
from model.scores.report import markdown
from model.scores.suites import METHODS, SUITES, Budget, configuration
from model.training.trainer import Trainer

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")

SMALL = ["--d-model", "16", "--layers", "1", "--window", "4", "--length", "8", "--batch", "8"]
QUICK = [*SMALL, "--steps", "40", "--quant-steps", "10", "--seeds", "1", "--episodes", "2", "--checkpoints", "2"]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data for cartpole-mixed: a rule that balances the pole."""
    root = tmp_path_factory.mktemp("library")
    observations, actions, lengths = [], [], []
    with contextlib.closing(gymnasium.make("CartPole-v1")) as pole:
        for seed in range(4):
            observation = pole.reset(seed=seed)[0]
            for _ in range(60):
                observations.append(observation)
                actions.append(int(observation[2] + observation[3] > 0))
                observation = pole.step(actions[-1])[0]
            lengths.append(60)
    arrays = {"observations": np.array(observations), "actions": np.array(actions), "rewards": np.ones(len(actions))}
    np.savez(root / "pole.npz", **arrays, ep_len=np.array(lengths))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        collect.import_npz(root / "pole.npz", "cartpole/mixed-v0", "CartPole-v1")
    return root


@pytest.fixture(autouse=True)
def _at_library(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(library))
    monkeypatch.setenv("TERM", "dumb")


def cell(method: str, steps: int = 40, quant_steps: int = 10, rule: str = "honest") -> Cell:
    task, source = tasks.find("cartpole-mixed"), offline.load("cartpole/mixed-v0")
    budget = Budget(16, layers=1, window=4, length=8, batch=8, steps=steps, quant_steps=quant_steps)
    config = configuration(task, METHODS[method], budget, source, seed=0)
    chosen = PROTOCOLS[rule]
    targets = task.targets if chosen.every_target else (task.target_return,)
    return Cell(
        *(task.name, method, config.to_json(), task.dataset, source.digest, rule, targets),
        **{"episodes": 2, "first_seed": chosen.first_seed, "checkpoints": 2},
    )


class Deadly:
    """A cell whose arrival ends the process that receives it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)


# Ray lets go of a process object before the process has ended, on a busy machine
@pytest.mark.filterwarnings("ignore:Exception ignored in. .function Popen.__del__")
def test_a_table_is_filled_by_the_command_and_a_failing_cell_fails_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "cells"
    arguments = ["--suite", "classic", "--methods", "pssa", "bc", *QUICK, "--out", str(out), "--workers", "1"]
    files = ["--json", str(tmp_path / "table.json"), "--markdown", str(tmp_path / "table.md")]
    rule = dataclasses.replace(PROTOCOLS["honest"], episodes=2, checkpoints=2)
    budget = Budget(16, layers=1, window=4, length=8, batch=8, steps=40, quant_steps=10)
    (bc,) = table.Sweep([tasks.find("cartpole-mixed")], ["bc"], [0], rule, budget).cells
    bc.folder(out).mkdir(parents=True)  # a broken file where its state should be
    (bc.folder(out) / "checkpoint.pt").write_bytes(b"broken")
    deaths = []

    def sweep(missing: list[Cell], *rest: Any) -> Any:
        for cell, result in start([Deadly(), *missing], *rest):
            if isinstance(cell, Deadly):
                deaths.append(result)
            else:
                yield cell, result

    start, folders = cells.sweep, []
    monkeypatch.setattr(cells, "sweep", sweep)
    monkeypatch.setattr(cells, "_session_folder", lambda folder=cells._session_folder: _noted(folder(), folders))
    assert table.main([*arguments, *files]) == 1
    assert [Path(folder).exists() for folder in folders] == [False]
    assert deaths == [{"failed": "its process died (WorkerCrashedError); the memory may have run out"}]
    printed, errors = capsys.readouterr()
    assert printed == (tmp_path / "table.md").read_text()
    assert "failed: cartpole-mixed, bc, seed 0: " in errors
    assert "checkpoint.pt is no usable checkpoint" in errors
    assert "Traceback" in (bc.folder(out) / "failure.txt").read_text()
    document = json.loads((tmp_path / "table.json").read_text())
    found = {task["name"]: task for task in document["tasks"]}
    assert "there is no data set pendulum/mixed-v0" in found["pendulum-mixed"]["absent"]
    assert "Not run: there is no data set pendulum/mixed-v0" in printed
    rows = {row["method"]: row for row in found["cartpole-mixed"]["rows"]}
    assert rows["bc"]["float_last"] is None
    assert rows["bc"]["parameters"] is None
    assert [problem["seed"] for problem in rows["bc"]["problems"]] == [0]
    assert rows["pssa"]["problems"] == []
    (done,) = rows["pssa"]["cells"]
    assert [result["step"] for result in done["float"]] == [20, 40]
    assert [len(result["returns"]) for result in [*done["float"], *done["deployed"]]] == [2, 2, 2]
    assert done["cell"]["dataset_digest"] == offline.load("cartpole/mixed-v0").digest
    assert {"torch", "mujoco", "ray"} <= set(done["versions"])
    assert done["training_cpu_s"] > 0
    assert document["shortfall"][0] == "1 training seeds where the protocol asks for 3"

    # again: what is done is read, without Ray; the broken cell is the only one that is tried once more
    tried = []
    monkeypatch.setattr(cells, "sweep", lambda missing, *_: _close(tried.extend(missing)))
    assert table.main([*arguments, *files]) == 0
    assert [cell.method for cell in tried] == ["bc"]
    assert "bc, seed 0: not run yet" in capsys.readouterr().out
    assert table.main(["--from", str(tmp_path / "table.json")]) == 0
    assert capsys.readouterr().out == (tmp_path / "table.md").read_text()


def _close(_: None) -> Any:
    yield from ()


def _noted(folder: tempfile.TemporaryDirectory[str], names: list[str]) -> tempfile.TemporaryDirectory[str]:
    names.append(folder.name)
    return folder


def test_the_folder_of_a_ray_session_is_short_enough_for_its_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket_of_ray = "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
    for folder in (tmp_path / ("x" * 40), Path("/tmp")):
        folder.mkdir(exist_ok=True)
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        with cells._session_folder() as name:
            assert len(f"{name}/{socket_of_ray}") <= 103
        assert not Path(name).exists()


def test_an_interrupted_cell_goes_on_in_the_middle_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = cell("pssa")
    whole = cells.run(chosen, tmp_path / "whole", Resources(save_every=7))
    update, updates = Trainer._update, []

    def killed(self: Trainer, learning_rate: float) -> float:
        updates.append(self.step)
        if len(updates) == 32:
            raise SystemExit
        return update(self, learning_rate)

    monkeypatch.setattr(Trainer, "_update", killed)
    with pytest.raises(SystemExit):
        cells.run(chosen, tmp_path / "parts", Resources(save_every=7))
    assert cells.finished(chosen, tmp_path / "parts") is None
    parts = cells.run(chosen, tmp_path / "parts", Resources(save_every=7))
    assert updates[32] == 28
    assert cells.finished(chosen, tmp_path / "parts") == parts
    for name in ("float", "deployed"):
        assert parts[name] == whole[name]


def test_a_cell_is_named_by_all_that_determines_it() -> None:
    first = cell("pssa")
    others = [cell("bc"), cell("pssa", steps=41), cell("pssa", rule="paper"), dataclasses.replace(first, episodes=3)]
    assert len({c.digest for c in [first, cell("pssa"), *others]}) == 1 + len(others)


def test_the_papers_rule_takes_the_best_target_of_the_best_checkpoint() -> None:
    def result(step: int, target: float, mean: float) -> protocol.Result:
        return {"step": step, "target_return": target, "mean_return": mean, "returns": [mean - 1, mean + 1]}

    results = [result(1, 5, 30.0), result(1, 9, 50.0), result(2, 5, 20.0), result(2, 9, 10.0)]
    assert protocol.best(results)["mean_return"] == 50.0
    assert protocol.last(results)["mean_return"] == 20.0
    assert protocol.last([]) is None
    summary = protocol.over_seeds([results[0], results[1], None], (10.0, 60.0))
    assert summary == {"runs": 2, "mean": 60.0, "std_runs": pytest.approx(28.284271), "std_episodes": 2.0}
    assert protocol.over_seeds([results[0]], (10.0, 60.0))["std_runs"] is None
    assert protocol.over_seeds([None], (0.0, 1.0)) is None


def test_the_paper_protocol_tries_every_target(tmp_path: Path) -> None:
    result = cells.run(cell("bc", steps=4, quant_steps=0, rule="paper"), tmp_path, Resources())
    assert [(r["step"], r["target_return"]) for r in result["float"]] == [(2, 500), (2, 250), (4, 500), (4, 250)]


@pytest.mark.parametrize(("returns", "scale"), [(400.0, 32.0), (1000.0, 16.0), (20_000.0, 1.0)])
def test_the_grid_of_the_return_to_go_holds_every_target_and_return(returns: float, scale: float) -> None:
    source = dataclasses.replace(offline.load("cartpole/mixed-v0"), rewards=np.full(240, returns / 60, np.float32))
    config = configuration(tasks.find("cartpole-mixed"), METHODS["pssa"], Budget(), source, seed=0)
    assert config.to_go_scale == scale


def test_suites_hold_what_they_say_and_every_method_is_a_configuration() -> None:
    assert {task.name for task in SUITES["classic"].tasks} == {
        f"{name}-mixed" for name in ("cartpole", "mountaincar", "acrobot", "pendulum")
    }
    assert all(task.environment.startswith("Hopper") for task in SUITES["hopper"].tasks)
    task, source = tasks.find("cartpole-mixed"), offline.load("cartpole/mixed-v0")
    assert all(suite.tasks for suite in SUITES.values())
    for budget in (*(suite.budget for suite in SUITES.values()), Budget(16, layers=1, window=4, length=8)):
        for method in METHODS.values():
            config = configuration(task, method, budget, source, seed=3)
            assert config.seed == 3
            assert (config.quant_steps > 0) == method.integer


def test_the_printed_table_says_what_it_stands_on() -> None:
    summary = {"runs": 3, "mean": 78.66, "std_runs": 1.25, "std_episodes": 0.75}
    single = {"runs": 1, "mean": 50.0, "std_runs": None, "std_episodes": 2.0}
    row = {"method": "pssa", "published_as": "PSSA", "parameters": 602627, "weight_bits": 4, "problems": []}
    task = dataclasses.asdict(tasks.find("hopper-medium")) | {
        "absent": None, "dataset_digest": "ab" * 32, "dataset_mean_return": 1562.9, "dataset_steps": 200,
        "dataset_episodes": 2, "published": {"PSSA": (96.3, "a paper")},
        "rows": [row | {"float_last": summary, "float_best": summary, "deployed_last": single, "cells": []}],
    }  # fmt: skip
    text = markdown({
        "suite": "hopper", "command": "python -m model.table --suite hopper", "tasks": [task], "shortfall": [],
        "protocol": dataclasses.asdict(PROTOCOLS["honest"]) | {"seeds": [0, 1, 2]}, "budget": {"d_model": 128},
        "commits": ["c0ffee"], "versions": {"torch": "2"}, "published_averages": {"PSSA": (78.8, "the average")},
    })  # fmt: skip
    assert "| pssa | 602,627 | 78.7 +- 1.2 [0.8] | 78.7 +- 1.2 [0.8] | 50.0 (1 run) [2.0] | 96.3 |" in text
    for part in ("protocol `honest`", "seeds 0 to 2", "reset seeds 1000 to 1019", "c0ffee", "PSSA 96.3: a paper",
                 "mean return 1562.9 = 48.6", "deployed W4", "PSSA 78.8: the average"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--suite", "hopper"], "no data for any of these tasks: there is no data set hopper/"),
        (["--suite", "classic", "--tasks", "door-human"], "door-human is not in the suite classic; leave --tasks out"),
        (["--suite", "classic", "--tasks", "cartpool"], "there is no task cartpool; near it are cartpole-mixed"),
        (["--suite", "classic", "--seeds", "0"], "--seeds must be at least 1, not 0"),
        (
            ["--from", "pyproject.toml"],
            "pyproject.toml holds no table; give a file that `python -m model.table --json`",
        ),
        (["--from", "nowhere.json"], "[Errno 2] No such file or directory: 'nowhere.json'"),
    ],
    ids=["data", "suite", "task", "seeds", "no table", "no file"],
)
def test_mistakes_are_sentences(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline, "_download", _absent)
    monkeypatch.chdir(Path(table.__file__).parent.parent)
    assert table.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {sentence}")
    assert error.count("\n") == 1


def _absent(dataset: str) -> None:
    raise offline.DataError(f"there is no data set {dataset}")


def test_a_cluster_that_does_not_answer_is_a_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(cells.SweepError, match=f"no Ray cluster answers at {address} .*; start one with"):
        next(cells.sweep([], tmp_path, Resources(), 1, address))


def test_a_method_that_cannot_be_configured_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "odd", suites.Method(attention="none"))
    sweep = table.Sweep([tasks.find("cartpole-mixed")], ["odd", "bc"], [0], PROTOCOLS["honest"], Budget())
    assert [cell.method for cell in sweep.cells] == ["bc"]
    _, odd = sweep.document("classic", "")["tasks"][0]["rows"]
    (problem,) = odd["problems"]
    assert "attention must be" in problem["failed"]
