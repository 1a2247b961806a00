# SPDX-License-Identifier: MIT
"""Comparison of every decision with the golden network, which runs alongside."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from host.accelerator import Decision
from model.deployed.artifact import Policy
from model.deployed.golden import GoldenNetwork, Trace


class Difference(RuntimeError):
    """The circuit and the golden network part; the message says at which decision and where in the network."""


class GoldenCheck:
    """A golden network fed the same tokens as the circuit.

    `compared` counts the action components found equal so far.
    """

    def __init__(self, policy: Policy) -> None:
        self._network = GoldenNetwork(policy)
        self.begin()

    def begin(self) -> None:
        """Start an episode."""
        self._network.reset()
        self.compared = 0
        self.decisions = 0

    def compare(self, token: NDArray[np.int64], decision: Decision, signatures: list[int]) -> Trace:
        """Return what the golden network did with the token [inputs]. Raises `Difference` if the circuit did other."""
        trace = self._network.decide(token)
        if signatures != trace.signatures or not np.array_equal(decision.words, trace.action):
            raise Difference(
                f"decision {self.decisions} of the episode differs from the golden network, beginning in "
                f"{self._origin(signatures, trace)}: action words {decision.words.tolist()}, "
                f"golden {trace.action.tolist()}"
            )
        self.decisions += 1
        self.compared += len(trace.action)
        return trace

    @staticmethod
    def _origin(signatures: list[Any], trace: Trace) -> str:
        pairs = zip(signatures, trace.signatures, strict=True)
        index = next((i for i, (found, expected) in enumerate(pairs) if found != expected), None)
        if index is None:
            return "the head (every residual signature agrees)"
        if index == 0:
            return "the embedding"
        return f"the {'attention' if index % 2 else 'MLP'} of layer {(index - 1) // 2}"
