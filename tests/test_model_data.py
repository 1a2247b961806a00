# SPDX-License-Identifier: MIT
"""Data: through Minari and back, tokens, windows, and what is said when something is missing."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from minari.data_collector import EpisodeBuffer

from model import collect
from model.data import offline
from model.data.offline import DataError, Episodes, Normaliser

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")


def episodes(lengths: tuple[int, ...] = (30, 1, 12), seed: int = 0) -> Episodes:
    rng = np.random.default_rng(seed)
    steps = sum(lengths)
    return Episodes(
        dataset="test/random-v0",
        environment="Pendulum-v1",
        observations=rng.normal(2.0, 3.0, (steps, 3)).astype(np.float32),
        actions=rng.uniform(-1, 1, (steps, 1)).astype(np.float32),
        rewards=rng.normal(size=steps).astype(np.float32),
        lengths=np.array(lengths),
    )


def archive(path: Path, source: Episodes) -> Path:
    ends = np.zeros(len(source.rewards), bool)
    ends[source.starts + source.lengths - 1] = True
    np.savez(
        path,
        observations=source.observations,
        actions=source.actions * 2,  # Pendulum's bounds are -2 and 2
        rewards=source.rewards,
        terminals=np.zeros_like(ends),
        timeouts=ends,
        ep_len=source.lengths,
    )
    return path


def test_import_and_load_give_back_the_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    source = episodes()
    file = archive(tmp_path / "some.npz", source)
    assert collect.main(["import-npz", str(file), "--dataset", "test/random-v0", "--env", "Pendulum-v1"]) == 0
    loaded = offline.load("test/random-v0")
    for name in ("observations", "actions", "rewards", "lengths"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(source, name), err_msg=name)
    assert loaded.environment == "Pendulum-v1"
    assert loaded.digest == source.digest
    assert loaded.digest != episodes(seed=1).digest
    with pytest.raises(DataError, match="already a data set"):
        collect.import_npz(file, "test/random-v0", "Pendulum-v1")


def test_a_missing_data_set_is_one_quick_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.setattr("socket.create_connection", no_network)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"there is no data set nobody/nothing-v0 .* offline; make or download it"):
        offline.load("nobody/nothing-v0")
    assert time.monotonic() - start < 5


def test_import_refuses_what_is_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--dataset", "test/random-v0", "--env", "Pendulum-v1"]
    assert collect.main(["import-npz", str(tmp_path / "none.npz"), *arguments]) == 2
    assert "there is no file" in capsys.readouterr().err
    np.savez(tmp_path / "half.npz", observations=np.zeros((3, 3)))
    assert collect.main(["import-npz", str(tmp_path / "half.npz"), *arguments]) == 2
    assert "lacks the array actions, rewards" in capsys.readouterr().err


def test_unknown_environment_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    file = archive(tmp_path / "some.npz", episodes())
    with pytest.raises(DataError, match="NoSuchThing-v0 cannot be made"):
        collect.import_npz(file, "test/random-v0", "NoSuchThing-v0")


def test_tokens_hold_the_true_previous_action_and_the_return_to_go() -> None:
    source = episodes()
    normaliser = Normaliser.of(source, return_scale=10.0)
    tokens = offline.windows(source, np.arange(3), normaliser).tokens
    assert tokens.shape == (43, 3 + 1 + 1)
    np.testing.assert_allclose(tokens[:, :3].mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(tokens[:, :3].std(0), 1, atol=1e-4)
    first = 0
    for length in source.lengths:
        assert tokens[first, 3] == 0
        np.testing.assert_array_equal(
            tokens[first + 1 : first + length, 3], source.actions[first : first + length - 1, 0]
        )
        to_go = np.cumsum(source.rewards[first : first + length][::-1])[::-1]
        np.testing.assert_allclose(tokens[first : first + length, 4] * 10, to_go, atol=1e-3)
        first += length


def test_windows_are_right_aligned_runs_of_one_episode() -> None:
    source = episodes()
    windows = offline.windows(source, np.arange(3), Normaliser.of(source, 1.0))
    tokens, actions, real, start = windows.sample(500, 8, np.random.default_rng(0))
    order = {token.tobytes(): n for n, token in enumerate(windows.tokens)}
    owner = np.repeat(np.arange(3), source.lengths)
    assert real[:, -1].all()
    assert (np.diff(real.astype(int), axis=1) >= 0).all()
    assert 0.1 < 1 - real.mean() < 0.5
    assert (tokens[~real] == 0).all()
    seen = set()
    for window, action, mask, first in zip(tokens, actions, real, start, strict=True):
        index = [order[token.tobytes()] for token in window[mask]]
        assert index == list(range(index[0], index[0] + len(index)))
        assert first == index[0] - source.starts[owner[index[0]]]
        assert len({owner[n] for n in index}) == 1
        np.testing.assert_array_equal(action[mask], source.actions[index])
        seen.update(index)
    assert len(seen) == 43
    counts = [sum(owner[order[w[-1].tobytes()]] == e for w in tokens) for e in range(3)]
    assert counts[0] > counts[2] > counts[1]


def test_only_chosen_episodes_are_drawn_and_none_is_in_both_parts() -> None:
    source = episodes((5,) * 40)
    train, held = offline.split(source, 0.1, seed=3)
    assert len(held) == 4
    assert sorted([*train, *held]) == list(range(40))
    assert not np.array_equal(held, offline.split(source, 0.1, seed=4)[1])
    windows = offline.windows(source, held, Normaliser.of(source, 1.0))
    _, actions, real, _ = windows.sample(200, 8, np.random.default_rng(0))
    allowed = {source.actions[n].tobytes() for e in held for n in range(5 * e, 5 * e + 5)}
    assert {action.tobytes() for action in actions[real]} == allowed


def test_scores_follow_the_references() -> None:
    assert offline.normalised_score("Hopper-v5", 3234.3) == pytest.approx(100)
    assert offline.normalised_score("Hopper-v5", -20.272305) == pytest.approx(0)
    assert offline.normalised_score("Reacher-v5", 1.0) is None


# Data sets as Minari keeps them, of other kinds


class Goal(gymnasium.Env):
    """Walks along a line to a goal; a choice of three steps."""

    observation_space = Dict({"observation": Box(-9, 9, (2,), np.float64), "goal": Box(-9, 9, (1,), np.float64)})
    action_space = Discrete(3, start=-1)

    def look(self) -> dict[str, Any]:
        return {"observation": np.array([self.place, 1.0]), "goal": np.array([5.0])}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        self.place = 0.0
        return self.look(), {}

    def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.place += action
        return self.look(), float(action), abs(self.place) >= 5, False, {}


@pytest.fixture
def goal() -> Iterator[str]:
    gymnasium.register("Goal-v0", f"{__name__}:Goal", max_episode_steps=20)
    yield "Goal-v0"
    del gymnasium.registry["Goal-v0"]


def store(dataset: str, environment: str, lengths: tuple[int, ...], spoil: str = "", **options: Any) -> None:
    """Make a data set of random steps, the array `spoil` of its last episode with a NaN."""
    rng = np.random.default_rng(0)
    spaces = gymnasium.make(environment)
    parts = spaces.observation_space.spaces if isinstance(spaces.observation_space, Dict) else None
    buffers = []
    for number, length in enumerate(lengths):
        shapes = {None: spaces.observation_space} if parts is None else parts
        seen = {key: rng.uniform(-1, 1, (length + 1, *space.shape)) for key, space in shapes.items()}
        discrete = isinstance(spaces.action_space, Discrete)
        actions = rng.integers(-1, 2, length) if discrete else rng.uniform(-1, 1, (length, 1)).astype(np.float32)
        rewards = rng.normal(size=length)
        if number == len(lengths) - 1 and spoil:
            {"observations": seen[next(iter(shapes))], "actions": actions, "rewards": rewards}[spoil][2] = np.nan
        buffers.append(
            EpisodeBuffer(
                id=number,
                observations=seen if parts else seen[None],  # type: ignore[arg-type]
                actions=actions,  # type: ignore[arg-type]
                rewards=list(rewards),
                terminations=[False] * length,
                truncations=[False] * (length - 1) + [True],
            )
        )
    minari.create_dataset_from_buffers(
        dataset, buffers, **({"env": environment} | options), ref_min_score=0, ref_max_score=1
    )


def test_dictionaries_are_flattened_and_choices_one_hot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goal: str
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    store("own/goal-v0", goal, (4, 3))
    loaded = offline.load("own/goal-v0")
    assert loaded.discrete
    assert (loaded.environment, loaded.observations.shape, loaded.actions.shape) == (goal, (7, 3), (7, 3))
    stored = minari.load_dataset("own/goal-v0")
    flat = gymnasium.wrappers.FlattenObservation(gymnasium.make(goal))
    first = 0
    for episode in stored:
        for step, action in enumerate(episode.actions):
            whole = {key: rows[step] for key, rows in episode.observations.items()}
            np.testing.assert_allclose(loaded.observations[first], flat.observation(whole), rtol=1e-6)
            np.testing.assert_array_equal(loaded.actions[first], np.eye(3)[action + 1])
            first += 1


def test_delayed_rewards_all_come_with_the_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    store("own/swing-v0", "Pendulum-v1", (6, 4))
    dense, delayed = offline.load("own/swing-v0"), offline.load("own/swing-v0", delayed=True)
    np.testing.assert_allclose(delayed.rewards[[5, 9]], dense.returns, rtol=1e-6)
    assert np.count_nonzero(delayed.rewards) == 2
    np.testing.assert_array_equal(delayed.observations, dense.observations)
    # what the network is asked for is then the whole return in every step
    tokens = offline.windows(delayed, np.arange(2), Normaliser.of(delayed, 1.0)).tokens
    np.testing.assert_allclose(tokens[:, -1], np.repeat(dense.returns, dense.lengths), rtol=1e-5)


def test_several_data_sets_are_read_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goal: str) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    store("own/some-v0", "Pendulum-v1", (6, 4))
    store("own/more-v0", "Pendulum-v1", (3,))
    store("own/goal-v0", goal, (3,))
    some, more, mix = (offline.load(name) for name in ("own/some-v0", "own/more-v0", "own/some-v0+own/more-v0"))
    assert mix.dataset == "own/some-v0+own/more-v0"
    for name in ("observations", "actions", "rewards", "lengths"):
        joined = np.concatenate([getattr(some, name), getattr(more, name)])
        np.testing.assert_array_equal(getattr(mix, name), joined, err_msg=name)
    assert dataclasses.replace(mix, lengths=some.lengths).digest != mix.digest
    with pytest.raises(DataError, match="only data sets of one environment can be joined"):
        offline.load("own/some-v0+own/goal-v0")


@pytest.mark.parametrize("array", ["observations", "actions", "rewards"])
def test_a_nan_is_named_with_its_place(array: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    store("own/nan-v0", "Pendulum-v1", (6, 4), spoil=array)
    with pytest.raises(DataError, match=f"the {array} of episode 1 of own/nan-v0 hold a NaN or an infinity in step 2"):
        offline.load("own/nan-v0")


def test_data_without_an_environment_and_damaged_data_are_sentences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    pendulum = gymnasium.make("Pendulum-v1")
    spaces = {"observation_space": pendulum.observation_space, "action_space": pendulum.action_space}
    store("own/nowhere-v0", "Pendulum-v1", (4,), env=None, **spaces)
    with pytest.raises(DataError, match="names no environment"):
        offline.load("own/nowhere-v0")
    store("own/cut-v0", "Pendulum-v1", (4,))
    file = tmp_path / "own" / "cut-v0" / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"own/cut-v0 in .* is damaged"):
        offline.load("own/cut-v0")
