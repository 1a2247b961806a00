# SPDX-License-Identifier: MIT
"""Offline data: Minari episodes as arrays, token normalisation, and windows to train on."""

import hashlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

REFERENCE_RETURNS = {
    "Hopper": (-20.272305, 3234.3),
    "HalfCheetah": (-280.178953, 12135.0),
    "Walker2d": (1.629008, 4592.3),
    "Ant": (-325.6, 3879.7),
}
"""D4RL's (random, expert) returns that a normalised score refers to."""


class DataError(ValueError):
    """Data that cannot be used; the message says why and what to do."""


def normalised_score(environment: str, value: float) -> float | None:
    """Return D4RL's score, 0 random and 100 expert, or None where the environment has no reference."""
    reference = REFERENCE_RETURNS.get(environment.rsplit("-v", 1)[0])
    return None if reference is None else 100.0 * (value - reference[0]) / (reference[1] - reference[0])


@dataclass(frozen=True)
class Episodes:
    """Episodes end to end.

    observations [n, observation], actions [n, action] (bounds at -1 and 1), rewards [n]; lengths [episodes] sum to n.
    """

    dataset: str
    environment: str
    observations: Floats
    actions: Floats
    rewards: Floats
    lengths: NDArray[np.int64]

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


def load(dataset: str) -> Episodes:
    """Read a Minari data set, from the local folder or else downloaded. Raises `DataError`."""
    import minari

    loaded = minari.load_dataset(dataset) if _is_local(dataset) else _download(dataset)
    if loaded.env_spec is None:
        raise DataError(f"the data set {dataset} names no environment; collect or import it with one")
    low, high = getattr(loaded.action_space, "low", None), getattr(loaded.action_space, "high", None)
    if low is None or not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise DataError(
            f"the actions of {dataset} have no bounds; wrap its environment in ClipAction before collecting"
        )
    middle, half = (high + low) / 2, (high - low) / 2
    observations, actions, rewards = [], [], []
    for episode in loaded.iterate_episodes():
        if not isinstance(episode.observations, np.ndarray):
            raise DataError(f"the observations of {dataset} are no plain vectors; flatten them before collecting")
        actions.append(((np.asarray(episode.actions) - middle) / half).astype(np.float32))
        # the observation after the last action asks for no action
        observations.append(np.asarray(episode.observations[: len(actions[-1])], np.float32))
        rewards.append(np.asarray(episode.rewards, np.float32))
    return Episodes(
        dataset=dataset,
        environment=loaded.env_spec.id,
        observations=np.concatenate(observations),
        actions=np.concatenate(actions),
        rewards=np.concatenate(rewards),
        lengths=np.array([len(r) for r in rewards]),
    )


def local_root() -> Path:
    """Return the folder of local Minari data sets."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def _is_local(dataset: str) -> bool:
    return (local_root() / dataset / "data").is_dir()


def _download(dataset: str):  # type: ignore[no-untyped-def]
    import minari

    missing = f"there is no data set {dataset} in {local_root()} (MINARI_DATASETS_PATH)"
    try:
        # Minari itself tries for half a minute before it says so; behind a proxy only it can tell
        if not (os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")):
            socket.create_connection(("huggingface.co", 443), timeout=3).close()
    except OSError:
        raise DataError(f"{missing} and this machine is offline; import or download it first") from None
    try:
        return minari.load_dataset(dataset, download=True)
    except Exception as error:  # whatever the chosen remote raises: the user needs its words, not its trace
        raise DataError(f"{missing} and it cannot be downloaded: {error}") from None


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

    def sample(self, batch: int, length: int, rng: np.random.Generator) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Draw windows: episodes in proportion to length, then any offset that shows at least one step.

        Returns tokens [batch, length, inputs], actions [batch, length, action] and real [batch, length]. A window that
        reaches beyond its episode holds the steps there are at its right end and zeros before them.
        """
        episode = rng.choice(len(self.lengths), batch, p=self.lengths / self.lengths.sum())
        # offsets from before the first step on: else an episode's first steps would be seen less than the rest
        offset = rng.integers(1 - length, self.lengths[episode])
        first = np.maximum(offset, 0)
        last = np.minimum(offset + length, self.lengths[episode])
        column = np.arange(length) - length + last[:, None]  # step shown in each column, right-aligned
        real = column >= first[:, None]
        index = self.starts[episode][:, None] + np.maximum(column, 0)
        return self.tokens[index] * real[..., None], self.actions[index] * real[..., None], real


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
