# SPDX-License-Identifier: MIT
"""The spike-driven decision transformer (DSFormer) in PyTorch: whole windows to train, a stream to act.

One token per environment step. Layers are `layers` (float) or `model.integer.quantize` (integers); one network.
Spikes are zeros and ones in floating point, SNN steps first: [steps, tokens, channels]. Padding is never computed: a
window's real tokens are packed into rows, so nothing can leak from the rest.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from model.deployed.geometry import Geometry
from model.network.attention import Attention, Rows
from model.network.gate import Gate
from model.network.neuron import lif
from model.network.phase import Phase
from model.network.routing import Routing

Attend = Callable[[Attention, Tensor, Tensor, Tensor | None], Tensor]
"""(attention, key, value, query), spikes [steps, rows, d] -> the current of the neurons behind [steps, rows, d]."""


@dataclass
class Record:
    """What a forward pass did inside; pass one to have it filled.

    spikes : "layer0.key" and so on -> [steps, rows, channels], the names of the policy's tensors.
    membranes : the residual stream after the embedding and after each sub-block, [steps, rows, channels].
    live_steps : "layer0" and so on -> [rows], where step gates choose them.
    graph : whether what is noted can be differentiated.
    """

    graph: bool = False
    spikes: dict[str, Tensor] = field(default_factory=dict)
    membranes: list[Tensor] = field(default_factory=list)
    live_steps: dict[str, Tensor] = field(default_factory=dict)

    def note(self, at: str, membrane: Tensor | None, live: Tensor | None, spikes: dict[str, Tensor]) -> None:
        """Add spikes of a layer under their names, a membrane, and the layer's live steps."""
        if live is not None:
            self.live_steps[at] = live if self.graph else live.detach()
        self.spikes |= {f"{at}.{name}": s if self.graph else s.detach() for name, s in spikes.items()}
        if membrane is not None:
            self.membranes.append(membrane if self.graph else membrane.detach())


class Block(nn.Module):
    """One layer: the attention sub-block and the MLP sub-block, both on the membrane shortcut.

    kvq : spikes [.., d] -> spikes [.., 3 d], key, value and query side by side; [.., 2 d] where there is no query.
    proj, fc2 : (spikes, x) -> x; fc1 : spikes -> spikes. phase, routing : codes and gains of its heads, None
    where there are none.
    gate : chooses the live steps, None where all are; in the others no neuron of the layer spikes.
    """

    def __init__(
        self,
        kvq: nn.Module,
        attention: Attention,
        proj: nn.Module,
        fc1: nn.Module,
        fc2: nn.Module,
        phase: Phase | None = None,
        routing: Routing | None = None,
        gate: Gate | None = None,
    ) -> None:
        super().__init__()
        self.kvq, self.attention, self.proj, self.fc1, self.fc2 = kvq, attention, proj, fc1, fc2
        self.phase, self.routing, self.gate = phase, routing, gate

    def forward(
        self, x: Tensor, entry: Tensor, attend: Attend, note: Callable[..., None], time: Tensor | None
    ) -> Tensor:
        """Advance the membranes x [steps, rows, d]; `attend` looks at each row's past.

        time [rows] : environment step of each row; None where no code over tokens asks for it.
        """
        mask = None
        if self.gate is not None:
            live, mask = self.gate(x)
            note(live=live)

        def existing(spikes: Tensor) -> Tensor:
            return spikes if mask is None else spikes * mask

        s = existing(lif(x if self.phase is None else self.phase.on_entry(x, time), entry))
        names = self.attention.geometry.projections
        spikes = dict(zip(names, existing(self.kvq(s)).chunk(len(names), dim=-1), strict=True))
        if self.phase is not None and "query" in spikes:
            spikes["query"] = self.phase.on_query(spikes["query"], time)
        current = attend(self.attention, spikes["key"], spikes["value"], spikes.get("query"))
        if self.routing is not None:
            current = self.routing(current, spikes.get("query"))
        o = existing(lif(current, self.attention.threshold))
        note(entry=s, **spikes, window=o)
        x = self.proj(o, x)
        note(x)
        s = existing(lif(x, entry))
        h = existing(self.fc1(s))
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
        input_scale: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.geometry = geometry
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

    def forward(
        self,
        tokens: Tensor,
        real: Tensor | None = None,
        record: Record | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """Predict the action at every token of whole windows.

        tokens [batch, length, inputs] as `prepare` returns them; real [batch, length] bool is False on padding (None:
        there is none); start [batch]: the environment step, in its episode, of each window's first real token, which a
        phase over tokens counts from (None: windows begin with their episodes)
        -> actions [batch, length, actions], zero on padding.
        """
        rows = Rows(real, *tokens.shape[:2])
        time = None
        if self.geometry.phase_over == "tokens":
            time = rows.times(torch.zeros(rows.batch, dtype=torch.int64) if start is None else start)

        def attend(attention: Attention, key: Tensor, value: Tensor, query: Tensor | None) -> Tensor:
            return attention(key, value, query, rows)

        actions = self._run(rows.pack(tokens[None])[0], [attend] * len(self.blocks), record, time)
        return rows.spread(actions[None])[0]

    def stream(self, batch: int = 1) -> "Stream":
        """Return a stream at the start of `batch` episodes. Raises `ValueError` where the attention cannot stream."""
        return Stream(self, batch)

    def _run(self, tokens: Tensor, attends: list[Attend], record: Record | None, time: Tensor | None) -> Tensor:
        layer = 0

        def note(membrane: Tensor | None = None, live: Tensor | None = None, **spikes: Tensor) -> None:
            if record is not None:
                record.note(f"layer{layer}", membrane, live, spikes)

        x = self.embed(tokens.to(self.entry.dtype)).expand(self.geometry.steps, -1, -1)
        note(x)
        for layer, (block, attend) in enumerate(zip(self.blocks, attends, strict=True)):  # noqa: B007 (read by note)
            x = block(x, self.entry, attend, note, time)
        return self.head(x)


class Stream:
    """A network on one token at a time: a decision costs one token and a bounded state per layer.

    state : per layer what its attention keeps of the past tokens. tokens : of each episode so far; episodes begin
    together.
    """

    def __init__(self, network: Network, batch: int) -> None:
        self.network, self.tokens = network, 0
        self.state = [block.attention.begin(batch) for block in network.blocks]

    @torch.no_grad()
    def decide(self, tokens: Tensor, record: Record | None = None) -> Tensor:
        """Advance every episode by one token [batch, inputs] as `prepare` returns it -> actions [batch, actions]."""

        def at(layer: int) -> Attend:
            def attend(attention: Attention, key: Tensor, value: Tensor, query: Tensor | None) -> Tensor:
                current, self.state[layer] = attention.advance(key, value, query, self.state[layer])
                return current

            return attend

        time, self.tokens = torch.tensor([self.tokens]), self.tokens + 1
        return self.network._run(tokens, [at(layer) for layer in range(len(self.state))], record, time)

    def keep(self, episodes: Tensor) -> None:
        """Go on with these episodes only, an index [batch]."""
        self.state = [state.index_select(1, episodes) for state in self.state]
