# SPDX-License-Identifier: MIT
"""Three-factor plasticity of the head in numpy integers (docs/numbers.md, *Plasticity*).

The PyTorch form, `model.integer.quant_plasticity`, is a separate reading of the same rule.
"""

import numpy as np

from model.deployed.artifact import Policy
from model.deployed.golden import GoldenNetwork, Trace
from model.deployed.golden_attention import Integers, saturate
from model.deployed.sizes import Plasticity


def towards_zero(value: Integers, places: int) -> Integers:
    """Divide by `2**places` and drop the fraction, so that both signs decay and learn alike."""
    shifted: Integers = np.sign(value) * (np.abs(value) >> places)
    return shifted


def decayed(eligibility: Integers, pre: Integers, post: Integers, rule: Plasticity) -> Integers:
    """Return the traces [actions, channels] after a decision.

    pre [channels] : spikes of each channel. post [actions] : sign of each action.
    """
    drive = np.outer(post, pre) << rule.trace_shift
    after: Integers
    after, _ = saturate(eligibility - towards_zero(eligibility, rule.trace_shift) + drive, rule.trace_bits)
    return after


def changed(weight: Integers, eligibility: Integers, factor: int, rule: Plasticity, weight_bits: int) -> Integers:
    """Return the weights [actions, channels] after a third factor."""
    change = np.clip(towards_zero(eligibility * factor, rule.rate_shift), -rule.most_change, rule.most_change)
    after: Integers
    after, _ = saturate(weight + change, weight_bits)
    return after


class PlasticNetwork(GoldenNetwork):
    """A streaming network whose head learns: one episode, one token at a time.

    Source: SNN-DT (arXiv 2508.21505), three-factor rule of the action head.

    eligibility : [actions, channels]. frozen : whether traces and weights stand still.

    Raises `GeometryError` where the geometry has no plasticity.
    """

    def __init__(self, policy: Policy) -> None:
        self.rule = policy.geometry.require_plasticity()
        self.frozen = False
        super().__init__(policy)

    @property
    def weight(self) -> Integers:
        """The head's weights as they are now, [actions, channels]."""
        return self._tensors["head.weight"]

    def reset(self) -> None:
        """Forget the episode and its traces; learned weights stay."""
        super().reset()
        self.eligibility = np.zeros_like(self._tensors["head.weight"])

    def decide(self, token: Integers) -> Trace:
        """Advance by one quantised token [inputs]; the weights that decided are those from before it."""
        if token.ndim != 1:
            raise ValueError("a head that learns takes one episode at a time: give decide one token")
        trace = super().decide(token)
        if not self.frozen:
            self._observe(trace.membranes[-1])
        return trace

    def decide_all(self, tokens: Integers) -> Trace:
        """Advance by consecutive tokens of one episode [tokens, inputs], between which no weight changes."""
        trace = super().decide_all(tokens)
        if not self.frozen:
            for token in range(len(tokens)):
                self._observe(trace.membranes[-1][:, token])
        return trace

    def _observe(self, membrane: Integers) -> None:
        p, rule = self._tensors, self.rule
        pre = (membrane > p["entry.threshold"]).sum(axis=0)
        total = membrane.sum(axis=0) @ p["head.weight"].T + p["head.bias"]
        self.eligibility = decayed(self.eligibility, pre, np.sign(total >> p["head.shift"]), rule)

    def learn(self, factor: int) -> None:
        """Change the weights by the traces and a third factor, signed `Plasticity.factor_bits`.

        Raises `ValueError` for a factor out of range.
        """
        limit = 1 << (self.rule.factor_bits - 1)
        if not -limit <= factor < limit:
            raise ValueError(f"the third factor must be {-limit} to {limit - 1}, not {factor}")
        if not self.frozen:
            bits = self.geometry.dense_weight_bits
            self._tensors["head.weight"] = changed(self.weight, self.eligibility, factor, self.rule, bits)
