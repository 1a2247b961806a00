# SPDX-License-Identifier: MIT
"""Changed worlds: each choice really changes the model or what is seen, and nothing else; refusals."""

import json
from typing import Any

import mujoco
import numpy as np
import pytest

from host import run_episode
from model.data import environments
from model.data.environments import DataError

HOPPER = "Hopper-v5"


def made(environment: str, **choices: Any) -> Any:
    return environments.make(f"{environment} {json.dumps({'changed': choices})}")


def flown(env: Any, steps: int = 40) -> tuple[np.ndarray, list[float]]:
    """Return observations and rewards of an episode with fixed actions."""
    rng = np.random.default_rng(0)
    seen, rewards = [env.reset(seed=3)[0]], []
    for _ in range(steps):
        observation, reward, *_ = env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
        seen.append(observation)
        rewards.append(float(reward))
    env.close()
    return np.array(seen), rewards


def numbers(env: Any) -> dict[str, np.ndarray]:
    """Return every array of numbers in an environment's model."""
    model = env.unwrapped.model
    fields = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
    return {name: np.array(each) for name, each in fields.items() if isinstance(each, np.ndarray)}


@pytest.mark.parametrize(
    ("choice", "fields"),
    [
        ("mass", {"body_mass", "body_inertia"}),
        ("friction", {"geom_friction"}),
        ("gear", {"actuator_gear"}),
    ],
)
def test_a_factor_multiplies_its_numbers_and_what_follows_from_them(choice: str, fields: set[str]) -> None:
    plain, other = environments.make(HOPPER), made(HOPPER, **{choice: 1.5})
    before, after = numbers(plain), numbers(other)
    for name in fields:
        np.testing.assert_allclose(after[name], 1.5 * before[name], rtol=1e-12)
        assert after[name].any()
    changed = {name for name in before if not np.array_equal(before[name], after[name], equal_nan=True)}
    # what MuJoCo derives of masses is derived again
    derived = {"body_subtreemass", "body_invweight0", "dof_M0", "dof_invweight0", "actuator_acc0"}
    rounded = {"cam_poscom0", "light_poscom0"}  # places relative to a centre of mass, computed anew
    assert changed - fields <= derived | rounded
    for name in rounded:
        np.testing.assert_allclose(after[name], before[name], atol=1e-12)
    assert ("body_subtreemass" in changed) == (choice == "mass")
    assert ("actuator_acc0" in changed) == (choice != "friction")
    (seen, rewards), (others, _) = flown(plain), flown(other)
    assert not np.array_equal(seen, others)
    again, same = flown(made(HOPPER, **{choice: 1.0}))
    np.testing.assert_array_equal(again, seen)
    assert same == rewards


def test_masses_are_those_of_a_model_that_was_written_so() -> None:
    other = made(HOPPER, mass=2.0)
    spec = mujoco.MjSpec.from_file(other.unwrapped.fullpath)
    for geom in spec.geoms:
        geom.density *= 2
    written = spec.compile()
    for name in ("body_mass", "body_inertia", "body_subtreemass", "dof_invweight0", "body_invweight0", "dof_M0"):
        np.testing.assert_allclose(getattr(other.unwrapped.model, name), getattr(written, name), rtol=1e-9)
    other.close()


def test_a_lost_sensor_is_zero_and_the_world_goes_on_as_before() -> None:
    seen, rewards = flown(environments.make(HOPPER))
    others, same = flown(made(HOPPER, lost=2))
    assert seen[:, 2].any()
    seen[:, 2] = 0
    np.testing.assert_array_equal(others, seen)
    assert same == rewards


def test_choices_go_together_and_with_an_environment_s_own() -> None:
    text = 'Hopper-v5 {"changed": {"gear": 0.5, "lost": 0}, "frame_skip": 2}'
    env = environments.make(text)
    assert (env.unwrapped.frame_skip, env.unwrapped.model.actuator_gear[0, 0], env.lost) == (2, 100.0, 0)
    assert json.loads(environments.name_of(env.spec).partition(" ")[2]) == environments.parse(text)[1]
    env.close()


def test_flattened_observations_can_lose_a_component() -> None:
    maze = environments.make('PointMaze_UMaze-v3 {"changed": {"lost": 5}}')
    plain = environments.make("PointMaze_UMaze-v3")
    seen, others = plain.reset(seed=1)[0], maze.reset(seed=1)[0]
    assert seen[5]
    assert not others[5]
    np.testing.assert_array_equal(np.delete(seen, 5), np.delete(others, 5))
    plain.close()
    maze.close()


@pytest.mark.parametrize(
    ("environment", "choices", "sentence"),
    [
        (HOPPER, {"masses": 2}, "changed has no masses; it has mass, friction, gear, lost"),
        (HOPPER, {"mass": 0}, "changed's mass must be a number above 0, which it is multiplied by, not 0"),
        (HOPPER, {"gear": -1.0}, "changed's gear must be a number above 0"),
        (HOPPER, {"friction": "low"}, "changed's friction must be a number above 0, .*, not 'low'"),
        (HOPPER, {"friction": True}, "changed's friction must be a number above 0"),
        (HOPPER, {"lost": 11}, "changed's lost must be a component of the observation, 0 to 10, not 11"),
        (HOPPER, {"lost": -1}, "changed's lost must be a component of the observation, 0 to 10, not -1"),
        (HOPPER, {"lost": 1.0}, "changed's lost must be a component"),
        (HOPPER, [2], "changed must be an object with some of mass, friction, gear, lost, not"),
        ("Pendulum-v1", {"mass": 2}, "changed's mass, friction, gear are of MuJoCo's models, and this environment has"),
    ],
)
def test_refusals_are_one_sentence(environment: str, choices: Any, sentence: str) -> None:
    text = json.dumps({"changed": choices})
    with pytest.raises(DataError, match=f"cannot be made: {sentence}") as caught:
        environments.make(f"{environment} {text}")
    assert "\n" not in str(caught.value)


def test_commands_take_it(capsys: pytest.CaptureFixture[str]) -> None:
    choices = ["--device", "golden", "--policy", "hopper-tiny"]
    assert run_episode.main([*choices, "--env", 'Hopper-v5 {"changed": {"mas": 2}}']) == 1
    assert "changed has no mas; it has mass" in capsys.readouterr().err
