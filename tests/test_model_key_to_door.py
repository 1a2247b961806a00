# SPDX-License-Identifier: MIT
"""The corridor that asks at its end for what its beginning showed, and data made of it."""

from pathlib import Path

import numpy as np
import pytest

from model import collect
from model.data import agents, offline
from model.data.environments import DataError, make, name_of
from model.data.key_to_door import scripted
from model.data.tasks import find

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_the_key_is_in_view_at_the_start_and_asked_for_at_the_end() -> None:
    corridor = make('KeyToDoor-v0 {"length": 40, "doors": 3}')
    keys = []
    for seed in range(30):
        observation, _ = corridor.reset(seed=seed)
        seen, rewards, ended = [observation], [], False
        key = int(np.argmax(observation[:3]))
        while not ended:
            action = 1 + key if observation[3] else 0
            observation, reward, ended, cut, _ = corridor.step(action)
            seen.append(observation)
            rewards.append(reward)
            assert not cut
        shown = np.array(seen[:40])
        assert shown.shape == (40, 7)
        assert len(rewards) == 40
        assert rewards == [0.0] * 39 + [1.0]
        # an eighth of the corridor shows the key, the last token the doors, and walls tell nothing of it
        np.testing.assert_array_equal(shown[:, :3].sum(1), [1.0] * 5 + [0.0] * 35)
        assert (shown[:5, key] == 1).all()
        np.testing.assert_array_equal(shown[:, 3], [0.0] * 39 + [1.0])
        assert set(np.unique(shown[:, 4:])) == {-1.0, 1.0}
        keys.append(key)
    assert len(set(keys)) == 3
    corridor.close()


@pytest.mark.parametrize(("at", "opened", "reward"), [(5, 1, 0.0), (7, 0, 0.0), (7, 1, 0.0), (7, 2, 1.0)])
def test_every_door_and_every_step_at_the_doors_ends_the_episode(at: int, opened: int, reward: float) -> None:
    corridor = make('KeyToDoor-v0 {"length": 8, "doors": 2}')
    seed = next(seed for seed in range(20) if corridor.reset(seed=seed)[0][1] == 1)
    corridor.reset(seed=seed)
    for _ in range(at):
        assert corridor.step(0)[1:3] == (0.0, False)
    assert corridor.step(opened)[1:4] == (reward, True, False)
    corridor.close()


def test_episodes_of_one_seed_are_the_same_and_the_name_keeps_its_options() -> None:
    name = 'KeyToDoor-v0 {"length": 12}'
    corridor = make(name)
    assert name_of(corridor.spec) == name
    runs = [[corridor.reset(seed=s)[0], *(corridor.step(0)[0] for _ in range(11))] for s in (4, 4, 5)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    corridor.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ('{"length": 3}', "length must be 4 to 1000 tokens from the key to the doors, not 3"),
        ('{"length": 1001}', "length must be 4 to 1000 tokens"),
        ('{"length": 10.5}', "length must be 4 to 1000 tokens from the key to the doors, not 10.5"),
        ('{"doors": 1}', "doors must be 2 to 8, not 1"),
        ('{"walls": 2}', "unexpected keyword argument 'walls'"),
    ],
)
def test_no_corridor_is_one_sentence(options: str, says: str) -> None:
    with pytest.raises(DataError, match=f"KeyToDoor-v0 .* cannot be made: .*{says}"):
        make(f"KeyToDoor-v0 {options}")


def test_the_scripted_agent_remembers_the_last_key_it_saw() -> None:
    act = scripted(2)
    walk, door = np.array([0, 0, 0, 1.0]), np.array([0, 0, 1, 1.0])
    first, second = np.array([1, 0, 0, 1.0]), np.array([0, 1, 0, 1.0])
    assert [act(x, False) for x in (second, walk, door, first, walk, walk, door)] == [0, 0, 2, 0, 0, 0, 1]


def test_a_data_set_is_collected_and_read_with_its_reward_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    task = find("key-to-door-32")
    call = ["agent", "scripted:0.75", "random:0.25", "--env", task.environment, "--dataset", task.dataset]
    assert collect.main([*call, "--episodes", "16"]) == 0
    episodes = offline.load(task.dataset, delayed=True)
    assert (episodes.environment, episodes.discrete, len(episodes.lengths)) == (task.environment, True, 16)
    np.testing.assert_array_equal(episodes.lengths[:12], 32)
    np.testing.assert_array_equal(episodes.returns[:12], 1.0)
    assert episodes.lengths[12:].mean() < 8
    assert offline.load(task.dataset).digest == episodes.digest


def test_other_environments_have_no_scripted_agent() -> None:
    swing = make("Pendulum-v1")
    with pytest.raises(DataError, match="there is a scripted agent for KeyToDoor alone; name a file, or random"):
        agents.load("scripted", swing, 0)
    swing.close()
