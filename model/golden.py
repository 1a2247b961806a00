# SPDX-License-Identifier: MIT
"""The deployed network in numpy integers, one function per hardware block (docs/numbers.md).

The circuit and the PyTorch evaluation mode are separate readings of the same number format; neither imports this file.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from model.artifact import Policy
from model.geometry import Geometry

Integers = NDArray[np.int64]
Bits = NDArray[np.bool_]


KVQ = ("key", "value", "query")


def spiking_linear(spikes: Bits, weight: Integers | NDArray[np.float32]) -> Integers:
    """Sum the weights of the inputs that spike: `acc[t,c] = sum_i w[c,i] s[t,i]`.

    spikes [steps, inputs], weight [outputs, inputs] -> [steps, outputs]. Runs as a float32 matrix product, exact
    because every partial sum stays below 2**24 (`Geometry.accumulator_bits` is at most 16).
    """
    product = spikes.astype(np.float32) @ weight.astype(np.float32, copy=False).T
    return product.astype(np.int64)


def lif(current: Integers, threshold: Integers) -> tuple[Bits, Integers]:
    """Fire `s[t] = m[t] > threshold` with `m[t] = u[t] + m[t-1]/4 (1 - s[t-1])`, from rest.

    current [steps, channels] integers; threshold [channels] or scalar, same unit -> spikes [steps, channels] and
    membranes [steps, channels] in units of 4**-(steps-1), where the quarter is exact.
    """
    guard = 2 * (current.shape[0] - 1)
    scaled = np.asarray(threshold, np.int64) << guard
    membrane = current << guard
    for t in range(1, len(membrane)):
        before = membrane[t - 1]
        membrane[t] += np.where(before > scaled, 0, before >> 2)
    return membrane > scaled, membrane


def window_sum(ring: Bits, taps: Integers) -> Integers:
    """Sum the taps of the tokens whose `k AND v` spikes: `acc[t,c] = sum_d p[c,d] kv[n-d][t,c]`.

    ring [tokens, steps, channels], newest first; taps [channels, window] -> [steps, channels].
    """
    acc: Integers = np.einsum("dtc,cd->tc", ring.astype(np.int64), taps[:, : len(ring)])
    return acc


def saturate(value: Integers, bits: int) -> tuple[Integers, int]:
    """Clip to signed `bits`; return the clipped array and how many elements were clipped."""
    clipped = np.clip(value, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    return clipped, int(np.count_nonzero(clipped != value))


def embed(token: Integers, weight: Integers, shift: Integers, bias: Integers) -> Integers:
    """Embed a quantised token: `floor(W token / 2**shift) + bias`, before saturation.

    token [inputs], weight [channels, inputs], shift and bias [channels] -> [channels].
    """
    return ((weight @ token) >> shift) + bias


def head(membrane: Integers, weight: Integers, shift: Integers, bias: Integers, table: Integers) -> Integers:
    """Look the action up: `table[clip(floor((W sum_t x[t] + bias) / 2**shift) + entries/2)]`.

    membrane [steps, channels], weight [actions, channels], shift and bias [actions], table [entries] -> [actions].
    """
    index = ((weight @ membrane.sum(axis=0) + bias) >> shift) + len(table) // 2
    words: Integers = table[np.clip(index, 0, len(table) - 1)]
    return words


def signature(previous: int, membrane: Integers, bits: int, group: int) -> int:
    """Fold a residual write into the running 32-bit signature, as the circuit does.

    Groups of `group` channels in order; a group's membranes are packed channel by channel, step by step, low bits
    first; the packed word's 32-bit pieces are XORed; the signature is rotated left by one and XORed with that.
    """
    steps, channels = membrane.shape
    fields = (membrane.T.reshape(channels // group, group * steps) & ((1 << bits) - 1)).astype(np.int64)
    unpacked = (fields[..., None] >> np.arange(bits)) & 1
    packed = np.packbits(unpacked.reshape(len(fields), -1).astype(np.uint8), axis=1, bitorder="little")
    padded = np.zeros((len(packed), -(-packed.shape[1] // 4) * 4), np.uint8)
    padded[:, : packed.shape[1]] = packed
    folded = np.bitwise_xor.reduce(padded.view("<u4"), axis=1)
    for word in folded:
        previous = (((previous << 1) | (previous >> 31)) & 0xFFFF_FFFF) ^ int(word)
    return previous


@dataclass
class Trace:
    """What one decision did inside: every spike train and the membranes after each sub-block."""

    action: Integers  # [actions] int16 words
    signatures: list[int] = field(default_factory=list)  # one per `Geometry.signatures`
    membranes: list[Integers] = field(default_factory=list)  # same points, [steps, channels]
    spikes: dict[str, Bits] = field(default_factory=dict)  # "layer0.key" -> [steps, channels]
    active_rows: dict[str, int] = field(default_factory=dict)  # inputs that spike in at least one step
    saturations: int = 0


class GoldenNetwork:
    """Stateful streaming network: one token in, one action out, bounded state per layer.

    State is one ring of the last `window` words `k AND v` per layer.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.geometry: Geometry = policy.geometry
        self._tensors: dict[str, Integers] = {name: t.astype(np.int64) for name, t in policy.tensors.items()}
        # the same integers, as the matrix product wants them
        self._weights = {name: t.astype(np.float32) for name, t in policy.tensors.items() if name.endswith("weight")}
        # keys, values and queries read the same spikes: one product for the three
        p = self._tensors
        for at in (f"layer{layer}" for layer in range(self.geometry.layers)):
            for part in ("weight", "bias", "threshold"):
                p[f"{at}.kvq.{part}"] = np.concatenate([p[f"{at}.{name}.{part}"] for name in KVQ])
            self._weights[f"{at}.kvq.weight"] = p[f"{at}.kvq.weight"].astype(np.float32)
        self.reset()

    def reset(self) -> None:
        """Forget the episode."""
        self._rings: list[list[Bits]] = [[] for _ in range(self.geometry.layers)]

    def ring(self, layer: int) -> Bits:
        """Return the `k AND v` spikes of the tokens in a layer's window, newest first [tokens, steps, channels]."""
        return np.stack(self._rings[layer])

    def decide(self, token: Integers) -> Trace:
        """Advance by one quantised token [inputs] and return the decision with its trace."""
        g, p = self.geometry, self._tensors
        trace = Trace(np.zeros(0, np.int64))

        def residual(x: Integers) -> Integers:
            clipped, count = saturate(x, g.membrane_bits)
            trace.saturations += count
            last = trace.signatures[-1] if trace.signatures else 0
            trace.signatures.append(signature(last, clipped, g.membrane_bits, g.group))
            trace.membranes.append(clipped)
            return clipped

        def linear(spikes: Bits, name: str) -> Integers:
            trace.active_rows[name] = int(np.count_nonzero(spikes.any(axis=0)))
            return spiking_linear(spikes, self._weights[f"{name}.weight"])

        def neuron(current: Integers, name: str) -> Bits:
            trace.spikes[name], _ = lif(current, p[f"{name}.threshold"])
            return trace.spikes[name]

        def spiking(spikes: Bits, name: str) -> Bits:
            return neuron(linear(spikes, name) + p[f"{name}.bias"], name)

        def shortcut(x: Integers, spikes: Bits, name: str) -> Integers:
            return residual(x + (linear(spikes, name) << p[f"{name}.shift"]) + p[f"{name}.bias"])

        e = embed(token, p["embed.weight"], p["embed.shift"], p["embed.bias"])
        x = residual(np.tile(e, (g.steps, 1)))
        for layer in range(g.layers):
            at = f"layer{layer}"
            s = trace.spikes[f"{at}.entry"] = lif(x, p["entry.threshold"])[0]
            k, v, q = np.split(spiking(s, f"{at}.kvq"), 3, axis=1)
            trace.spikes |= {f"{at}.{name}": spikes for name, spikes in zip(KVQ, (k, v, q), strict=True)}
            trace.active_rows |= dict.fromkeys((f"{at}.{name}" for name in KVQ), trace.active_rows.pop(f"{at}.kvq"))
            del trace.spikes[f"{at}.kvq"]
            self._rings[layer] = [k & v, *self._rings[layer]][: g.window]
            o = neuron(q * window_sum(self.ring(layer), p[f"{at}.window.weight"]), f"{at}.window")
            x = shortcut(x, o, f"{at}.proj")
            s = trace.spikes[f"{at}.mlp"] = lif(x, p["entry.threshold"])[0]
            h = spiking(s, f"{at}.fc1")
            x = shortcut(x, h, f"{at}.fc2")
        trace.action = head(x, p["head.weight"], p["head.shift"], p["head.bias"], p["head.table"])
        return trace
