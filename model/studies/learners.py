# SPDX-License-Identifier: MIT
"""Deployed policies side by side that differ in their heads alone, each of which may learn by the three-factor rule."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.deployed.artifact import ACTION_SCALE, Policy, quantise_token
from model.deployed.golden import GoldenNetwork
from model.deployed.sizes import Plasticity
from model.deployed.yardstick import Yardstick
from model.integer.quant_plasticity import QuantPlasticity

Floats = NDArray[np.float64]


class Learners:
    """A `rollout.Brain`: one episode of every learner at once, the same golden network in front of all heads.

    Equal to as many `golden_plasticity.PlasticNetwork` and several times faster.

    policy : of a geometry with plasticity. weight : the heads' weights [learners, actions, channels].
    frozen : whether there are no traces, so that nothing changes the weights. every : decisions after which a learner
    is given the worth of the reward since the last time; 0: only `learn` gives a factor.
    """

    def __init__(self, policy: Policy, weight: Tensor, frozen: bool = False, every: int = 0) -> None:
        rule = policy.geometry.plasticity or Plasticity()  # a frozen head asks for none
        self.policy, self.frozen, self.every = policy, frozen, every
        self._golden = GoldenNetwork(policy)
        self._head = QuantPlasticity(rule, weight.clone(), policy.geometry.dense_weight_bits)
        self._entry = torch.from_numpy(policy.tensors["entry.threshold"].astype(np.int64))
        self.limit = (1 << (rule.factor_bits - 1)) - 1
        self._yardstick = Yardstick(len(weight), self.limit)

    @property
    def weight(self) -> Tensor:
        """The heads' weights as they are now [learners, actions, channels]."""
        return self._head.weight

    @property
    def eligibility(self) -> Tensor:
        """Traces [learners, actions, channels]; those of an episode that is over stand as at its end."""
        return self._head.eligibility

    def begin(self, batch: int) -> None:
        """Start an episode of every learner: no traces. `batch` is their number."""
        assert batch == len(self.weight), "one episode for each learner"
        self._golden.reset()
        self._head.reset()
        self._rows, self._decided = list(range(batch)), 0

    def decide(self, tokens: Floats, live: Sequence[int]) -> Floats:
        """Return actions [learners, actions] for normalised tokens [learners, inputs]; those not in `live` are over."""
        if len(live) < len(self._rows):
            self._golden.keep([self._rows.index(row) for row in live])
            self._rows = list(live)
        if self.every and not self._decided % self.every:
            self._reward(tokens[:, -1] * self.policy.return_scale)
        self._decided += 1
        p, rows = self.policy.tensors, self._rows
        membrane = self._golden.decide(quantise_token(self.policy, tokens[rows])).membranes[-1]
        summed = membrane.sum(axis=0)[:, None]
        total = (summed * self.weight.numpy()[rows]).sum(axis=-1) + p["head.bias"]
        index = total >> p["head.shift"]
        entries = len(p["head.table"])
        actions = np.zeros((len(tokens), self.policy.action_size))
        actions[rows] = p["head.table"][np.clip(index + entries // 2, 0, entries - 1)] / ACTION_SCALE
        if not self.frozen:
            self._observe(torch.from_numpy(membrane), torch.from_numpy(index))
        return actions

    def _observe(self, membrane: Tensor, index: Tensor) -> None:
        before, rows = self._head.eligibility, torch.tensor(self._rows)
        self._head.eligibility = before[rows]
        self._head.observe(membrane, self._entry, index)
        self._head.eligibility = before.index_copy(0, rows, self._head.eligibility)

    def _reward(self, to_go: Floats) -> None:
        """Learn from the reward since the last time, which is what the return-to-go has lost."""
        if self._decided:
            self.learn(torch.from_numpy(self._yardstick.factor(self._to_go - to_go, self._rows)))
        self._to_go = to_go

    def learn(self, factor: Tensor) -> None:
        """Change every head by its traces and its third factor [learners]; 0 changes nothing."""
        self._head.learn(factor)
