# SPDX-License-Identifier: MIT
"""The local taps of LRF attention as the paper has them: dilated, depthwise 3 x 3 kernels on the grid of an image."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

DILATIONS = (3, 5)
"""Of the two kernels (arXiv 2603.19290)."""
SIDE = 3


@dataclass(frozen=True)
class Grid:
    """Tokens of an image, row by row from the top left."""

    height: int
    width: int

    @property
    def tokens(self) -> int:
        """How many there are."""
        return self.height * self.width

    def image(self, x: Tensor) -> Tensor:
        """Put tokens on the grid: x [..., tokens, d] -> [images, d, height, width], all leading axes in one."""
        return x.reshape(-1, self.height, self.width, x.shape[-1]).permute(0, 3, 1, 2)

    def line(self, image: Tensor, like: Tensor) -> Tensor:
        """Undo `image`: [images, d, height, width] -> the shape of `like` but for the channels."""
        return image.permute(0, 2, 3, 1).reshape(*like.shape[:-1], image.shape[1])

    def distances(self) -> Tensor:
        """Return how far apart tokens are, |rows| + |columns|, [tokens, tokens]."""
        row, column = self.places()
        return (row[:, None] - row).abs() + (column[:, None] - column).abs()

    def pairs(self, down: int, right: int) -> tuple[Tensor, Tensor]:
        """Return the tokens that have one so many rows below and columns to the right of them, and that one."""
        row, column = (place + step for place, step in zip(self.places(), (down, right), strict=True))
        n = torch.arange(self.tokens)[(row >= 0) & (row < self.height) & (column >= 0) & (column < self.width)]
        return n, n + down * self.width + right

    def places(self) -> tuple[Tensor, Tensor]:
        """Return row and column of every token, [tokens] each."""
        number = torch.arange(self.tokens)
        return number // self.width, number % self.width


class GridTaps(nn.Module):
    """Two 3 x 3 kernels per channel, dilated by 3 and by 5, uniform in 0..`init` at first; zeros beyond the border.

    causal : no tap on a token that comes later in the line of tokens, that is of each kernel the row above, the left
    neighbour and the middle: a scan must not know what is still to come.
    """

    def __init__(self, d_model: int, grid: Grid, init: float, causal: bool) -> None:
        super().__init__()
        self.grid = grid
        self.weight = nn.Parameter(torch.rand(len(DILATIONS), d_model, SIDE, SIDE) * init)
        live = torch.ones(SIDE, SIDE)
        if causal:
            live = (torch.arange(SIDE * SIDE) <= SIDE * SIDE // 2).float().view(SIDE, SIDE)
        self.live: Tensor
        self.register_buffer("live", live)

    def kernels(self) -> Tensor:
        """Return the weights [dilations, d, 3, 3]."""
        return self.weight * self.live

    def forward(self, value: Tensor) -> Tensor:
        """Return the sums over an image: value [steps, batch, tokens, d] -> like it."""
        image = self.grid.image(value)
        kernels = self.kernels()[:, :, None]
        total = sum(
            functional.conv2d(image, kernel, padding=dilation, dilation=dilation, groups=len(kernel))
            for kernel, dilation in zip(kernels, DILATIONS, strict=True)
        )
        return self.grid.line(total, value)  # type: ignore[arg-type]

    @property
    def reach(self) -> int:
        """Distance in the line of tokens of the farthest causal tap."""
        return max(DILATIONS) * (self.grid.width + 1)

    def taps(self) -> list[tuple[int, int, Tensor]]:
        """Return every live tap as (rows down, columns right, weights [d])."""
        kernels = self.kernels()
        return [
            (dilation * (row - 1), dilation * (column - 1), kernels[n, :, row, column])
            for n, dilation in enumerate(DILATIONS)
            for row in range(SIDE)
            for column in range(SIDE)
            if self.live[row, column]
        ]

    def newest(self, values: Tensor, number: int) -> Tensor:
        """Return the sum of the newest token, the `number`-th of its image, alone.

        values [steps, batch, reach + 1, d] : the last value spikes, oldest first -> [steps, batch, d].
        """
        row, column = divmod(number, self.grid.width)
        total = torch.zeros_like(values[:, :, -1])
        for down, right, weight in self.taps():
            if row + down >= 0 and 0 <= column + right < self.grid.width:
                total.addcmul_(values[:, :, -1 + down * self.grid.width + right], weight)
        return total

    def matrix(self) -> Tensor:
        """Return the mean size over the channels of the weight of token j on token n, [tokens n, tokens j]."""
        grid, result = self.grid, torch.zeros(self.grid.tokens, self.grid.tokens)
        for down, right, weight in self.taps():
            n, j = grid.pairs(down, right)
            result[n, j] += weight.detach().abs().mean().cpu()
        return result
