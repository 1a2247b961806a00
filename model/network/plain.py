# SPDX-License-Identifier: MIT
"""The network with PSSA as one writes it first, a plain loop over SNN steps: what `model.bench` compares with.

Separate query, key and value products, every SNN step of a neuron by itself, batch norm as a module, the window as a
dense matrix of tokens times tokens.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.network.network import Network
from model.network.norm import PTBN


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, membrane: Tensor) -> Tensor:
        ctx.save_for_backward(membrane)
        return (membrane > 0.5).to(membrane.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (membrane,) = ctx.saved_tensors
        return gradients[0] * ((membrane - 0.5).abs() < 0.5).to(membrane.dtype)


def _fire(current: Tensor) -> Tensor:
    membrane, spikes = torch.zeros_like(current[0]), []
    for step in current:
        membrane = step + 0.25 * membrane
        spike = _Spike.apply(membrane)
        membrane = membrane * (1.0 - spike.detach())
        spikes.append(spike)
    return torch.stack(spikes)


class PlainNorm(nn.Module):
    """PTBN of modules; starts with the parameters of `norm` for the channels of `part`."""

    def __init__(self, norm: PTBN, part: slice) -> None:
        super().__init__()
        self.theta = 0.0
        channels = len(norm.weight[part])
        self.batch, self.layer = nn.BatchNorm1d(channels), nn.LayerNorm(channels, elementwise_affine=False)
        self.batch.weight.data.copy_(norm.weight[part])
        self.batch.bias.data.copy_(norm.bias[part])

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [steps, batch, tokens, channels]."""
        batch = self.batch(x.flatten(0, -2)).view_as(x)
        if self.theta == 0.0:
            return batch
        layer = self.layer(x) * self.batch.weight + self.batch.bias
        return self.theta * layer + (1.0 - self.theta) * batch


class _PlainLinear(nn.Module):
    """A product for every step, then the norm."""

    def __init__(self, layer: nn.Module, part: slice = slice(None)) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.linear.weight[part].detach().clone())
        self.norm = PlainNorm(layer.norm, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(torch.stack([functional.linear(step, self.weight) for step in x]))


class _PlainBlock(nn.Module):
    def __init__(self, block: nn.Module, d: int) -> None:
        super().__init__()
        self.key, self.value, self.query = (_PlainLinear(block.kvq, slice(i * d, (i + 1) * d)) for i in range(3))
        self.proj, self.fc1, self.fc2 = (_PlainLinear(part) for part in (block.proj, block.fc1, block.fc2))
        self.taps = nn.Parameter(block.attention.taps.weight[0].detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        s = _fire(x)
        key, value, query = (_fire(part(s)) for part in (self.key, self.value, self.query))
        tokens, window = x.shape[2], len(self.taps)
        distance = torch.arange(tokens, device=x.device)[:, None] - torch.arange(tokens, device=x.device)
        live = ((distance >= 0) & (distance < window)).to(x.dtype)
        position = self.taps[distance.clamp(0, window - 1)] * live
        o = _fire(torch.stack([q * (position @ (k * v)) for k, v, q in zip(key, value, query, strict=True)]))
        x = x + self.proj(o)
        return x + self.fc2(_fire(self.fc1(_fire(x))))


class PlainNetwork(nn.Module):
    """The same network as `network` with the same weights, as a loop over SNN steps that autograd follows."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.steps = network.geometry.steps
        self.embed = _PlainLinear(network.embed)
        self.blocks = nn.ModuleList(_PlainBlock(block, network.geometry.d_model) for block in network.blocks)
        self.norm = PlainNorm(network.head.norm, slice(None))
        self.head = nn.Linear(*reversed(network.head.linear.weight.shape))
        self.head.load_state_dict(network.head.linear.state_dict())

    def forward(self, tokens: Tensor) -> Tensor:
        """Predict: tokens [batch, length, inputs] -> actions [batch, length, actions]."""
        x = self.embed(tokens[None]).expand(self.steps, -1, -1, -1)
        for block in self.blocks:
            x = block(x)
        return torch.tanh(self.head(self.norm(x).mean(0)))

    def matrices(self) -> list[nn.Parameter]:
        """Return the linear layers' matrices in the order of the compared network's."""
        return [part.weight for part in self.modules() if isinstance(part, _PlainLinear)]
