# SPDX-License-Identifier: MIT
"""The deployed network in numpy integers, one function per hardware block (docs/numbers.md).

Arrays are [steps, ..., channels]; between the two may stand an axis of episodes that run side by side.

The circuit and the PyTorch evaluation mode are separate readings of the same number format; neither imports this file.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.deployed.artifact import Policy
from model.deployed.geometry import Geometry
from model.deployed.golden_attention import ATTENTIONS, Attention, Bits, Integers, Match, Window, follow, saturate


def spiking_linear(spikes: Bits, weight: Integers | NDArray[np.float32]) -> Integers:
    """Sum the weights of the inputs that spike: `acc[t,c] = sum_i w[c,i] s[t,i]`.

    spikes [steps, ..., inputs], weight [outputs, inputs] -> [steps, ..., outputs]. Runs as a float32 matrix product,
    exact because every partial sum stays below 2**24 (`Geometry.pass_bits` is at most 24).
    """
    product = spikes.astype(np.float32) @ weight.astype(np.float32, copy=False).T
    return product.astype(np.int64)


def lif(current: Integers, threshold: Integers) -> tuple[Bits, Integers]:
    """Fire `s[t] = m[t] > threshold` with `m[t] = u[t] + m[t-1]/4 (1 - s[t-1])`, from rest.

    current [steps, ..., channels] integers; threshold [channels] or scalar, same unit -> spikes and membranes like
    current, the membranes in units of 4**-(steps-1), where the quarter is exact.
    """
    guard = 2 * (current.shape[0] - 1)
    scaled = np.asarray(threshold, np.int64) << guard
    membrane = current << guard
    for t in range(1, len(membrane)):
        before = membrane[t - 1]
        membrane[t] += np.where(before > scaled, 0, before >> 2)
    return membrane > scaled, membrane


def embed(token: Integers, weight: Integers, shift: Integers, bias: Integers) -> Integers:
    """Embed a quantised token: `floor(W token / 2**shift) + bias`, before saturation.

    token [..., inputs], weight [channels, inputs], shift and bias [channels] -> [..., channels].
    """
    return ((token @ weight.T) >> shift) + bias


def phase_bits(table: Integers, g: Geometry, time: Integers) -> Bits:
    """Look up the bit of every channel: that of its head, in the SNN step or in the environment step modulo the period.

    table [times, heads], zeros and ones; time [...]: environment steps -> [steps, ..., channels].
    """
    of_head = np.arange(g.d_model) * g.heads // g.d_model
    step = np.arange(g.steps).reshape(-1, *[1] * (time.ndim + 1))
    at = step if g.phase_over == "steps" else time[None, ..., None] % g.period
    return np.broadcast_to(table[at, of_head] == 1, (g.steps, *time.shape, g.d_model))


def shift_of_heads(query: Bits, threshold: Integers, heads: int) -> Integers:
    """Return by how many places each channel's current is shifted down: its head's thresholds that are not exceeded.

    A head counts its query spikes [steps, ..., channels] in all steps; threshold [2, heads] -> [..., channels].
    """
    channels = query.shape[-1]
    count = np.add.reduceat(query.sum(axis=0), np.arange(0, channels, channels // heads), axis=-1)
    quiet: Integers = np.sum([count <= each for each in threshold], axis=0)
    return quiet[..., np.arange(channels) * heads // channels]


def live_steps(membrane: Integers, weight: Integers, threshold: Integers) -> Integers:
    """Choose how many steps of a layer are live: `1 + #{k : sum_c w[c] x[0,c] > threshold[k]}`.

    membrane [steps, ..., channels] at the layer's entry, of which the first step and the first group count; weight
    [group], threshold [steps - 1] -> [...].
    """
    total = membrane[0, ..., : len(weight)] @ weight
    chosen: Integers = 1 + (total[..., None] > threshold).sum(axis=-1)
    return chosen


def head(membrane: Integers, weight: Integers, shift: Integers, bias: Integers, table: Integers) -> Integers:
    """Look the action up: `table[clip(floor((W sum_t x[t] + bias) / 2**shift) + entries/2)]`.

    membrane [steps, ..., channels], weight [actions, channels], shift and bias [actions], table [entries]
    -> [..., actions].
    """
    index = ((membrane.sum(axis=0) @ weight.T + bias) >> shift) + len(table) // 2
    words: Integers = table[np.clip(index, 0, len(table) - 1)]
    return words


def signature(previous: int | Integers, membrane: Integers, bits: int, group: int) -> Integers:
    """Fold a residual write into the running 32-bit signature, as the circuit does.

    Groups of `group` channels in order; a group's membranes are packed channel by channel, step by step, low bits
    first; the packed word's 32-bit pieces are XORed; the signature is rotated left by one and XORed with that.
    membrane [steps, ..., channels], previous [...] or one for all -> [...].
    """
    fields = np.moveaxis(membrane, 0, -1).reshape(*membrane.shape[1:-1], -1, group * len(membrane))
    # a field begins somewhere in a piece, and what does not fit begins the next: XORed, it is that field rotated
    begins = np.arange(fields.shape[-1], dtype=np.uint64) * np.uint64(bits) % np.uint64(32)
    placed = (fields.astype(np.uint64) & np.uint64((1 << bits) - 1)) << begins
    both = np.bitwise_xor.reduce(placed, axis=-1)
    folded = ((both ^ (both >> np.uint64(32))) & np.uint64(0xFFFF_FFFF)).astype(np.int64)
    running = np.asarray(previous, np.int64)
    for word in np.moveaxis(folded, -1, 0):
        running = (((running << 1) | (running >> 31)) & 0xFFFF_FFFF) ^ word
    return running


@dataclass
class Trace:
    """What one decision did inside: every spike train and the membranes after each sub-block.

    Of many tokens, `active_rows` counts per token and `saturations` all together. Signatures are per token where the
    tokens are consecutive ones of an episode, and left out of episodes side by side.
    """

    action: Integers  # [..., actions] int16 words
    signatures: list[Any] = field(default_factory=list)  # int, or list[int] per token; one per `Geometry.signatures`
    membranes: list[Integers] = field(default_factory=list)  # same points, [steps, ..., channels]
    spikes: dict[str, Bits] = field(default_factory=dict)  # "layer0.key" -> [steps, ..., channels]
    active_rows: dict[str, Any] = field(default_factory=dict)  # int, or list[int] per token: inputs that spike
    saturations: int = 0  # residual membranes and dendrites that were clipped
    live_steps: list[Any] = field(default_factory=list)  # per layer, int or list[int] per token; empty without gates


def reads(geometry: Geometry, linear: str) -> int:
    """Return how often the row of a linear's input is fetched ("layer0.fc1", say): once per d_model outputs."""
    return geometry.mlp_ratio if linear.endswith(".fc1") else 1


def fetch_cycles(geometry: Geometry, active_rows: Mapping[str, int]) -> int:
    """Return the fewest cycles that a decision's passes can take: each fetches its active rows and does nothing else.

    active_rows : as in `Trace`, of one decision. Embedding, head, window and every latency count nothing in it.
    """
    per_cycle = geometry.rows_per_cycle
    return sum(reads(geometry, linear) * -(-rows // per_cycle) for linear, rows in active_rows.items())


class GoldenNetwork:
    """Stateful streaming network: one token in, one action out, bounded state per layer.

    attention : per layer, with what it keeps of the past tokens. tokens : of the episode so far.
    """

    attention: list[Attention]
    tokens: int

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.geometry: Geometry = policy.geometry
        self._tensors: dict[str, Integers] = {name: t.astype(np.int64) for name, t in policy.tensors.items()}
        # the same integers, as the matrix product wants them
        self._weights = {name: t.astype(np.float32) for name, t in policy.tensors.items() if name.endswith("weight")}
        # keys, values and queries read the same spikes: one product for all
        p = self._tensors
        for at in (f"layer{layer}" for layer in range(self.geometry.layers)):
            for part in ("weight", "bias", "threshold"):
                p[f"{at}.kvq.{part}"] = np.concatenate(
                    [p[f"{at}.{name}.{part}"] for name in policy.geometry.projections]
                )
            self._weights[f"{at}.kvq.weight"] = p[f"{at}.kvq.weight"].astype(np.float32)
        self.reset()

    def reset(self) -> None:
        """Forget the episode, or the episodes: the next token may have another number of them."""
        kind, self.tokens = ATTENTIONS[self.geometry.attention], 0
        own = [f"layer{layer}." for layer in range(self.geometry.layers)]
        self.attention = [
            kind(self.geometry, {n.removeprefix(at): t for n, t in self._tensors.items() if n.startswith(at)})
            for at in own
        ]

    def keep(self, episodes: Sequence[int]) -> None:
        """Go on with these of the episodes side by side, an index each; there was a token already."""
        for attention in self.attention:
            attention.keep(episodes)

    def ring(self, layer: int) -> Bits:
        """Return what a layer's window keeps of its tokens, newest first [tokens, kept, steps, ..., channels].

        PSSA keeps one word of a token, `k AND v`; SSSA and TSSA keep two, key and value.
        """
        attention = self.attention[layer]
        assert isinstance(attention, Window | Match)
        return np.stack(attention.kept, axis=1)

    def decide(self, token: Integers) -> Trace:
        """Advance by one quantised token and return the decision with its trace.

        token [inputs], or [episodes, inputs]: one each of episodes side by side, as many as since `reset`.
        """
        time = np.full(token.shape[:-1], self.tokens)
        self.tokens += 1
        return self._decide(token, lambda attention, spikes: attention.advance(*spikes), token.ndim == 1, time)

    def decide_all(self, tokens: Integers) -> Trace:
        """Advance by consecutive tokens of one episode [tokens, inputs]: as `decide` of each, several times faster.

        Only the attentions take them in turn, since no layer keeps anything else of the past.
        """
        time = self.tokens + np.arange(len(tokens))
        self.tokens += len(tokens)
        return self._decide(tokens, follow, True, time)

    def _decide(
        self,
        token: Integers,
        attend: Callable[[Attention, Sequence[Bits]], tuple[Integers, int]],
        signed: bool,
        time: Integers,
    ) -> Trace:
        g, p = self.geometry, self._tensors
        trace = Trace(np.zeros(0, np.int64))

        def residual(x: Integers) -> Integers:
            clipped, count = saturate(x, g.membrane_bits)
            trace.saturations += count
            if signed:
                last = trace.signatures[-1] if trace.signatures else 0
                trace.signatures.append(signature(last, clipped, g.membrane_bits, g.group).tolist())
            trace.membranes.append(clipped)
            return clipped

        def linear(spikes: Bits, name: str) -> Integers:
            trace.active_rows[name] = np.count_nonzero(spikes.any(axis=0), axis=-1).tolist()
            return spiking_linear(spikes, self._weights[f"{name}.weight"])

        def fire(current: Integers, threshold: Integers) -> Bits:
            """Fire in the layer's live steps."""
            spikes, _ = lif(current, threshold)
            if g.adaptive:
                step = np.arange(g.steps).reshape(-1, *[1] * (spikes.ndim - 1))
                spikes &= step < np.asarray(trace.live_steps[-1])[..., None]
            return spikes

        def neuron(current: Integers, name: str, places: int | Integers = 0) -> Bits:
            # a current that is some places smaller, by a threshold that is as much larger
            trace.spikes[name] = fire(current, p[f"{name}.threshold"] << places)
            return trace.spikes[name]

        def spiking(spikes: Bits, name: str) -> Bits:
            return neuron(linear(spikes, name) + p[f"{name}.bias"], name)

        def shortcut(x: Integers, spikes: Bits, name: str) -> Integers:
            return residual(x + (linear(spikes, name) << p[f"{name}.shift"]) + p[f"{name}.bias"])

        e = embed(token, p["embed.weight"], p["embed.shift"], p["embed.bias"])
        x = residual(np.broadcast_to(e, (g.steps, *e.shape)))
        for layer in range(g.layers):
            at = f"layer{layer}"
            if g.adaptive:
                chosen = live_steps(x, p[f"{at}.gate.weight"], p[f"{at}.gate.threshold"])
                trace.live_steps.append(chosen.tolist())
            current = x
            if g.phase == "input":
                current = x + p[f"{at}.phase.current"] * phase_bits(p[f"{at}.phase.bits"], g, time)
            s = trace.spikes[f"{at}.entry"] = fire(current, p["entry.threshold"])
            projected = np.split(spiking(s, f"{at}.kvq"), len(g.projections), axis=-1)
            if g.phase == "query":
                projected[g.projections.index("query")] &= phase_bits(p[f"{at}.phase.bits"], g, time)
            del trace.spikes[f"{at}.kvq"]
            rows = trace.active_rows.pop(f"{at}.kvq")
            for name, spikes in zip(g.projections, projected, strict=True):
                trace.spikes[f"{at}.{name}"], trace.active_rows[f"{at}.{name}"] = spikes, rows
            current, clipped = attend(self.attention[layer], projected)
            trace.saturations += clipped
            places: int | Integers = 0
            if g.routing == "count":
                query = projected[g.projections.index("query")]
                places = shift_of_heads(query, p[f"{at}.routing.threshold"], g.heads)
            x = shortcut(x, neuron(current, f"{at}.window", places), f"{at}.proj")
            s = trace.spikes[f"{at}.mlp"] = fire(x, p["entry.threshold"])
            h = spiking(s, f"{at}.fc1")
            x = shortcut(x, h, f"{at}.fc2")
        trace.action = head(x, p["head.weight"], p["head.shift"], p["head.bias"], p["head.table"])
        return trace
