# SPDX-License-Identifier: MIT
"""Shipped policies by name, in every command that takes an artifact, and one circuit for policies of its geometry."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from host import run_episode
from host.verilated import build_key
from model import audit, collect, energy, evaluate, export
from model.data.offline import Normaliser
from model.deployed import zoo
from model.deployed.artifact import ArtifactError, Policy
from model.deployed.presets import HOPPER_Z2, TINY
from model.training import deployment
from model.training.checkpoint import Checkpoint, build
from model.training.config import PRESETS
from sim import bench

COMMANDS: dict[str, Any] = {
    "host.run_episode": lambda policy: run_episode.main(["--device", "golden", "--policy", policy]),
    "model.evaluate": lambda policy: evaluate.main([policy, "--episodes", "1"]),
    "model.export": lambda policy: export.main([policy, "--nir", "never.nir"]),
    "model.audit": lambda policy: audit.main([policy, "--tokens", "1"]),
    "model.energy": lambda policy: energy.main([policy, "--tokens", "1"]),
    "model.collect": lambda policy: collect.main(["policy", policy, "--episodes", "1", "--dataset", "test/zoo-v0"]),
    "sim.bench": lambda policy: bench.main(["--policy", policy]),
}


def test_every_shipped_name_leads_to_an_artifact() -> None:
    names = zoo.shipped()
    assert names == sorted(names)
    assert {zoo.DEFAULT, zoo.TEST_POLICY} < {*names, "another"}
    for name in names:
        assert zoo.find(name) == zoo.POLICIES / f"{name}.safetensors"
        Policy.load(zoo.find(name))


def test_the_test_policy_is_marked_and_of_another_geometry() -> None:
    assert f"{zoo.TEST_POLICY} (test policy)" in zoo.listing()
    assert zoo.listing().count("(test policy)") == 1
    geometries = [Policy.load(zoo.find(name)).geometry for name in (zoo.DEFAULT, zoo.TEST_POLICY)]
    assert geometries == [HOPPER_Z2, TINY]


def test_a_name_comes_before_a_file_and_a_path_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in (zoo.TEST_POLICY, "own.safetensors"):
        Path(place).write_text("")
    assert zoo.find(zoo.TEST_POLICY).parent == zoo.POLICIES
    assert zoo.find(f"./{zoo.TEST_POLICY}") == Path(zoo.TEST_POLICY)
    assert zoo.find("own.safetensors") == Path("own.safetensors")
    assert zoo.find(str(tmp_path / "own.safetensors")) == tmp_path / "own.safetensors"
    # what is no artifact has a reader with its own words
    assert zoo.find("runs/hopper/quant.pt") == Path("runs/hopper/quant.pt")


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("hoper-medium", "hopper-medium"),
        ("HOPPER-TINY", "hopper-tiny"),
        ("runs/hopper_tiny.safetensors", "hopper-tiny"),
        ("zebra", None),
        (".", None),
    ],
)
def test_an_unknown_name_lists_the_shipped_ones(wrong: str, nearest: str | None) -> None:
    with pytest.raises(ArtifactError) as caught:
        zoo.find(wrong)
    text = str(caught.value)
    assert text.startswith(f"there is no policy {wrong}, neither a file nor a shipped one")
    assert all(name in text for name in zoo.shipped())
    assert (f"(the nearest is {nearest})" in text) if nearest else ("nearest" not in text)


def test_an_empty_zoo_is_said_to_be_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "POLICIES", tmp_path)
    with pytest.raises(ArtifactError, match="shipped are none"):
        zoo.find("hopper-medium")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_an_unknown_name_in_one_sentence(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert COMMANDS[command]("hoper-medium") > 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"(the nearest is hopper-medium); shipped are {zoo.listing()}" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_a_name(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Path] = []
    load = Policy.load

    def stop(path: Path) -> Policy:
        seen.append(path)
        load(path)
        raise ArtifactError("far enough")

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setattr(Policy, "load", stop)
    assert COMMANDS[command](zoo.TEST_POLICY) > 0
    assert capsys.readouterr().err.endswith(": far enough\n")
    assert seen == [zoo.POLICIES / f"{zoo.TEST_POLICY}.safetensors"]


def test_a_named_policy_flies_and_the_default_is_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--device", "golden", "--policy", zoo.TEST_POLICY, "--out", str(tmp_path)]
    assert run_episode.main(options) == 0
    summary = json.loads((tmp_path / "episode.json").read_text())
    assert summary["policy_digest"] == Policy.load(zoo.find(zoo.TEST_POLICY)).digest
    assert run_episode.parse([]).policy == zoo.DEFAULT
    with pytest.raises(SystemExit):
        run_episode.parse(["--help"])
    shown = "".join(capsys.readouterr().out.split())  # it breaks lines at hyphens
    assert all(name in shown for name in zoo.shipped())


def exported(folder: Path, environment: str, observations: int, actions: int) -> Policy:
    """Export a network of a preset's sizes, as training would leave it after no update."""
    torch.manual_seed(0)
    config = PRESETS["hopper"]
    network = build(config, observations + actions + 1, actions, quantised=True)
    facts = {"environment": environment, "actions": actions, "discrete": False, "versions": {}, "command": "none"}
    facts |= dict.fromkeys(("dataset", "dataset_digest"), "none") | {"dataset_mean_return": 0.0}
    normaliser = Normaliser(np.zeros(observations), np.ones(observations), config.return_scale)
    Checkpoint(config, network, normaliser, facts, {}).save(folder / f"{environment}.pt")
    return deployment.export(folder / f"{environment}.pt")[0]


def test_policies_of_every_mujoco_walker_are_of_one_geometry_and_one_circuit(tmp_path: Path) -> None:
    sizes = {"Hopper-v5": (11, 3), "HalfCheetah-v5": (17, 6), "Walker2d-v5": (17, 6)}
    policies = [exported(tmp_path, environment, *size) for environment, size in sizes.items()]
    assert [(policy.observation_size, policy.action_size) for policy in policies] == list(sizes.values())
    assert {policy.geometry.digest for policy in policies} == {HOPPER_Z2.digest}
    # the library of a simulated circuit is found by this (sim/test_episode.py loads such policies on one)
    assert len({build_key(policy.geometry) for policy in policies}) == 1
