# SPDX-License-Identifier: MIT
"""Recorded episodes through a circuit at full speed: for long comparisons and for power, without an environment."""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from host.accelerator import Driver
from host.board.power import Rail
from model.data.environments import require_kind
from model.data.offline import DataError, Episodes, load
from model.deployed.artifact import Policy, quantise_token
from model.deployed.golden import GoldenNetwork
from model.deployed.golden import reads as row_reads

SIDE_BY_SIDE = 64
"""Episodes the golden network computes at once."""

CHUNK = 256
"""Decisions between looks at the power and at Ctrl-C."""


@dataclass
class Replay:
    """What a replay found; complete up to the last chunk if it was interrupted."""

    dataset: str
    episodes: int = 0
    decisions: int = 0
    words: int = 0  # action words compared
    word_differences: int = 0
    row_differences: int = 0  # decisions that fetched other numbers of weight rows in some layer
    first: str = ""  # where the first difference is
    seconds: float = 0.0  # driver and device; no golden network in it
    cycles: list[int] = field(default_factory=list)
    power: list[list[Rail]] = field(default_factory=list)  # readings after each chunk

    @property
    def differences(self) -> int:
        """Action words and row counts that differ."""
        return self.word_differences + self.row_differences

    @property
    def decisions_per_s(self) -> float:
        """Decisions per second of driver and device."""
        return self.decisions / self.seconds if self.seconds else 0.0

    def rails(self) -> dict[str, float]:
        """Return the mean milliwatts of each rail."""
        rails: dict[str, list[float]] = {}
        for reading in itertools.chain.from_iterable(self.power):
            rails.setdefault(reading["rail"], []).append(reading["mw"])
        return {rail: sum(values) / len(values) for rail, values in rails.items()}

    def summary(self) -> dict[str, Any]:
        """Return what --json holds."""
        known = [cycles for cycles in self.cycles if cycles]
        return {
            "dataset": self.dataset,
            "episodes": self.episodes,
            "decisions": self.decisions,
            "action_words": self.words,
            "word_differences": self.word_differences,
            "row_differences": self.row_differences,
            "first_difference": self.first or None,
            "seconds": self.seconds,
            "decisions_per_s": self.decisions_per_s,
            "cycles_median": float(np.median(known)) if known else None,
            "power_mw": self.rails(),
        }


def read_episodes(dataset: str, policy: Policy, most: int | None) -> Episodes:
    """Read a data set's episodes, at most `most` of them.

    Raises `DataError`, also where its sizes or its kind of actions are not the policy's.
    """
    episodes = load(dataset, policy.delayed)
    for what, size, trained in (
        ("observation", episodes.observations.shape[1], policy.observation_size),
        ("action", episodes.actions.shape[1], policy.action_size),
    ):
        if size != trained:
            raise DataError(
                f"{dataset} has {what}s of {size} components, the policy was trained with {trained}; "
                "name a data set of the policy's environment"
            )
    require_kind(dataset, episodes.discrete, policy.discrete)
    if most is None or most >= len(episodes.lengths):
        return episodes
    steps = int(episodes.lengths[:most].sum())
    return Episodes(
        dataset,
        episodes.environment,
        episodes.observations[:steps],
        episodes.actions[:steps],
        episodes.rewards[:steps],
        episodes.lengths[:most],
        episodes.discrete,
    )


def forced_tokens(policy: Policy, episodes: Episodes, target_return: float) -> list[NDArray[np.int64]]:
    """Return the tokens [steps, inputs] of each episode, from what was recorded: observations, actions and rewards.

    The return-to-go is what an agent that was asked for `target_return` would have had left.
    """
    tokens = []
    for start, length in zip(episodes.starts.tolist(), episodes.lengths.tolist(), strict=True):
        part = slice(start, start + length)
        components = np.zeros((length, policy.input_size))
        seen = episodes.observations[part].astype(np.float64)
        components[:, : policy.observation_size] = (seen - policy.input_mean) / policy.input_std
        components[1:, policy.observation_size : -1] = np.clip(episodes.actions[part][:-1], -1, 1)
        components[:, -1] = target_return
        if not policy.delayed:
            components[1:, -1] -= np.cumsum(episodes.rewards[part].astype(np.float64))[:-1]
        components[:, -1] /= policy.return_scale
        tokens.append(quantise_token(policy, components))
    return tokens


def golden(policy: Policy, tokens: list[NDArray[np.int64]]) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Return action words [steps, actions] and active rows [steps, layers] of each episode, computed side by side."""
    g, network = policy.geometry, GoldenNetwork(policy)
    order = sorted(range(len(tokens)), key=lambda index: -len(tokens[index]))
    words = [np.zeros((len(t), policy.action_size), np.int16) for t in tokens]
    rows = [np.zeros((len(t), g.layers), np.int64) for t in tokens]
    alive = order
    for step in range(len(tokens[order[0]])):
        going = [index for index in alive if len(tokens[index]) > step]
        if len(going) < len(alive):
            network.keep(range(len(going)))
            alive = going
        trace = network.decide(np.stack([tokens[index][step] for index in alive]))
        for place, index in enumerate(alive):
            words[index][step] = trace.action[place]
        for name, counts in trace.active_rows.items():
            layer = int(name.removeprefix("layer").split(".")[0])
            for place, index in enumerate(alive):
                rows[index][step, layer] += row_reads(g, name) * counts[place]
    return words, rows


def replay(
    driver: Driver,
    policy: Policy,
    episodes: Episodes,
    target_return: float,
    power: Callable[[], list[Rail]],
    result: Replay,
) -> Iterator[int]:
    """Stream every episode through a circuit that has the policy loaded, compare, and add up in `result`.

    Yields the decisions done since the last time. `result` stays valid if the caller stops.
    """
    tokens = forced_tokens(policy, episodes, target_return)
    for first in range(0, len(tokens), SIDE_BY_SIDE):
        group = tokens[first : first + SIDE_BY_SIDE]
        for offset, (part, words, rows) in enumerate(zip(group, *golden(policy, group), strict=True)):
            driver.new_episode()
            for begin in range(0, len(part), CHUNK):
                chunk = slice(begin, begin + CHUNK)
                start = time.perf_counter()
                records = driver.decide_all(part[chunk])
                result.seconds += time.perf_counter() - start
                _compare(result, records, words[chunk], rows[chunk], f"episode {first + offset}, decision", begin)
                if reading := power():
                    result.power.append(reading)
                yield len(records)
            result.episodes += 1


def _compare(result: Replay, records: list[Any], words: NDArray[Any], rows: NDArray[Any], where: str, at: int) -> None:
    found = np.array([record.decision.words for record in records])
    found_rows = np.array([record.counters.layer_rows for record in records])
    different, other_rows = found != words, (found_rows != rows).any(axis=1)
    bad = different.any(axis=1) | other_rows
    if bad.any() and not result.first:
        result.first = f"{where} {at + int(np.argmax(bad))}"
    result.decisions += len(records)
    result.words += found.size
    result.word_differences += int(np.count_nonzero(different))
    result.row_differences += int(np.count_nonzero(other_rows))
    result.cycles += [record.decision.cycles for record in records]
