# SPDX-License-Identifier: MIT
"""The command line: whole episodes on the golden device, and what a user can get wrong."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict

from host import run_episode
from host.golden_device import GoldenBus
from model.deployed.geometry import Geometry
from model.deployed.presets import TINY
from model.deployed.random_policy import random_policy

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "host" / "run_episode.py"

# MuJoCo warns of attributes in Gymnasium's own models, Gymnasium of its older environments
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gymnasium", "ignore::DeprecationWarning:mujoco")


def save(folder, environment, observations, actions, geometry=TINY, discrete=None):
    policy = dataclasses.replace(
        random_policy(geometry, 1, observations, actions),
        environment=environment,
        target_return=3600.0,
        discrete=discrete,
    )
    path = folder / f"{environment}.safetensors"
    policy.save(path)
    return path


@pytest.fixture(scope="module")
def hopper(tmp_path_factory):
    return save(tmp_path_factory.mktemp("policies"), "Hopper-v5", 11, 3)


def run(*arguments, **environment):
    """Run the script as a user would."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd="/",
        env=os.environ | environment,
        timeout=120,
    )


def fails(capsys, *arguments):
    """Return what the command line says when it fails, after checking that it is one sentence and exit code 1."""
    code = run_episode.main([str(argument) for argument in arguments])
    text = capsys.readouterr().err
    assert code == 1
    assert "Traceback" not in text
    assert text.count("\n") == 1
    return text


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


# Episodes


def test_an_episode_from_start_to_files_without_torch(hopper, tmp_path):
    program = (
        "import sys, runpy; sys.modules.update(dict.fromkeys(('torch', 'minari', 'amaranth'))); "
        f"sys.argv[0] = {str(SCRIPT)!r}; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    options = ["--device", "golden", "--check", "--policy", hopper, "--out", tmp_path / "out", "--episodes", 2]
    summary_path = tmp_path / "summary.json"
    arguments = [str(option) for option in [*options, "--seed", 5, "--json", summary_path]]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    summary = json.loads((tmp_path / "out" / "episode.json").read_text())
    assert summary == json.loads(summary_path.read_text())
    first, second = summary["episodes"]
    assert [first["seed"], second["seed"]] == [5, 6]
    assert summary["environment"] == "Hopper-v5"
    assert summary["device"] == "golden"
    assert summary["steps"] == first["steps"] + second["steps"] > 5
    assert summary["checked_actions"] == 3 * summary["steps"]
    assert summary["mismatches"] == 0
    assert summary["cycles_median"] is None
    assert not summary["interrupted"]
    assert summary["return"] == pytest.approx((first["return"] + second["return"]) / 2)
    assert summary["aggregate"]["return"]["std"] == pytest.approx(abs(first["return"] - second["return"]) / 2)
    assert summary["normalized_score"] == pytest.approx(100 * (summary["return"] + 20.272305) / 3254.572305)
    assert set(summary["versions"]) >= {"mujoco", "gymnasium", "verilator", "spikeloop"}
    steps = rows(tmp_path / "out" / "steps.csv")
    assert [row["episode"] for row in steps] == ["0"] * first["steps"] + ["1"] * second["steps"]
    assert [int(row["step"]) for row in steps] == [*range(first["steps"]), *range(second["steps"])]
    assert float(steps[-1]["return"]) == pytest.approx(second["return"])
    assert sum(float(row["reward"]) for row in steps) == pytest.approx(first["return"] + second["return"])
    assert len({row["action0"] for row in steps}) > 3
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert "http" not in page


def test_an_episode_is_reproducible(hopper, tmp_path):
    tables = []
    for name in ("one", "two"):
        assert run_episode.main(["--device", "golden", "--policy", str(hopper), "--out", str(tmp_path / name)]) == 0
        tables.append((tmp_path / name / "steps.csv").read_text())
    assert tables[0] == tables[1]


def test_an_episode_on_a_circuit_of_other_rows_and_groups(hopper, tmp_path):
    circuit, tables, summaries = tmp_path / "wide.json", [], []
    circuit.write_text(dataclasses.replace(TINY, rows_per_cycle=4, group=4).to_json())
    for name, options in (("own", []), ("wide", ["--geometry", str(circuit)])):
        out = tmp_path / name
        arguments = ["--device", "golden", "--check", "--scrub", "40", "--policy", str(hopper), "--out", str(out)]
        assert run_episode.main([*arguments, *options]) == 0
        tables.append((out / "steps.csv").read_text())
        summaries.append(json.loads((out / "episode.json").read_text()))
    own, wide = summaries
    assert tables[0] == tables[1]
    assert own["policy_digest"] == wide["policy_digest"]
    assert own["circuit_geometry_digest"] == TINY.digest == own["geometry_digest"] == wide["geometry_digest"]
    assert wide["circuit_geometry_digest"] == Geometry.from_json(circuit.read_text()).digest
    assert wide["checked_actions"] == 3 * wide["steps"] > 0


def test_a_circuit_of_another_network_is_refused(hopper, capsys):
    said = fails(capsys, "--device", "golden", "--policy", hopper, "--geometry", "ODD")
    assert "another geometry than the circuit (policy, circuit): observation_size: 11, 5; action_size: 3, 2; " in said
    assert "rows_per_cycle" not in said
    assert "group" not in said
    assert "unknown geometry 'SMALL'" in fails(capsys, "--policy", hopper, "--geometry", "SMALL")


def test_ctrl_c_keeps_what_was_flown(tmp_path):
    geometry = dataclasses.replace(TINY, observation_size=17, action_size=6)
    policy = save(tmp_path, "HalfCheetah-v5", 17, 6, geometry)  # a thousand steps, whatever one does
    out = tmp_path / "out"
    arguments = ["--device", "golden", "--policy", policy, "--episodes", "100", "--out", out]
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (out / "steps.csv").exists() or len((out / "steps.csv").read_text().splitlines()) < 1100:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "keeping what was flown" in errors
    summary = json.loads((out / "episode.json").read_text())
    assert summary["interrupted"]
    assert summary["steps"] == len(rows(out / "steps.csv")) >= 1099
    assert f"interrupted after {summary['steps']} steps" in errors
    assert "Interrupted" in (out / "report.html").read_text()
    assert "report.html" in output


def test_a_film_is_optional(hopper, tmp_path):
    done = run(
        *("--device", "golden", "--policy", hopper, "--out", tmp_path, "--video", "--gif"),
        MUJOCO_GL="a-renderer-nobody-has",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no video: MuJoCo cannot render here with a-renderer-nobody-has") == 1
    assert "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"episode.json", "report.html", "steps.csv"}


# Mistakes


class Odd(gymnasium.Env):
    """An environment with spaces of choice, whose observations turn NaN."""

    def __init__(self, observation=None, action=None, render_mode=None):
        self.observation_space = observation or Box(-1, 1, (11,))
        self.action_space = action or Box(-1, 1, (3,), np.float32)
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(11), {}

    def step(self, action):
        self.steps += 1
        return np.full(11, np.nan if self.steps == 4 else 0.0), 1.0, False, False, {}


class Parts(Odd):
    """An environment whose observation has parts; they come in another order than they are flattened."""

    def __init__(self, render_mode=None):
        parts = {"goal": Box(-9, 9, (2,), np.float64), "at": Box(-9, 9, (3,), np.float64)}
        super().__init__(Dict(parts), render_mode=render_mode)

    def observe(self):
        return {"goal": np.array([1.0, 2.0]), "at": np.array([self.steps, self.steps + 0.5, 0])}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observe(), {}

    def step(self, action):
        self.steps += 1
        return self.observe(), 1.0, self.steps == 7, False, {}


@pytest.fixture(scope="module", autouse=True)
def odd_environments():
    unbounded = Box(-np.inf, np.inf, (3,), np.float32)
    gymnasium.register("Diverging-v0", Odd)
    gymnasium.register("Dictionary-v0", Parts)
    gymnasium.register("Unbounded-v0", Odd, kwargs={"action": unbounded})
    yield
    for name in ("Diverging-v0", "Dictionary-v0", "Unbounded-v0"):
        del gymnasium.registry[name]


@pytest.mark.parametrize("kinds", [("mp4",), ("gif",), ("mp4", "gif")], ids="+".join)
def test_films_lie_beside_the_other_results(kinds, tmp_path, monkeypatch):
    monkeypatch.setattr(run_episode, "choose_renderer", lambda: None)
    monkeypatch.setattr(Odd, "metadata", {"render_modes": ["rgb_array"], "render_fps": 30})
    monkeypatch.setattr(Odd, "render", lambda self: np.full((32, 32, 3), 20 * self.steps, np.uint8), raising=False)
    policy = save(tmp_path, "Dictionary-v0", 5, 3)
    options = [{"mp4": "--video", "gif": "--gif"}[kind] for kind in kinds]
    arguments = ["--device", "golden", "--policy", str(policy), "--out", str(tmp_path / "out"), *options]
    assert run_episode.main(arguments) == 0
    films = {path.name for path in (tmp_path / "out").glob("episode.*")} - {"episode.json"}
    assert films == {f"episode.{kind}" for kind in kinds}


def test_a_missing_policy(capsys, tmp_path):
    text = fails(capsys, "--policy", tmp_path / "none.safetensors")
    assert "there is no policy" in text
    assert "hopper-medium" in text
    assert "export" in text


def test_a_truncated_policy(capsys, hopper, tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(hopper.read_bytes()[:-100])
    assert "is no whole policy artifact" in fails(capsys, "--policy", cut)


def test_an_edited_policy(capsys, hopper, tmp_path):
    content = bytearray(hopper.read_bytes())
    content[-1] ^= 1
    edited = tmp_path / "edited.safetensors"
    edited.write_bytes(content)
    assert "edited" in (text := fails(capsys, "--policy", edited)) or "not a usable policy" in text


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ("Hoppper-v5", "the environment Hoppper-v5 cannot be made"),
        ("nothing_like_it:Hopper-v5", "cannot be made"),
        ("HalfCheetah-v5", "observations of 17 components, the policy was trained with 11"),
        ("CartPole-v1", "observations of 4 components"),
        ("FrozenLake-v1", "observations of 16 components"),
        ("Dictionary-v0", "observations of 5 components"),
        ("Unbounded-v0", "have no bounds"),
    ],
)
def test_an_unsuitable_environment(capsys, hopper, environment, sentence):
    assert sentence in fails(capsys, "--device", "golden", "--policy", hopper, "--env", environment)


def test_discrete_actions_need_a_score_for_every_choice(capsys, tmp_path):
    policy = save(tmp_path, "CartPole-v1", 4, 1)
    assert "actions of 2 components, the policy was trained with 1" in fails(
        capsys, "--device", "golden", "--policy", policy
    )


@pytest.mark.parametrize(
    ("environment", "sizes", "discrete", "sentence"),
    [
        ("CartPole-v1", (4, 2), False, "has discrete actions, the policy was made for continuous ones; choose what"),
        ("Hopper-v5", (11, 3), True, "has continuous actions, the policy was made for discrete ones; choose what"),
    ],
)
def test_actions_of_another_kind(capsys, tmp_path, environment, sizes, discrete, sentence):
    policy = save(tmp_path, environment, *sizes, discrete=discrete)
    assert f"{environment} {sentence}" in fails(capsys, "--device", "golden", "--policy", policy)


@pytest.mark.parametrize(
    ("environment", "sizes", "discrete"),
    [("CartPole-v1", (4, 2), None), ("CartPole-v1", (4, 2), True), ("Dictionary-v0", (5, 3), False)],
)
def test_choices_and_dictionaries(tmp_path, environment, sizes, discrete):
    policy = save(tmp_path, environment, *sizes, discrete=discrete)
    out = tmp_path / "out"
    assert run_episode.main(["--device", "golden", "--policy", str(policy), "--out", str(out)]) == 0
    steps = rows(out / "steps.csv")
    assert len(steps) == json.loads((out / "episode.json").read_text())["steps"] > 5
    if environment == "CartPole-v1":
        chosen = [(float(row["action0"]), float(row["action1"])) for row in steps]
        assert set(chosen) <= {(0.0, 1.0), (1.0, 0.0)}
    else:
        assert [float(steps[2][f"observation{i}"]) for i in range(5)] == [2.0, 2.5, 0.0, 1.0, 2.0]


def test_an_action_of_another_size(capsys, tmp_path):
    policy = save(tmp_path, "Hopper-v5", 11, 2)
    assert "actions of 3 components, the policy was trained with 2" in fails(
        capsys, "--device", "golden", "--policy", policy
    )


def test_a_diverging_environment_keeps_what_was_flown(capsys, hopper, tmp_path):
    options = ("--device", "golden", "--policy", hopper, "--env", "Diverging-v0", "--out", tmp_path)
    assert "a NaN or an infinity in step 4" in fails(capsys, *options)
    assert len(rows(tmp_path / "steps.csv")) == 4
    assert json.loads((tmp_path / "episode.json").read_text())["return"] == 4.0


def test_a_difference_is_reported_and_recorded(capsys, hopper, tmp_path, monkeypatch):
    honest = GoldenBus._record

    def flip(bus, trace):
        if bus._decisions == 3:
            trace.signatures[2] ^= 1
        honest(bus, trace)

    monkeypatch.setattr(GoldenBus, "_record", flip)
    options = ("--device", "golden", "--check", "--policy", hopper, "--out", tmp_path)
    text = fails(capsys, *options)
    assert "decision 2 of the episode differs from the golden network, beginning in the MLP of layer 0" in text
    summary = json.loads((tmp_path / "episode.json").read_text())
    # the golden network follows behind: the steps flown in between stay in the record
    assert (summary["mismatches"], summary["checked_actions"]) == (1, 6)
    assert summary["steps"] > 2
    assert "differ" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("option", ["--out", "--json"])
def test_a_place_that_cannot_be_written(capsys, hopper, tmp_path, option):
    blocked = tmp_path / "file"
    blocked.write_text("")
    places = {"--out": tmp_path / "out"} | {option: blocked / "below"}
    arguments = [part for name, path in places.items() for part in (name, path)]
    assert f"cannot write {'to ' if option == '--out' else ''}{blocked}" in fails(
        capsys, "--device", "golden", "--policy", hopper, *arguments
    )


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--episodes", "0", "must be at least 1"),
        ("--episodes", "two", "invalid int value"),
        ("--seed", "-1", "must be at least 0"),
        ("--target-return", "nan", "must be finite"),
        ("--clock-mhz", "0", "must be above 0"),
        ("--device", "board", "invalid choice"),
    ],
)
def test_nonsensical_options(capsys, option, value, sentence):
    with pytest.raises(SystemExit) as stopped:
        run_episode.main([option, value])
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err
