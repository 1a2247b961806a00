# SPDX-License-Identifier: MIT
"""Comparison of every decision with the golden network, which follows a few decisions behind."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from host.accelerator import Decision
from model.deployed.artifact import Policy
from model.deployed.golden import GoldenNetwork
from model.deployed.golden_plasticity import PlasticNetwork

BEHIND = 128
"""Decisions compared at a time: together they cost a seventh of one by one."""


class Difference(RuntimeError):
    """The circuit and the golden network part; the message says at which decision and where in the network."""


class GoldenCheck:
    """A golden network fed the same tokens as the circuit, `BEHIND` decisions at a time.

    `compared` counts the action components found equal so far. learning : whether the circuit's head learns.
    """

    def __init__(self, policy: Policy, learning: bool = False) -> None:
        self._network = PlasticNetwork(policy) if learning else GoldenNetwork(policy)
        # on a busy machine threads that wait for each other take longer than one
        self._threads = ThreadpoolController()
        self.begin()

    def begin(self) -> None:
        """Start an episode."""
        self._network.reset()
        self._waiting: list[tuple[NDArray[np.int64], Decision, list[int]]] = []
        self.compared = 0
        self.decisions = 0

    def add(self, token: NDArray[np.int64], decision: Decision, signatures: list[int]) -> None:
        """Take what the circuit did with the token [inputs]. Raises `Difference` if it, or one before, is wrong."""
        self._waiting.append((token, decision, signatures))
        if len(self._waiting) == BEHIND:
            self.finish()

    def finish(self) -> None:
        """Compare what has not been yet. Raises `Difference` at the first that is wrong; those behind go."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        with self._threads.limit(limits=1, user_api="blas"):
            trace = self._network.decide_all(np.stack([token for token, _, _ in waiting]))
        for index, (_, decision, signatures) in enumerate(waiting):
            action, expected = trace.action[index], [point[index] for point in trace.signatures]
            if signatures != expected or not np.array_equal(decision.words, action):
                raise Difference(
                    f"decision {self.decisions} of the episode differs from the golden network, beginning in "
                    f"{self._origin(signatures, expected)}: action words {decision.words.tolist()}, "
                    f"golden {action.tolist()}"
                )
            self.decisions += 1
            self.compared += len(action)

    def learn(self, factor: int, weights: NDArray[np.int64], traces: NDArray[np.int64]) -> None:
        """Follow a change of the head, whose weights and traces [actions, d_model] are the circuit's after it.

        Raises `Difference` if they, or a decision before, are wrong.
        """
        self.finish()
        network = self._network
        assert isinstance(network, PlasticNetwork)
        network.learn(factor)
        for name, found, golden in (("traces", traces, network.eligibility), ("weights", weights, network.weight)):
            if wrong := np.argwhere(found != golden).tolist():
                action, channel = wrong[0]
                raise Difference(
                    f"{name} of the head differ from the golden network's after decision {self.decisions - 1} and the "
                    f"third factor {factor}, first in action {action}, channel {channel}: "
                    f"{found[action, channel]}, golden {golden[action, channel]}"
                )

    @staticmethod
    def _origin(signatures: list[Any], expected: list[Any]) -> str:
        pairs = zip(signatures, expected, strict=True)
        index = next((i for i, (found, golden) in enumerate(pairs) if found != golden), None)
        if index is None:
            return "the head (every residual signature agrees)"
        if index == 0:
            return "the embedding"
        return f"the {'attention' if index % 2 else 'MLP'} of layer {(index - 1) // 2}"
