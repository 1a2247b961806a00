# SPDX-License-Identifier: MIT
"""Offline data: Minari episodes as arrays, token normalisation, and windows to train on."""

import dataclasses
import hashlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from model.data import tasks
from model.data.environments import Actions, DataError, flatten, name_of

Floats = NDArray[np.float32]


def normalised_score(environment: str, value: float) -> float | None:
    """Return the score, 0 random and 100 expert, or None where the table of tasks has no reference for it."""
    known = tasks.reference(environment)
    return None if known is None else 100.0 * (value - known[0]) / (known[1] - known[0])


@dataclass(frozen=True)
class Episodes:
    """Episodes end to end.

    observations [n, observation], actions [n, action], rewards [n]; lengths [episodes] sum to n. Continuous actions
    have their bounds at -1 and 1; a `discrete` action's components are its choices, 1 for the one taken, else 0.
    """

    dataset: str
    environment: str
    observations: Floats
    actions: Floats
    rewards: Floats
    lengths: NDArray[np.int64]
    discrete: bool = False

    @property
    def starts(self) -> NDArray[np.int64]:
        """Index of every episode's first step."""
        return np.cumsum(self.lengths) - self.lengths

    @property
    def returns(self) -> Floats:
        """Undiscounted return of every episode."""
        return np.add.reduceat(self.rewards, self.starts)

    @property
    def digest(self) -> str:
        """SHA-256 over the arrays, hexadecimal: two data sets of one name need not be the same."""
        state = hashlib.sha256()
        for array in (self.observations, self.actions, self.rewards, self.lengths):
            state.update(f"{array.dtype.str}{array.shape}".encode())
            state.update(np.ascontiguousarray(array).tobytes())
        return state.hexdigest()


def load(dataset: str, delayed: bool = False) -> Episodes:
    """Read a Minari data set, from the local folder or else downloaded; "a+b" reads several as one.

    delayed : all rewards of an episode come with its last step. Raises `DataError`.
    """
    parts = [_read(name) for name in dataset.split("+")]
    first = parts[0]
    for part in parts[1:]:
        if (part.environment, part.discrete) != (first.environment, first.discrete):
            raise DataError(
                f"{first.dataset} is of {first.environment} and {part.dataset} of {part.environment}; "
                "only data sets of one environment can be joined"
            )
    episodes = Episodes(
        dataset=dataset,
        environment=first.environment,
        observations=np.concatenate([part.observations for part in parts]),
        actions=np.concatenate([part.actions for part in parts]),
        rewards=np.concatenate([part.rewards for part in parts]),
        lengths=np.concatenate([part.lengths for part in parts]),
        discrete=first.discrete,
    )
    if not delayed:
        return episodes
    late = np.zeros_like(episodes.rewards)
    late[episodes.starts + episodes.lengths - 1] = episodes.returns
    return dataclasses.replace(episodes, rewards=late)


def _read(dataset: str) -> Episodes:
    import minari

    try:
        loaded = minari.load_dataset(dataset) if _is_local(dataset) else _download(dataset)
        spec = loaded._eval_env_spec or loaded.env_spec  # Minari shows the first only by making the environment
        if spec is None:
            raise DataError(f"the data set {dataset} names no environment; collect or import it with one")
        codec = Actions.of(loaded.action_space, dataset)
        observations, actions, rewards = [], [], []
        for number, episode in enumerate(loaded.iterate_episodes()):
            owner = f"episode {number} of {dataset}"
            actions.append(codec.encode(_finite(episode.actions, "actions", owner), dataset))
            # the observation after the last action asks for no action
            seen = flatten(loaded.observation_space, episode.observations)[: len(actions[-1])]
            observations.append(_finite(seen, "observations", owner).astype(np.float32))
            rewards.append(_finite(episode.rewards, "rewards", owner).astype(np.float32))
    except DataError:
        raise
    except (OSError, LookupError, TypeError, ValueError, RuntimeError) as error:  # of HDF5, JSON and Minari
        raise DataError(f"the data set {dataset} in {local_root()} is damaged ({error}); make it again") from None
    if not rewards:
        raise DataError(f"the data set {dataset} holds no episodes; make it again")
    return Episodes(
        dataset=dataset,
        environment=name_of(spec),
        observations=np.concatenate(observations),
        actions=np.concatenate(actions),
        rewards=np.concatenate(rewards),
        lengths=np.array([len(r) for r in rewards]),
        discrete=codec.discrete,
    )


def _finite(values: Any, what: str, owner: str) -> NDArray[Any]:
    array = np.asarray(values)
    bad = ~np.isfinite(array)
    if bad.any():
        step = int(np.argwhere(bad)[0][0])
        raise DataError(f"the {what} of {owner} hold a NaN or an infinity in step {step}; collect or import it again")
    return array


def local_root() -> Path:
    """Return the folder of local Minari data sets."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def _is_local(dataset: str) -> bool:
    return (local_root() / dataset / "data").is_dir()


def _download(dataset: str) -> Any:
    import minari

    missing = f"there is no data set {dataset} in {local_root()} (MINARI_DATASETS_PATH)"
    if not _online():
        raise DataError(f"{missing} and this machine is offline; make or download it first (docs/data.md)")
    try:
        return minari.load_dataset(dataset, download=True)
    except Exception as error:  # whatever the chosen remote raises: the user needs its words, not its trace
        raise DataError(f"{missing} and it cannot be downloaded: {' '.join(str(error).split())}") from None


def _online() -> bool:
    """Whether the host of Minari's remote answers; Minari itself tries for half a minute before it says so."""
    from minari.storage.remotes import DEFAULT_REMOTE

    # behind a proxy only Minari can tell; so it can where the remote is another than the one known here
    proxied = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    if proxied or not os.environ.get("MINARI_REMOTE", DEFAULT_REMOTE).startswith("hf://"):
        return True
    try:
        from huggingface_hub.constants import ENDPOINT
    except ImportError:
        return True
    try:
        socket.create_connection((urlsplit(ENDPOINT).hostname, urlsplit(ENDPOINT).port or 443), timeout=3).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class Windows:
    """Tokens of every step of some episodes, to draw training windows from.

    tokens [n, observation + action + 1]: normalised observation, the true previous action (zero at an episode's first
    step), return-to-go over `return_scale`; actions [n, action]; starts, lengths [episodes].
    """

    tokens: Floats
    actions: Floats
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def sample(
        self, batch: int, length: int, rng: np.random.Generator
    ) -> tuple[Floats, Floats, NDArray[np.bool_], NDArray[np.int64]]:
        """Draw windows: episodes in proportion to length, then any offset that shows at least one step.

        Returns tokens [batch, length, inputs], actions [batch, length, action], real [batch, length] and start [batch],
        the step of its episode that a window shows first. A window that reaches beyond its episode holds the steps
        there are at its right end and zeros before them.
        """
        episode = rng.choice(len(self.lengths), batch, p=self.lengths / self.lengths.sum())
        # offsets from before the first step on: else an episode's first steps would be seen less than the rest
        offset = rng.integers(1 - length, self.lengths[episode])
        first = np.maximum(offset, 0)
        last = np.minimum(offset + length, self.lengths[episode])
        column = np.arange(length) - length + last[:, None]  # step shown in each column, right-aligned
        real = column >= first[:, None]
        index = self.starts[episode][:, None] + np.maximum(column, 0)
        return self.tokens[index] * real[..., None], self.actions[index] * real[..., None], real, first


@dataclass(frozen=True)
class Normaliser:
    """What turns an environment's numbers into tokens: mean, std [observation]; returns are divided by return_scale."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    return_scale: float

    @classmethod
    def of(cls, episodes: Episodes, return_scale: float) -> "Normaliser":
        """Measure mean and standard deviation over all steps."""
        observations = episodes.observations.astype(np.float64)
        return cls(observations.mean(0), observations.std(0) + 1e-6, return_scale)

    def token(
        self, observation: NDArray[np.float64], previous: NDArray[np.float64], to_go: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Join observation [..., o], previous action [..., a] and return-to-go [...] into tokens [..., o + a + 1]."""
        scaled = np.asarray(to_go / self.return_scale)[..., None]
        return np.concatenate([(observation - self.mean) / self.std, previous, scaled], axis=-1)


def split(episodes: Episodes, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the episodes to train on and those held out, drawn by `seed`; at least one of each where two exist."""
    order = np.random.default_rng(seed).permutation(len(episodes.lengths))
    held = min(max(1, round(share * len(order))), len(order) - 1) if share > 0 else 0
    return np.sort(order[held:]), np.sort(order[:held])


def windows(episodes: Episodes, chosen: NDArray[np.int64], normaliser: Normaliser) -> Windows:
    """Make the tokens of all steps, and windows over the chosen episodes."""
    first = np.zeros(len(episodes.rewards), bool)
    first[episodes.starts] = True
    previous = np.where(first[:, None], 0.0, np.roll(episodes.actions, 1, axis=0))
    total = np.cumsum(episodes.rewards.astype(np.float64))
    end = np.repeat(total[episodes.starts + episodes.lengths - 1], episodes.lengths)
    to_go = end - total + episodes.rewards
    tokens = normaliser.token(episodes.observations.astype(np.float64), previous, to_go).astype(np.float32)
    return Windows(tokens, episodes.actions, episodes.starts[chosen], episodes.lengths[chosen])
