# SPDX-License-Identifier: MIT
"""Data sets that are made: of agents, mixes and noise, of arrays that fit or do not, whole or not at all."""

import errno
import json
import pickle
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest

from model import collect
from model.collect import Source
from model.data import agents, offline
from model.data.environments import make
from model.data.offline import DataError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    return tmp_path / "sets"


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CartPole agent after a moment of training."""
    file = tmp_path_factory.mktemp("agents") / "cartpole.zip"
    options = ["--env", "CartPole-v1", "--steps", "3000", "--seed", "1", "--out", str(file)]
    assert collect.main(["train-agent", *options]) == 0
    return file


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    """A tanh network for Pendulum that is one product, so that a test can redo it."""
    file = tmp_path / "linear.npz"
    np.savez(
        file,
        weight_0=np.array([[0.3, -0.2, 0.1]]),
        bias_0=np.array([0.05]),
        in_shift=np.array([0.1, 0.2, 0.3]),
        in_scale=np.array([1.0, 2.0, 4.0]),
        out_shift=np.array([0.5]),
        out_scale=np.array([3.0]),
    )
    return file


def test_a_mix_of_agents_is_recorded_with_what_it_depends_on(folder: Path, cartpole: Path) -> None:
    specs = [f"{cartpole}:2", f"{cartpole}@0.9:1", "random:1"]
    returns = collect.run_agents([Source.parse(s) for s in specs], "CartPole-v1", "own/mix-v0", None, 40, seed=7)
    good, noisy, random = np.mean(returns[:20]), np.mean(returns[20:30]), np.mean(returns[30:])
    assert len(returns) == 40
    assert good > 2 * max(noisy, random)
    loaded = offline.load("own/mix-v0")
    assert loaded.discrete
    assert (loaded.observations.shape[1], loaded.actions.shape[1]) == (4, 2)
    np.testing.assert_allclose(loaded.returns, returns)
    np.testing.assert_array_equal(np.sort(loaded.actions, axis=1), np.tile([0, 1], (len(loaded.actions), 1)))

    stored = minari.load_dataset("own/mix-v0")
    facts = json.loads(stored.storage.metadata["description"])
    assert facts["noise"] == [0.0, 0.9, 0.0]
    assert facts["share"] == [0.5, 0.25, 0.25]
    assert facts["seed"] == 7
    assert facts["agents"][0].endswith("/cartpole.zip")
    assert set(facts["versions"]) >= {"mujoco", "gymnasium", "gymnasium-robotics", "stable-baselines3"}
    # the environment replayed from the stored seed gives the stored observations
    episode = stored[31]
    env = make("CartPole-v1")
    first, _ = env.reset(seed=7 + 31)
    np.testing.assert_array_equal(episode.observations[0], first)
    for action, seen in zip(episode.actions, episode.observations[1:], strict=True):
        np.testing.assert_array_equal(env.step(action)[0], seen)
    env.close()

    again = collect.run_agents([Source.parse(s) for s in specs], "CartPole-v1", "own/again-v0", None, 40, seed=7)
    assert offline.load("own/again-v0").digest == loaded.digest
    assert again == returns
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_shares_are_of_steps(linear: Path) -> None:
    specs = [f"{linear}@0.1:3", "random"]
    arguments = ["agent", *specs, "--env", "Pendulum-v1", "--dataset", "own/steps-v0", "--steps", "1500"]
    assert collect.main(arguments) == 0
    assert len(offline.load("own/steps-v0").lengths) == 6 + 2  # 1125 and 375 steps, in whole episodes of 200


def test_a_network_of_arrays_acts_and_noise_is_in_units_of_the_bounds(linear: Path) -> None:
    for number, text in enumerate((f"{linear}", f"{linear}@0.1")):
        collect.run_agents([Source.parse(text)], "Pendulum-v1", f"own/noise-v{number}", None, 2, seed=0)
    still, noisy = offline.load("own/noise-v0"), offline.load("own/noise-v1")
    for episodes, level in ((still, 0.0), (noisy, 0.1)):
        hidden = (episodes.observations - [0.1, 0.2, 0.3]) / np.array([1.0, 2.0, 4.0])
        wanted = np.clip((hidden @ [0.3, -0.2, 0.1] + 0.05) * 3.0 + 0.5, -2, 2) / 2
        error = episodes.actions[:, 0] - wanted
        inside = np.abs(wanted) < 0.6
        assert inside.sum() > 100
        assert np.std(error[inside]) == pytest.approx(level, rel=0.2, abs=1e-6)
        assert np.abs(episodes.actions).max() <= 1
    with pytest.raises(DataError, match="deterministic: give it noise"):
        collect.run_agents([Source.parse(f"{linear}@sampled")], "Pendulum-v1", "own/sampled-v0", None, 1, seed=0)


def test_sampling_and_the_normalisation_beside_an_agent(cartpole: Path, tmp_path: Path) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    env = make("CartPole-v1")
    plain = agents.load(str(cartpole), env, 0)
    rng = np.random.default_rng(0)
    observations = rng.normal(0, 1, (200, 4)).astype(np.float32)
    moved = tmp_path / "cartpole.zip"
    moved.write_bytes(cartpole.read_bytes())
    saved = VecNormalize(DummyVecEnv([lambda: make("CartPole-v1")]))
    saved.obs_rms.mean, saved.obs_rms.var, saved.clip_obs = np.full(4, 0.5), np.full(4, 0.25), 1.0
    with (tmp_path / "vecnormalize.pkl").open("wb") as stream:
        pickle.dump(saved, stream)
    normalised = agents.load(str(moved), env, 0)
    by_hand = np.clip((observations - 0.5) / np.sqrt(0.25 + saved.epsilon), -1, 1)
    assert [normalised(o, False) for o in observations] == [plain(o, False) for o in by_hand]
    assert [normalised(o, False) for o in observations] != [plain(o, False) for o in observations]
    assert len({int(plain(observations[0] * 0, True)) for _ in range(60)}) == 2
    assert len({int(plain(observations[0] * 0, False)) for _ in range(60)}) == 1
    env.close()


def test_an_old_ant_s_agent_sees_zeros_where_its_forces_were(tmp_path: Path) -> None:
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    old = gymnasium.make("Ant-v5")
    assert old.observation_space.shape == (105,)
    old.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (111,))
    agent = PPO("MlpPolicy", DummyVecEnv([lambda: _Still(old.observation_space, old.action_space)]), seed=0)
    agent.save(tmp_path / "ant.zip")
    saved = VecNormalize(DummyVecEnv([lambda: _Still(old.observation_space, old.action_space)]))
    rng = np.random.default_rng(0)
    saved.obs_rms.mean, saved.obs_rms.var = rng.normal(size=111), rng.uniform(0.5, 2, 111)
    with (tmp_path / "vecnormalize.pkl").open("wb") as stream:
        pickle.dump(saved, stream)
    env = make('Ant-v5 {"include_cfrc_ext_in_observation": false}')
    act = agents.load(str(tmp_path / "ant.zip"), env, 0)
    for seen in rng.normal(size=(5, 27)):
        whole = np.concatenate([seen, np.zeros(84)])
        expected, _ = agent.predict(
            np.clip((whole - saved.obs_rms.mean) / np.sqrt(saved.obs_rms.var + saved.epsilon), -10, 10),
            deterministic=True,
        )
        np.testing.assert_array_equal(act(seen, False), expected)
    env.close()
    with pytest.raises(DataError, match=r"normalises observations of the shape \(111,\), the environment has \(105,\)"):
        agents.load(str(tmp_path / "ant.zip"), make("Ant-v5"), 0)


class _Still(gymnasium.Env):
    """An environment of given spaces in which nothing happens."""

    def __init__(self, observation_space: Any, action_space: Any) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(self.observation_space.shape, np.float32), {}


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("random", Source("random")),
        ("a/b.zip@0.2:0.5", Source("a/b.zip", 0.2, False, 0.5)),
        ("a@b/c.zip@sampled", Source("a@b/c.zip", 0.0, True, 1.0)),
        ("b.zip:3", Source("b.zip", 0.0, False, 3.0)),
    ],
)
def test_an_agent_its_noise_and_its_share(text: str, source: Source) -> None:
    assert Source.parse(text) == source


@pytest.mark.parametrize("text", ["", "a.zip@loud", "a.zip:many", "a.zip:0", "a.zip@-1", ":1", "a.zip@nan"])
def test_what_is_no_agent(text: str) -> None:
    with pytest.raises(DataError, match=r"is no AGENT\[@NOISE\]\[:SHARE\]"):
        Source.parse(text)


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert collect.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_an_agent_that_does_not_fit_is_one_sentence(
    capsys: pytest.CaptureFixture[str], folder: Path, cartpole: Path, linear: Path, tmp_path: Path
) -> None:
    def agent(spec: str, environment: str, *more: str) -> str:
        return fails(capsys, "agent", spec, "--env", environment, "--dataset", "own/none-v0", *more)

    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"no agent")
    np.savez(tmp_path / "other.npz", weight_0=np.zeros((1, 3)))
    assert "is no Stable-Baselines3 agent" in agent(str(broken), "CartPole-v1")
    assert "is no Stable-Baselines3 agent" in agent(str(cartpole), "Pendulum-v1")
    assert "maps 3 observations to 1 actions" in agent(str(linear), "Hopper-v5")
    assert "is no tanh network" in agent(str(tmp_path / "other.npz"), "Pendulum-v1")
    assert "there is no agent" in agent("nobody.zip", "Pendulum-v1")
    assert "NoSuchThing-v0 cannot be made" in agent("random", "NoSuchThing-v0")
    odd = ("agent", "random", "--env", "CartPole-v1", "--dataset", "odd")
    assert "'odd' is no Minari id" in fails(capsys, *odd)
    assert "do not go together" in agent("random", "CartPole-v1", "--steps", "9", "--episodes", "9")
    assert not folder.exists() or not list(folder.rglob("*.hdf5"))
    unfit = ["train-agent", "--env", "Pendulum-v1", "--algorithm", "DQN", "--out", str(tmp_path / "a.zip")]
    assert "DQN cannot be trained on Pendulum-v1" in fails(capsys, *unfit)
    assert not (tmp_path / "a.zip").exists()


def test_a_full_disk_leaves_nothing(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = minari.create_dataset_from_buffers

    def full(*arguments: object, **options: object) -> None:
        whole(*arguments, **options)  # type: ignore[arg-type]
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(minari, "create_dataset_from_buffers", full)
    arguments = ("agent", "random", "--env", "CartPole-v1", "--dataset", "own/full-v0", "--episodes", "2")
    assert "No space left" in fails(capsys, *arguments)
    assert list(folder.iterdir()) == []
    monkeypatch.undo()


def arrays(**changes: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    usual = {
        "observations": rng.normal(size=(9, 4)),
        "actions": rng.integers(0, 2, 9),
        "rewards": np.ones(9),
        "ep_len": np.array([5, 4]),
    }
    return usual | changes


def test_arrays_of_choices_without_ends_are_imported(tmp_path: Path) -> None:
    np.savez(tmp_path / "good.npz", **arrays())
    assert collect.import_npz(tmp_path / "good.npz", "own/good-v0", "CartPole-v1") == 2
    np.testing.assert_array_equal(np.argmax(offline.load("own/good-v0").actions, 1), arrays()["actions"])
    stored = minari.load_dataset("own/good-v0")
    assert [list(e.truncations) for e in stored] == [[False] * 4 + [True], [False] * 3 + [True]]
    assert not any(e.terminations.any() for e in stored)


@pytest.mark.parametrize(
    ("changes", "environment", "sentence"),
    [
        ({}, "Pendulum-v1", "discrete actions and a continuous environment do not go together"),
        ({"actions": np.full((9, 1), 0.3)}, "CartPole-v1", "continuous actions and a discrete environment do not"),
        ({"observations": np.zeros((9, 3))}, "CartPole-v1", "have (3,) components, those of CartPole-v1 (4,)"),
        ({"rewards": np.array([1.0] * 8 + [np.nan])}, "CartPole-v1", "the rewards of"),
        ({"ep_len": np.array([5, 5])}, "CartPole-v1", "sum to 10"),
        ({"rewards": np.ones(8)}, "CartPole-v1", "sum to 9"),
    ],
)
def test_arrays_that_do_not_fit_are_one_sentence(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, changes: dict, environment: str, sentence: str
) -> None:
    np.savez(tmp_path / "bad.npz", **arrays(**changes))
    arguments = ("import-npz", str(tmp_path / "bad.npz"), "--env", environment, "--dataset", "own/bad-v0")
    assert sentence in fails(capsys, *arguments)
    assert not folder.exists() or list(folder.iterdir()) == []


def test_a_file_that_is_no_archive(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no arrays")
    arguments = ("import-npz", str(tmp_path / "text.npz"), "--env", "CartPole-v1", "--dataset", "own/bad-v0")
    assert "is no .npz file" in fails(capsys, *arguments)


def test_the_list_says_what_there_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    np.savez(tmp_path / "good.npz", **arrays())
    collect.import_npz(tmp_path / "good.npz", "own/good-v0", "CartPole-v1")
    assert collect.main(["list", "--json", str(tmp_path / "list.json")]) == 0
    (row,) = json.loads((tmp_path / "list.json").read_text())
    assert (row["dataset"], row["steps"], row["episodes"], row["mean_return"]) == ("own/good-v0", 9, 2, 4.5)
    assert (
        f"| own/good-v0 | CartPole-v1 | 9 | 2 | 4.5 ± 0.5 | -4.0 | `{row['digest'][:16]}` |" in capsys.readouterr().out
    )
