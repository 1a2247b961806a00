# SPDX-License-Identifier: MIT
"""Learning in flight: a third factor from the rewards, given to the circuit's head between decisions."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from host.check import GoldenCheck
from host.episode import Episode
from host.plastic_head import PlasticHead
from model.deployed.artifact import Policy
from model.deployed.learned import LearnedHead
from model.deployed.yardstick import Yardstick


class Change(NamedTuple):
    """One change of the head's weights."""

    episode: int
    steps: int  # of the episode before it
    worth: float  # reward since the last one, or the episode's return
    factor: int
    changed: int  # weights that are others than before
    size: int  # sum of the differences' magnitudes


class Learning:
    """Gives a head its third factors and keeps what became of them.

    head : not frozen from here on. every : decisions after which the reward since the last time is worth a factor; 0
    for none but the return at an episode's end. check : told of every factor; its weights and traces must be the
    circuit's, after each.
    """

    def __init__(self, head: PlasticHead, every: int, check: GoldenCheck | None) -> None:
        self._head, self._every, self._check = head, every, check
        limit = (1 << (head.rule.factor_bits - 1)) - 1
        self._rewards, self._returns = Yardstick(1, limit), Yardstick(1, limit)
        self._since = 0.0
        head.frozen = False
        self.weights = self._first = head.weights()
        self.changes: list[Change] = []

    def step(self, index: int, episode: Episode) -> None:
        """Take the last step of the run's `index`-th episode in.

        Raises `Difference` where the circuit's head is not the golden network's.
        """
        self._since += episode.steps[-1].reward
        over = episode.terminated or episode.truncated
        if self._every and not len(episode.steps) % self._every and not over:
            self._learn(index, episode, self._since, self._rewards)
        if over:
            self._learn(index, episode, episode.total, self._returns)
            self._since = 0.0

    def _learn(self, index: int, episode: Episode, worth: float, yardstick: Yardstick) -> None:
        self._since = 0.0
        factor = int(yardstick.factor(np.array([worth]), [0])[0])
        self._head.learn(factor)
        before, self.weights = self.weights, self._head.weights()
        if self._check:
            self._check.learn(factor, self.weights, self._head.traces())
        apart = np.abs(self.weights - before)
        self.changes.append(
            Change(index, len(episode.steps), worth, factor, int(np.count_nonzero(apart)), int(apart.sum()))
        )

    def summary(self) -> dict[str, Any]:
        """Return what episode.json says of it."""
        return {"every": self._every, "changes": [change._asdict() for change in self.changes]}

    def line(self, index: int) -> str:
        """Return what the run's `index`-th episode changed, for people."""
        changes = [change for change in self.changes if change.episode == index]
        moved = int(np.abs(self.weights - self._first).sum())
        return (
            f"episode {index}: {len(changes)} third factors, {sum(change.size for change in changes)} units of weight "
            f"changed; the head is {moved} from where it began"
        )

    def learned(self, policy: Policy, environment: str, episodes: list[Episode]) -> LearnedHead:
        """Return the head as it is now, an artifact."""
        facts = {
            "environment": environment,
            "rule": dataclasses.asdict(self._head.rule),
            "every": self._every,
            "seeds": [episode.seed for episode in episodes],
            "steps": sum(len(episode.steps) for episode in episodes),
        }
        return LearnedHead.of(policy, self.weights, facts)
