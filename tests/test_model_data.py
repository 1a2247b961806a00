# SPDX-License-Identifier: MIT
"""Data: through Minari and back, tokens, windows, and what is said when something is missing."""

import time
from pathlib import Path

import numpy as np
import pytest

from model import collect, data
from model.data import DataError, Episodes, Normaliser

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
    loaded = data.load("test/random-v0")
    for name in ("observations", "actions", "rewards", "lengths"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(source, name), err_msg=name)
    assert loaded.environment == "Pendulum-v1"
    assert loaded.digest == source.digest
    assert loaded.digest != episodes(seed=1).digest
    with pytest.raises(DataError, match="already a data set"):
        collect.import_npz(file, "test/random-v0", "Pendulum-v1")


def test_a_missing_data_set_is_one_quick_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.setattr("socket.create_connection", offline)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"there is no data set nobody/nothing-v0 .* offline; make or download it"):
        data.load("nobody/nothing-v0")
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
    tokens = data.windows(source, np.arange(3), normaliser).tokens
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
    windows = data.windows(source, np.arange(3), Normaliser.of(source, 1.0))
    tokens, actions, real = windows.sample(500, 8, np.random.default_rng(0))
    order = {token.tobytes(): n for n, token in enumerate(windows.tokens)}
    owner = np.repeat(np.arange(3), source.lengths)
    assert real[:, -1].all()
    assert (np.diff(real.astype(int), axis=1) >= 0).all()
    assert 0.1 < 1 - real.mean() < 0.5
    assert (tokens[~real] == 0).all()
    seen = set()
    for window, action, mask in zip(tokens, actions, real, strict=True):
        index = [order[token.tobytes()] for token in window[mask]]
        assert index == list(range(index[0], index[0] + len(index)))
        assert len({owner[n] for n in index}) == 1
        np.testing.assert_array_equal(action[mask], source.actions[index])
        seen.update(index)
    assert len(seen) == 43
    counts = [sum(owner[order[w[-1].tobytes()]] == e for w in tokens) for e in range(3)]
    assert counts[0] > counts[2] > counts[1]


def test_only_chosen_episodes_are_drawn_and_none_is_in_both_parts() -> None:
    source = episodes((5,) * 40)
    train, held = data.split(source, 0.1, seed=3)
    assert len(held) == 4
    assert sorted([*train, *held]) == list(range(40))
    assert not np.array_equal(held, data.split(source, 0.1, seed=4)[1])
    windows = data.windows(source, held, Normaliser.of(source, 1.0))
    _, actions, real = windows.sample(200, 8, np.random.default_rng(0))
    allowed = {source.actions[n].tobytes() for e in held for n in range(5 * e, 5 * e + 5)}
    assert {action.tobytes() for action in actions[real]} == allowed


def test_scores_follow_the_references() -> None:
    assert data.normalised_score("Hopper-v5", 3234.3) == pytest.approx(100)
    assert data.normalised_score("Hopper-v5", -20.272305) == pytest.approx(0)
    assert data.normalised_score("Reacher-v5", 1.0) is None
