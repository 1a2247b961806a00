# SPDX-License-Identifier: MIT
"""Three-factor plasticity of the head in PyTorch integers (docs/numbers.md, *Plasticity*)."""

import torch
from torch import Tensor

from model.deployed.sizes import Plasticity
from model.integer.quantize import limits


class QuantPlasticity:
    """Traces of a batch of heads and their updates; every tensor is int64.

    weight, eligibility : [batch, actions, channels].
    """

    def __init__(self, rule: Plasticity, weight: Tensor, weight_bits: int) -> None:
        self.rule, self.weight, self.weight_bits = rule, weight, weight_bits
        self.eligibility = torch.zeros_like(weight)

    def reset(self) -> None:
        """Clear the traces."""
        self.eligibility = torch.zeros_like(self.eligibility)

    def observe(self, membrane: Tensor, threshold: Tensor, index: Tensor) -> None:
        """Take a decision in: membrane [steps, batch, channels], threshold [channels], index [batch, actions].

        index is what looks the action up, before half the entries are added.
        """
        spikes = torch.where(membrane > threshold, 1, 0).sum(0)
        eligible = torch.einsum("ba,bc->bac", torch.clamp(index, -1, 1), spikes)
        kept = self.eligibility - torch.div(self.eligibility, 2**self.rule.trace_shift, rounding_mode="trunc")
        self.eligibility = torch.clamp(kept + eligible * 2**self.rule.trace_shift, *limits(self.rule.trace_bits))

    def learn(self, factor: Tensor) -> None:
        """Change the weights; factor [batch]."""
        product = self.eligibility * factor[:, None, None]
        change = torch.div(product, 2**self.rule.rate_shift, rounding_mode="trunc")
        change = change.clamp(-self.rule.most_change, self.rule.most_change)
        self.weight = torch.clamp(self.weight + change, *limits(self.weight_bits))
