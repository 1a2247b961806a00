# SPDX-License-Identifier: MIT
"""A network that does not read its previous action."""

import torch
from torch import nn

from model.network.baselines import Baseline
from model.network.network import Network


@torch.no_grad()
def unread(network: Network | Baseline, observations: int, actions: int) -> None:
    """Set the weights that read the previous action to zero, of a float network.

    Where training hides every previous action these weights get no gradient and stay zero, so that the policy decides
    alike whether it is shown its action or not: nothing has to be hidden from it in flight, and an artifact is as any
    other. As they were drawn they would be noise.
    """
    first, start, stop = 0, observations, observations + actions
    for part in network.embed.modules() if hasattr(network, "embed") else ():  # behaviour cloning reads no action
        if isinstance(part, nn.Linear):
            part.weight[:, max(0, start - first) : max(0, stop - first)] = 0.0
            first += part.in_features
