# SPDX-License-Identifier: MIT
"""The head's three-factor rule beside the gradient, in real numbers (docs/modules.md, *Plasticity*)."""

import torch
from torch import Tensor

DECAY = 15 / 16
"""Lambda, per token; that of the integer rule's default."""
MOST = 0.25
"""Largest product of trace and third factor that counts; the same share of the largest there can be as in the integer
rule's default."""


class LocalRule:
    """What the windows of an update make of the head's weights, `rate * mean over windows of clip(E G)`.

    Source: SNN-DT (arXiv 2508.21505). Traces E and third factors G are -1 to 1, so an update changes a weight by at
    most a quarter of the rate.

    change : of the last `observe`, [actions, channels], as a share of the rate.
    """

    change: Tensor

    def __init__(self, rate: float) -> None:
        self.rate = rate

    @torch.no_grad()
    def observe(self, membrane: Tensor, threshold: Tensor, outputs: Tensor, to_go: Tensor, real: Tensor) -> None:
        """Take windows in: their outputs [batch, length, actions] and returns-to-go [batch, length].

        real [batch, length] : false on padding, which has no row. membrane [steps, rows, channels] : what the head
        read; threshold [channels].
        """
        rate = (membrane > threshold).to(outputs.dtype).mean(0)
        pre = torch.zeros(*real.shape, rate.shape[-1], dtype=rate.dtype, device=rate.device)
        pre[real] = rate
        age = torch.arange(real.shape[1] - 1, -1, -1, device=rate.device)  # the newest token is the last
        kept = (1 - DECAY) * DECAY ** age.to(rate.dtype)
        trace = torch.einsum("n,bna,bnc->bac", kept, torch.sign(outputs), pre)
        self.change = torch.clamp(trace * third_factor(to_go)[:, None, None], -MOST, MOST).mean(0)

    @torch.no_grad()
    def apply(self, weight: Tensor) -> None:
        """Change the head's weights [actions, channels]."""
        weight += self.rate * self.change


def third_factor(to_go: Tensor) -> Tensor:
    """Return how well each window ends beside the others [batch], -1..1: its last return-to-go, of [batch, length].

    Less the mean of the batch, over the largest distance from it; zeros where all are alike.
    """
    apart = to_go[:, -1] - to_go[:, -1].mean()
    most = apart.abs().max()
    return apart / most if most > 0 else torch.zeros_like(apart)
