# SPDX-License-Identifier: MIT
"""What a command records of itself."""

import sys

import pytest

from model.command import given


def test_a_recorded_command_can_be_given_again() -> None:
    arguments = ["classic", "--task", "two words", "--env", 'KeyToDoor-v0 {"length": 32}', "--out", "runs/classic"]
    assert given("model.study", arguments) == (
        "python -m model.study classic --task 'two words' --env 'KeyToDoor-v0 {\"length\": 32}' --out runs/classic"
    )


def test_a_recorded_command_does_not_say_where_files_are_kept() -> None:
    arguments = ["--out", "/home/ada/runs/7", "--json=/tmp/x=1/table.json", "--png", "figures/a=b.png", "/tmp/y=1/z"]
    assert given("m", arguments) == "python -m m --out 7 --json=table.json --png figures/a=b.png z"


def test_a_recorded_command_is_this_process_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/lib/model/train.py", "--seed", "3"])
    assert given("model.train", None) == "python -m model.train --seed 3"
