# SPDX-License-Identifier: MIT
"""A spiking vision transformer: patches, blocks, and a linear of the mean over tokens and SNN steps."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.network.attention import Rows
from model.network.layers import THRESHOLD
from model.network.network import Record
from model.network.neuron import lif
from model.vision.attention import ATTENTIONS, geometry
from model.vision.blocks import STYLES, blocks
from model.vision.patches import Patches
from model.vision.taps import Grid


class VisionError(ValueError):
    """A choice or file that cannot be used; the message says what to change."""


@dataclass(frozen=True)
class Shape:
    """What images look like: channels, pixels, pixels of a patch's side, and how many classes there are."""

    channels: int
    height: int
    width: int
    patch: int
    classes: int

    @property
    def grid(self) -> Grid:
        """Of the tokens."""
        return Grid(self.height // self.patch, self.width // self.patch)


class Classifier(nn.Module):
    """style : one of `blocks.STYLES`; name : one of `attention.ATTENTIONS`. Raises `VisionError` for others."""

    def __init__(self, style: str, name: str, shape: Shape, d_model: int, layers: int, steps: int) -> None:
        super().__init__()
        for what, given, known in (("style", style, STYLES), ("attention", name, ATTENTIONS)):
            if given not in known:
                raise VisionError(f"{what} must be one of {', '.join(known)}, not {given!r}")
        self.grid, self.membranes = shape.grid, style == "sdt-v3"
        self.geometry = geometry(name, d_model, layers, steps, self.grid)
        self.patches = Patches(shape.channels, d_model, self.grid, shape.patch, steps, self.membranes)
        self.blocks = nn.ModuleList(blocks(style, name, self.geometry, self.grid))
        self.threshold: Tensor
        self.register_buffer("threshold", torch.full((d_model,), THRESHOLD))
        self.head = nn.Linear(d_model, shape.classes)

    def forward(self, images: Tensor, record: Record | None = None) -> Tensor:
        """images [batch, channels, height, width] in 0..1 -> a score per class [batch, classes]."""
        rows = Rows(None, len(images), self.grid.tokens)
        x, layer = self.patches(images), 0

        def note(membrane: Tensor | None = None, live: Tensor | None = None, **spikes: Tensor) -> None:
            if record is not None:
                record.note(f"layer{layer}", membrane, live, spikes)

        for layer, block in enumerate(self.blocks):  # noqa: B007 (read by note)
            x = block(x, rows, note)
        if self.membranes:
            x = lif(x, self.threshold)
        return self.head(rows.spread(x).mean((0, 2)))
