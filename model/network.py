# SPDX-License-Identifier: MIT
"""The spike-driven decision transformer (DSFormer with PSSA) in PyTorch: whole windows to train, a stream to act.

One token per environment step. Layers are `model.layers` (float) or `model.quantize` (integers); the network is one.
Spikes are zeros and ones in floating point, SNN steps first: [steps, tokens, channels]. Padding is never computed: a
window's real tokens are packed into rows, so nothing can leak from the rest.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from model.geometry import Geometry
from model.neuron import lif
from model.window import absolute_sum, relative_sum


@dataclass
class Record:
    """What a forward pass did inside; pass one to have it filled.

    spikes : "layer0.key" and so on -> [steps, rows, channels], the names of the policy's tensors.
    membranes : the residual stream after the embedding and after each sub-block, [steps, rows, channels].
    """

    spikes: dict[str, Tensor] = field(default_factory=dict)
    membranes: list[Tensor] = field(default_factory=list)


class Block(nn.Module):
    """One layer: the PSSA sub-block and the MLP sub-block, both on the membrane shortcut.

    kvq : spikes [.., d] -> spikes [.., 3 d], key, value and query side by side.
    taps : -> window weights, with `threshold`; proj, fc2 : (spikes, x) -> x; fc1 : spikes -> spikes.
    """

    def __init__(self, kvq: nn.Module, taps: nn.Module, proj: nn.Module, fc1: nn.Module, fc2: nn.Module) -> None:
        super().__init__()
        self.kvq, self.taps, self.proj, self.fc1, self.fc2 = kvq, taps, proj, fc1, fc2

    def forward(
        self, x: Tensor, entry: Tensor, window: Callable[[Tensor, Tensor], Tensor], note: Callable[..., None]
    ) -> Tensor:
        """Advance the membranes x [steps, rows, d]; `window(kv, taps)` sums over each row's past."""
        s = lif(x, entry)
        k, v, q = self.kvq(s).chunk(3, dim=-1)
        o = lif(q * window(k * v, self.taps()), self.taps.threshold)
        note(entry=s, key=k, value=v, query=q, window=o)
        x = self.proj(o, x)
        note(x)
        s = lif(x, entry)
        h = self.fc1(s)
        note(mlp=s, fc1=h)
        x = self.fc2(h, x)
        note(x)
        return x


class Network(nn.Module):
    """Embedding, blocks and head.

    embed : tokens [rows, inputs] -> membranes [rows, d]; head : membranes [steps, rows, d] -> actions [rows, actions].
    entry_threshold : of the neurons on the residual stream, in its unit.
    input_scale : integer steps per unit of each normalised token component; None where tokens stay real.
    """

    def __init__(
        self,
        geometry: Geometry,
        embed: nn.Module,
        blocks: list[Block],
        head: nn.Module,
        entry_threshold: float,
        position: str = "relative",
        input_scale: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.geometry, self.position = geometry, position
        self.embed, self.blocks, self.head = embed, nn.ModuleList(blocks), head
        self.entry: Tensor
        self.register_buffer("entry", torch.full((geometry.d_model,), float(entry_threshold)))
        self.register_buffer("input_scale", input_scale)

    @property
    def quantised(self) -> bool:
        """Whether tokens and membranes are integers."""
        return self.input_scale is not None

    def prepare(self, tokens: Tensor) -> Tensor:
        """Put normalised tokens [..., inputs] on the input grid; a float network takes them as they are."""
        if self.input_scale is None:
            return tokens
        limit = 1 << (self.geometry.input_bits - 1)
        return torch.clamp(torch.round(tokens * self.input_scale), -limit, limit - 1)

    def forward(self, tokens: Tensor, real: Tensor | None = None, record: Record | None = None) -> Tensor:
        """Predict the action at every token of whole windows.

        tokens [batch, length, inputs] as `prepare` returns them; real [batch, length] bool is False on padding (None:
        there is none) -> actions [batch, length, actions], zero on padding.
        """
        batch, length = tokens.shape[:2]
        rows = None if real is None or bool(real.all()) else real.flatten().nonzero()[:, 0]
        packed = tokens.flatten(0, 1) if rows is None else tokens.flatten(0, 1)[rows]
        total = absolute_sum if self.position == "absolute" else relative_sum

        def window(kv: Tensor, taps: Tensor) -> Tensor:
            acc = total(_unpack(kv, rows, batch * length).unflatten(1, (batch, length)), taps).flatten(1, 2)
            return acc if rows is None else acc.index_select(1, rows)

        actions = self._run(packed, [window] * len(self.blocks), record)
        return _unpack(actions[None], rows, batch * length)[0].unflatten(0, (batch, length))

    def stream(self, batch: int = 1) -> "Stream":
        """Return a stream at the start of `batch` episodes."""
        if self.position != "relative":
            raise ValueError(f"a network with {self.position} positions cannot stream; train with position='relative'")
        return Stream(self, batch)

    def _run(self, tokens: Tensor, windows: list[Callable[[Tensor, Tensor], Tensor]], record: Record | None) -> Tensor:
        layer = 0

        def note(membrane: Tensor | None = None, **spikes: Tensor) -> None:
            if record is not None:
                record.spikes |= {f"layer{layer}.{name}": s.detach() for name, s in spikes.items()}
                if membrane is not None:
                    record.membranes.append(membrane.detach())

        x = self.embed(tokens.to(self.entry.dtype)).expand(self.geometry.steps, -1, -1)
        note(x)
        for layer, (block, window) in enumerate(zip(self.blocks, windows, strict=True)):  # noqa: B007 (read by note)
            x = block(x, self.entry, window, note)
        return self.head(x)


class Stream:
    """A network on one token at a time: a decision costs one token and keeps `window - 1` words per layer.

    history : per layer the past `k AND v` spikes, oldest first, [steps, batch, window - 1, d].
    """

    def __init__(self, network: Network, batch: int) -> None:
        g = network.geometry
        self.network = network
        shape = (g.steps, batch, g.window - 1, g.d_model)
        self.history = [torch.zeros(shape, dtype=network.entry.dtype) for _ in range(g.layers)]

    @torch.no_grad()
    def decide(self, tokens: Tensor, record: Record | None = None) -> Tensor:
        """Advance every episode by one token [batch, inputs] as `prepare` returns it -> actions [batch, actions]."""

        def at(layer: int) -> Callable[[Tensor, Tensor], Tensor]:
            def window(kv: Tensor, taps: Tensor) -> Tensor:
                recent = torch.cat([self.history[layer], kv[:, :, None]], dim=2)
                self.history[layer] = recent[:, :, 1:]
                return relative_sum(recent, taps)[:, :, -1]

            return window

        windows = [at(layer) for layer in range(len(self.history))]
        return self.network._run(tokens, windows, record)


def _unpack(x: Tensor, rows: Tensor | None, count: int) -> Tensor:
    """Put packed rows x [n, rows, c] back among `count`, zeros elsewhere."""
    if rows is None:
        return x
    return x.new_zeros(x.shape[0], count, x.shape[2]).index_copy(1, rows, x)
