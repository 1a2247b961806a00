# SPDX-License-Identifier: MIT
"""Environments by name, flattened observations, actions, and the table of tasks."""

import json
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from host import score
from model import tasks as tasks_command
from model.data import environments, tasks
from model.data.environments import Actions, DataError

pytestmark = [
    # of Gymnasium's older environments and of attributes in the models of robots
    pytest.mark.filterwarnings("ignore::DeprecationWarning:gymnasium"),
    pytest.mark.filterwarnings("ignore::UserWarning:gymnasium"),
]


def test_a_name_and_its_options_survive() -> None:
    text = 'Pendulum-v1 {"g": 5.0}'
    assert environments.parse(text) == ("Pendulum-v1", {"g": 5.0})
    assert environments.parse("Pendulum-v1") == ("Pendulum-v1", {})
    made = environments.make(text)
    assert made.unwrapped.g == 5.0
    assert environments.name_of(made.spec) == text
    made.close()


def test_an_episode_s_length_is_an_option() -> None:
    text = 'Pendulum-v1 {"max_episode_steps": 7}'
    made = environments.make(text)
    assert environments.name_of(made.spec) == text
    made.reset(seed=0)
    assert [made.step(made.action_space.sample())[3] for _ in range(7)] == [False] * 6 + [True]
    made.close()


def test_options_that_are_the_usual_ones_are_not_named() -> None:
    door = environments.make("AdroitHandDoor-v1")
    assert door.observation_space.shape == (39,)
    assert door.spec.kwargs
    assert environments.name_of(door.spec) == "AdroitHandDoor-v1"
    door.close()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("NoSuchThing-v0", "the environment NoSuchThing-v0 cannot be made: "),
        ("Hopper-v99", "cannot be made"),
        ('Hopper-v5 {"nonsense": 1}', "cannot be made"),
        ("Hopper-v5 nonsense", "after the id Hopper-v5 only a JSON object"),
        ("Hopper-v5 [1]", "only a JSON object"),
        ("AdroitHandNothing-v1", "cannot be made"),
        ("FrankaKitchen-v1", r"fails with MuJoCo 3\.12 and newer: pip install"),
    ],
)
def test_an_environment_that_cannot_be_made_is_one_sentence(name: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence) as caught:
        environments.make(name)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    for name in [name for name in gymnasium.registry if name.startswith("AdroitHand")]:
        monkeypatch.delitem(gymnasium.registry, name)
    with pytest.raises(DataError, match="AdroitHandDoor-v1 needs gymnasium-robotics: pip install"):
        environments.make("AdroitHandDoor-v1")


def test_goals_are_flattened_as_gymnasium_does() -> None:
    maze = environments.make('AntMaze_UMaze-v5 {"continuing_task": false}')
    observation, _ = maze.reset(seed=0)
    parts = maze.unwrapped.observation_space
    assert observation.shape == maze.observation_space.shape == (2 + 2 + 105,)
    np.testing.assert_array_equal(spaces.unflatten(parts, observation)["desired_goal"], observation[2:4])
    maze.close()


def test_rows_are_flattened_as_gymnasium_does_one_by_one() -> None:
    space = spaces.Dict(
        {
            "z": spaces.Box(-1, 1, (2, 2), np.float64),
            "a": spaces.Tuple([spaces.Discrete(3, start=5), spaces.Box(0, 1, (1,), np.float64)]),
            "m": spaces.MultiBinary(2),
        },
        seed=0,
    )
    samples = [space.sample() for _ in range(5)]
    rows = {
        "z": np.array([s["z"] for s in samples]),
        "a": tuple(np.array([s["a"][n] for s in samples]) for n in range(2)),
        "m": np.array([s["m"] for s in samples]),
    }
    flat = environments.flatten(space, rows)
    np.testing.assert_array_equal(flat, [spaces.flatten(space, s) for s in samples])
    with pytest.raises(DataError, match="no vector"):
        environments.flatten(spaces.Text(5), ["a"])


def test_continuous_actions_come_back_scaled() -> None:
    space = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32))
    codec = Actions.of(space, "it")
    raw = np.array([[-2.0, 10.0], [1.0, 5.0]], np.float32)
    coded = codec.encode(raw, "it")
    np.testing.assert_allclose(coded, [[-1, 1], [0.5, 0]])
    np.testing.assert_allclose([codec.execute(codec.settle(row)) for row in coded], raw)
    np.testing.assert_array_equal(codec.settle(np.array([-3.0, 0.5])), [-1, 0.5])
    assert codec.execute(np.zeros(2)).dtype == np.float32
    assert (codec.size, codec.discrete) == (2, False)


def test_a_choice_is_the_first_of_the_largest() -> None:
    codec = Actions.of(spaces.Discrete(3, start=-1), "it")
    np.testing.assert_array_equal(codec.encode(np.array([-1, 1, 0]), "it"), np.eye(3)[[0, 2, 1]])
    np.testing.assert_array_equal(codec.encode(np.array([[-1], [1]]), "it"), np.eye(3)[[0, 2]])
    np.testing.assert_array_equal(codec.settle(np.array([[0.2, 0.2, 0.1], [-3, -2, -1]])), np.eye(3)[[0, 2]])
    assert codec.execute(codec.settle(np.array([0.0, 0.9, 0.9]))) == 0
    assert codec.discrete


@pytest.mark.parametrize("actions", [[0.5, 1.0], [[0.1, 0.2]], [3, 0], [-1, 0]])
def test_continuous_actions_are_no_choices(actions: list) -> None:
    with pytest.raises(DataError, match="continuous actions and a discrete environment do not go together"):
        Actions.of(spaces.Discrete(3), "it").encode(np.array(actions), "it")


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3)])
def test_choices_are_no_continuous_actions(shape: tuple[int, ...]) -> None:
    codec = Actions.of(spaces.Box(-1, 1, (2,)), "it")
    with pytest.raises(DataError, match="discrete actions and a continuous environment do not go together"):
        codec.encode(np.zeros(shape), "it")


@pytest.mark.parametrize("space", [spaces.MultiDiscrete([2, 3]), spaces.Box(-1, 1, (2, 2)), spaces.Box(-np.inf, 1)])
def test_other_actions_are_refused(space: gymnasium.Space) -> None:
    with pytest.raises(DataError, match="the actions of it"):
        Actions.of(space, "it")


# The table of tasks


def test_every_family_is_there() -> None:
    assert len(tasks.TASKS) == sum(1 for _ in {task.name for task in tasks.TASKS.values()})
    counted = {suite: sum(task.suite == suite for task in tasks.TASKS.values()) for suite in tasks.SUITES}
    # ten local sets of MuJoCo and sixteen of Minari; twelve hands, three of them twice
    assert counted == {"mujoco": 10 + 16, "adroit": 15, "antmaze": 6, "kitchen": 3, "classic": 4, "recall": 5}
    for task in tasks.TASKS.values():
        assert task.target_return == task.targets[0]
        assert task.reference == tasks.reference(task.environment)
        assert task.reference[0] < task.reference[1]
        assert task.return_scale > 0
        assert all(source for _, source in task.published.values())


def test_every_environment_of_the_table_is_known_to_gymnasium() -> None:
    environments.make("AdroitHandPen-v1").close()  # registers the hands
    environments.make("KeyToDoor-v0").close()  # registers itself
    for task in tasks.TASKS.values():
        name, _ = environments.parse(task.environment)
        choices = isinstance(gymnasium.spec(name).entry_point, str) and task.discrete
        assert choices == (name in ("CartPole-v1", "MountainCar-v0", "Acrobot-v1", "KeyToDoor-v0"))


def test_references_are_one_table() -> None:
    assert tasks.reference("Hopper-v2") == tasks.reference('Hopper-v5 {"frame_skip": 4}') == (-20.272305, 3234.3)
    assert tasks.reference("AntMaze_Large-v5") == (0.0, 1.0)
    assert tasks.reference("Reacher-v5") is None
    assert {name: tasks.REFERENCES[name] for name in score.REFERENCES} == score.REFERENCES


def test_published_returns_are_rescaled_by_our_references() -> None:
    value, source = tasks.find("cartpole-mixed").published["SNN-DT"]
    low, high = tasks.reference("CartPole-v1")
    assert low + value / 100 * (high - low) == pytest.approx(492.3, abs=0.5)
    assert "unverified" in source


def test_a_name_nearly_right_brings_the_close_ones() -> None:
    assert tasks.find("hopper-medium").dataset == "hopper/medium-v0"
    with pytest.raises(DataError, match="no task hoper-medum; near it are hopper-medium"):
        tasks.find("hoper-medum")


def test_the_table_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tasks.json"
    assert tasks_command.main(["--suite", "classic", "--json", str(file)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[1:]] == [row["name"] for row in json.loads(file.read_text())]
    assert tasks_command.main(["--json", str(file / "tasks.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_reading_the_table_needs_no_gymnasium() -> None:
    program = "import sys, model.tasks; print({'gymnasium', 'torch', 'minari'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
