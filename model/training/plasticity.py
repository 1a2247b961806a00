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
        """Take windows in: membrane [steps, rows, channels] in front of the head, threshold [channels], outputs
        [batch, length, actions], to_go [batch, length], real [batch, length] false on padding, whose tokens have no row.
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
    """Return how much better than the others each window ends [batch], -1..1, by the return-to-go [batch, length] there.

    Less the mean of the batch, over the largest distance from it; zeros where all are alike.
    """
    apart = to_go[:, -1] - to_go[:, -1].mean()
    most = apart.abs().max()
    return apart / most if most > 0 else torch.zeros_like(apart)
