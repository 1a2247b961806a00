# SPDX-License-Identifier: MIT
"""The blocks of three spiking vision transformers around one attention: where neurons sit, and what comes before it.

spikformer : linears, norm, neuron; the shortcut adds spikes (arXiv 2209.15425).
qkformer : the same, but all blocks except the last have Q-K token attention (arXiv 2403.16552).
sdt-v3 : neuron first, the shortcut adds membranes; query, key, value and projection are separable convolutions whose
branches fold into one kernel (arXiv 2411.16061). This is the block of `model.network`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.deployed.geometry import Geometry
from model.network.attention import Attention, Rows
from model.network.layers import THRESHOLD, Residual, Spiking
from model.network.network import Block
from model.network.neuron import lif
from model.network.norm import TdBN
from model.vision.attention import TokenGate, attention
from model.vision.taps import Grid

STYLES = ("spikformer", "qkformer", "sdt-v3")
NORM = "tdbn"


class SpikeBlock(nn.Module):
    """Attention and MLP whose neurons stand behind the norms, so that shortcuts add spikes: x are whole numbers."""

    def __init__(self, size: Geometry, looks: Attention) -> None:
        super().__init__()
        d, h = size.d_model, size.d_mlp
        self.names = ("key", "query") if isinstance(looks, TokenGate) else ("key", "value", "query")
        self.kvq = Spiking(d, len(self.names) * d, NORM)
        self.attention, self.proj = looks, Spiking(d, d, NORM)
        self.fc1, self.fc2 = Spiking(d, h, NORM), Spiking(h, d, NORM)

    def forward(self, x: Tensor, rows: Rows, note: Callable[..., None]) -> Tensor:
        """Advance x [steps, rows, d]."""
        spikes = dict(zip(self.names, self.kvq(x).chunk(len(self.names), dim=-1), strict=True))
        key = spikes["key"]
        current = self.attention(key, spikes.get("value", key), spikes["query"], rows)
        # what a gate lets through is spikes; a neuron behind would repeat them, and pass no gradient to zeros and ones
        fired = current if isinstance(self.attention, TokenGate) else lif(current, self.attention.threshold)
        x = x + self.proj(fired)
        hidden = self.fc1(x)
        note(membrane=x, **spikes, window=fired, fc1=hidden)
        return x + self.fc2(hidden)


class MembraneBlock(nn.Module):
    """`model.network`'s block with separable convolutions around its attention."""

    def __init__(self, size: Geometry, looks: Attention, grid: Grid) -> None:
        super().__init__()
        d, h = size.d_model, size.d_mlp
        self.block = Block(
            kvq=SeparableSpiking(d, 3 * d, grid),
            attention=looks,
            proj=SeparableResidual(d, d, grid),
            fc1=Spiking(d, h, NORM),
            fc2=Residual(h, d, NORM),
        )
        self.entry: Tensor
        self.register_buffer("entry", torch.full((d,), THRESHOLD))

    @property
    def attention(self) -> Attention:
        """What looks at other tokens."""
        return self.block.attention

    def forward(self, x: Tensor, rows: Rows, note: Callable[..., None]) -> Tensor:
        """Advance the membranes x [steps, rows, d]."""
        return self.block(x, self.entry, lambda looks, k, v, q: looks(k, v, q, rows), note, None)


class Separable(nn.Module):
    """A linear over channels, then per channel a 3 x 3 kernel and a plain branch, each with a batch norm, added up.

    In evaluation both branches are one kernel and an offset, `merged`: [steps, rows, in] -> [steps, rows, out].
    """

    def __init__(self, inputs: int, outputs: int, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.linear = nn.Linear(inputs, outputs, bias=False)
        nn.init.normal_(self.linear.weight, std=0.02)
        self.kernel = nn.Parameter(torch.randn(outputs, 1, 3, 3) / 3)
        self.norms = nn.ModuleList(TdBN(outputs) for _ in range(2))

    def current(self, x: Tensor) -> Tensor:
        """Return both branches' sum."""
        y = self.linear(x)
        if self.training:
            return self.norms[0](self._convolved(y, self.kernel)) + self.norms[1](y)
        kernel, offset = self.merged()
        return self._convolved(y, kernel) + offset

    def merged(self) -> tuple[Tensor, Tensor]:
        """Return the evaluation's kernel [out, 1, 3, 3] and offset [out]."""
        (gain, offset), (plain, more) = (norm.affine() for norm in self.norms)  # type: ignore[operator]
        middle = functional.pad(plain[:, None, None, None], (1, 1, 1, 1))
        return self.kernel * gain[:, None, None, None] + middle, offset + more

    def _convolved(self, y: Tensor, kernel: Tensor) -> Tensor:
        return self.grid.line(functional.conv2d(self.grid.image(y), kernel, padding=1, groups=len(kernel)), y)


class SeparableSpiking(Separable):
    """The convolution and the neurons behind it."""

    def __init__(self, inputs: int, outputs: int, grid: Grid) -> None:
        super().__init__(inputs, outputs, grid)
        self.threshold: Tensor
        self.register_buffer("threshold", torch.full((outputs,), THRESHOLD))

    def forward(self, x: Tensor) -> Tensor:
        """Fire."""
        return lif(self.current(x), self.threshold)


class SeparableResidual(Separable):
    """The convolution, added to the shortcut."""

    def forward(self, spikes: Tensor, x: Tensor) -> Tensor:
        """Add."""
        return x + self.current(spikes)


def blocks(style: str, name: str, size: Geometry, grid: Grid) -> list[SpikeBlock | MembraneBlock]:
    """Return the blocks of a style with the attention `name`."""
    result: list[SpikeBlock | MembraneBlock] = []
    for layer in range(size.layers):
        if style == "qkformer" and layer < size.layers - 1:
            looks: Attention = TokenGate(size, torch.full((size.d_model,), THRESHOLD))
        else:
            looks = attention(name, size, grid)
        result.append(MembraneBlock(size, looks, grid) if style == "sdt-v3" else SpikeBlock(size, looks))
    return result
