# SPDX-License-Identifier: MIT
"""Three-factor plasticity of the head in numpy integers (docs/numbers.md, *Plasticity*).

The PyTorch form, `model.integer.quant_plasticity`, is a separate reading of the same rule.
"""

import numpy as np

from model.deployed.artifact import Policy
from model.deployed.geometry import GeometryError
from model.deployed.golden import GoldenNetwork, Trace
from model.deployed.golden_attention import Integers, saturate


def towards_zero(value: Integers, places: int) -> Integers:
    """Divide by `2**places` and drop the fraction, so that both signs decay and learn alike."""
    shifted: Integers = np.sign(value) * (np.abs(value) >> places)
    return shifted


class PlasticNetwork(GoldenNetwork):
    """A streaming network whose head learns: one episode, one token at a time.

    Source: SNN-DT (arXiv 2508.21505), three-factor rule of the action head.

    eligibility : [actions, channels]. frozen : whether traces and weights stand still.

    Raises `GeometryError` where the geometry has no plasticity.
    """

    def __init__(self, policy: Policy) -> None:
        if policy.geometry.plasticity is None:
            raise GeometryError("this policy's head does not learn: export it with a geometry that has plasticity")
        self.rule = policy.geometry.plasticity
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
        """Refuse: traces need the tokens in turn."""
        raise ValueError("a head that learns takes one token at a time: call decide for each")

    def _observe(self, membrane: Integers) -> None:
        p, rule = self._tensors, self.rule
        pre = (membrane > p["entry.threshold"]).sum(axis=0)
        total = membrane.sum(axis=0) @ p["head.weight"].T + p["head.bias"]
        post = np.sign(total >> p["head.shift"])
        drive = np.outer(post, pre) << rule.trace_shift
        e = self.eligibility
        self.eligibility, _ = saturate(e - towards_zero(e, rule.trace_shift) + drive, rule.trace_bits)

    def learn(self, factor: int) -> None:
        """Change the weights by the traces and a third factor, signed `Plasticity.factor_bits`.

        Raises `ValueError` for a factor out of range.
        """
        limit = 1 << (self.rule.factor_bits - 1)
        if not -limit <= factor < limit:
            raise ValueError(f"the third factor must be {-limit} to {limit - 1}, not {factor}")
        if self.frozen:
            return
        most = self.rule.most_change
        change = np.clip(towards_zero(self.eligibility * factor, self.rule.rate_shift), -most, most)
        self._tensors["head.weight"], _ = saturate(self.weight + change, self.geometry.dense_weight_bits)
