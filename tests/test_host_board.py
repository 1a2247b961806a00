# SPDX-License-Identifier: MIT
"""Episodes through a board server, and boards that are not there."""

import csv
import dataclasses
import json
import threading

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from host import run_episode
from host.accelerator import Accelerator
from host.board import messages
from host.board.server import BoardServer
from host.board.service import BoardService
from host.verilated import VerilatedBus, library
from model.deployed.presets import TINY
from model.deployed.random_policy import random_policy

TOKEN = "0123456789abcdef"


class Drifting(gymnasium.Env):
    """An environment whose next observation follows from the action, so that a wrong action shows."""

    def __init__(self, render_mode=None):
        self.observation_space = Box(-9, 9, (5,), np.float64)
        self.action_space = Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.steps = self.np_random.normal(size=5), 0
        return self.at.copy(), {}

    def step(self, action):
        self.steps += 1
        self.at = np.clip(np.roll(self.at, 1) + np.array([*action, 0.1, *action]), -9, 9)
        return self.at.copy(), float(self.at.sum()), self.steps == 40, False, {}


@pytest.fixture(autouse=True)
def _environment():
    gymnasium.register("Drifting-v0", Drifting)
    yield
    del gymnasium.registry["Drifting-v0"]


@pytest.fixture
def policy(tmp_path):
    policy = dataclasses.replace(random_policy(TINY, 3, 5, 2), environment="Drifting-v0", target_return=300.0)
    policy.save(tmp_path / "policy.safetensors")
    return policy


@pytest.fixture
def served(monkeypatch):
    """A server on the simulated circuit."""
    monkeypatch.setenv(messages.TOKEN_VARIABLE, TOKEN)
    accelerator = Accelerator(VerilatedBus(library(TINY)), TINY)
    service = BoardService(accelerator, {"geometry": TINY.to_json()}, list)
    server = BoardServer(service, TOKEN.encode(), ("127.0.0.1", 0), keep_s=0.2)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    yield server
    server.close()
    thread.join(20)
    accelerator.close()


def fly(tmp_path, name, *options):
    """Return exit code, table of steps and summary of a run."""
    out = tmp_path / name
    arguments = ["--policy", tmp_path / "policy.safetensors", "--out", out, "--episodes", 2, *options]
    code = run_episode.main([str(argument) for argument in arguments])
    with (out / "steps.csv").open() as file:
        return code, list(csv.reader(file)), json.loads((out / "episode.json").read_text())


def test_episodes_through_the_network_are_those_of_the_simulated_circuit(policy, served, tmp_path, capsys):
    here = fly(tmp_path, "here", "--device", "verilated")
    board = f"127.0.0.1:{served.address[1]}"
    there = fly(tmp_path, "there", "--board", board)
    assert (here[0], there[0]) == (0, 0)
    assert here[1] == there[1]  # actions, rewards, cycles, counters: every step of both episodes
    assert len(there[1]) == 81
    assert len({tuple(row[-7:]) for row in there[1]}) == 81
    assert there[2]["device"] == "board"
    assert there[2]["checked_actions"] == 160
    assert there[2]["mismatches"] == 0
    assert f"deciding on the board server at {board}" in capsys.readouterr().err


def test_a_board_that_is_lost_ends_the_episode_with_what_it_has(policy, served, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("host.board.remote.PATIENCE_S", 0.3)
    honest = Drifting.step

    def step(environment, action):
        if environment.steps == 20:
            served.close()
        return honest(environment, action)

    monkeypatch.setattr(Drifting, "step", step)
    code, rows, summary = fly(tmp_path, "out", "--board", f"127.0.0.1:{served.address[1]}")
    assert code == 1
    assert len(rows) == 22
    assert summary["steps"] == 21
    assert "does not answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--board"], "this machine is no Zynq"),
        (["--board", "board:http"], "is no address"),
        (["--board", "127.0.0.1:1"], "a shared token is needed"),
    ],
)
def test_boards_that_are_not_there(policy, tmp_path, capsys, monkeypatch, options, sentence):
    monkeypatch.delenv(messages.TOKEN_VARIABLE, raising=False)
    assert run_episode.main(["--policy", str(tmp_path / "policy.safetensors"), *options]) == 1
    text = capsys.readouterr().err
    assert sentence in text
    assert "Traceback" not in text
