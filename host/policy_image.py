# SPDX-License-Identifier: MIT
"""A policy as the words of the circuit's memories, and back (the layout is `hw.memory_map`)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from host.bits import gather_bits, spread_bits
from host.bus import Words
from host.dendrite_rows import pack_dendrites, unpack_dendrites
from hw.memory_map import Section, channel_bits, embed_components, head_actions, memory_map, passes
from model.deployed.geometry import Geometry

if TYPE_CHECKING:  # a board server loads images, and reads no artifacts
    from model.deployed.artifact import Policy

Integers = NDArray[np.int64]

HEAD_BIAS_BITS = 32
HEAD_SHIFT_BITS = 5


@dataclass(frozen=True)
class PolicyImage:
    """What loading a policy writes: every writable section, whole, and the registers that go with it.

    sections : name -> uint32 [rows * stride].
    registers : name -> value.
    """

    sections: dict[str, Words]
    registers: dict[str, int]


def pack_rows(values: Integers, bits: int, section: Section) -> Words:
    """Pack integers [rows, fields] of `bits` each, low bits first, into a section's words [rows * stride]."""
    spread = spread_bits(values, bits).astype(np.uint8)
    packed = np.packbits(spread.reshape(len(values), -1), axis=1, bitorder="little")
    padded = np.zeros((len(values), section.stride * 4), np.uint8)
    padded[:, : packed.shape[1]] = packed
    return padded.view("<u4").reshape(-1)


def unpack_rows(words: Words, bits: int, section: Section, signed: bool) -> Integers:
    """Undo `pack_rows`: words [rows * stride] -> integers [rows, fields]."""
    octets = np.ascontiguousarray(words, "<u4").view(np.uint8).reshape(section.rows, section.stride * 4)
    fields = section.row_bits // bits
    spread = np.unpackbits(octets, axis=1, bitorder="little")[:, : fields * bits]
    return gather_bits(spread.reshape(section.rows, fields, bits), signed)


def _padded(count: int, together: int) -> int:
    """Return the count, rounded up to whole rows of as many as are stored together."""
    return -(-count // together) * together


def _channel_spans(g: Geometry) -> Iterator[tuple[slice, str | None, str]]:
    """Yield (rows of d_model channels, bias tensor, threshold or shift tensor) in the order of the passes."""
    yield slice(0, 1), "embed.bias", "embed.shift"
    start = 1
    for layer in range(g.layers):
        for part in passes(g):
            at, stop = f"layer{layer}.{part}", start + (g.mlp_ratio if part == "fc1" else 1)
            second = f"{at}.shift" if part in ("proj", "fc2") else f"{at}.threshold"
            yield slice(start, stop), None if part == "window" else f"{at}.bias", second
            start = stop


def _weight_blocks(g: Geometry) -> Iterator[tuple[str, int]]:
    """Yield (tensor name, rows it takes) in the order of the weight rows."""
    for layer in range(g.layers):
        for part in passes(g):
            if part != "window":
                yield f"layer{layer}.{part}.weight", g.d_mlp if part in ("fc1", "fc2") else g.d_model


def pack(policy: "Policy") -> PolicyImage:
    """Pack a policy. Unused observations, actions and rows are zero."""
    g = policy.geometry
    t = {name: tensor.astype(np.int64) for name, tensor in policy.tensors.items()}
    d, groups, sections = g.d_model, g.groups, memory_map(g)
    rows: dict[str, Integers] = {}

    blocks = []
    for name, _ in _weight_blocks(g):
        weight = t[name]
        if name.endswith("fc1.weight"):  # [mlp_ratio * d, d]: a pass computes d of the hidden channels
            blocks.append(weight.reshape(g.mlp_ratio, d, d).transpose(0, 2, 1).reshape(g.d_mlp, d))
        else:
            blocks.append(weight.T)
    rows["weights"] = np.concatenate(blocks)

    if "taps" in sections:
        taps = np.stack([t[f"layer{layer}.window.weight"].T for layer in range(g.layers)])  # [layers, window, d_model]
        rows["taps"] = taps.reshape(-1, g.group)
    if "dendrites" in sections:
        layers = [pack_dendrites(g, t, f"layer{layer}.dynamics") for layer in range(g.layers)]
        rows["dendrites"] = np.concatenate(layers)

    if "phase" in sections:
        codes = np.stack([t[f"layer{layer}.phase.bits"] for layer in range(g.layers)])  # [layers, times, heads]
        rows["phase"] = (
            codes.reshape(-1, g.heads) if g.phase_over == "tokens" else codes.swapaxes(1, 2).reshape(g.layers, -1)
        )
    if "gates" in sections:
        rows["gates"] = np.concatenate([_pack_gate(g, t, f"layer{layer}.gate") for layer in range(g.layers)])

    bias = np.zeros((1 + g.layers * g.passes_per_layer, d), np.int64)
    second = np.zeros_like(bias)  # threshold or shift
    for span, bias_name, second_name in _channel_spans(g):
        if bias_name:
            bias[span] = t[bias_name].reshape(-1, d)
        second[span] = t[second_name].reshape(-1, d)
    channels = (bias & ((1 << g.bias_bits) - 1)) | second << g.bias_bits
    rows["channels"] = channels.reshape(-1, g.group)

    embed: Integers = np.zeros((d, _padded(g.input_size, embed_components(g))), np.int64)
    embed[:, : policy.input_size] = t["embed.weight"]
    embed = embed.reshape(groups, g.group, -1).transpose(0, 2, 1)  # [groups, components, group]
    rows["embed"] = embed.reshape(-1, embed_components(g) * g.group)

    actions = policy.action_size
    rows["head"] = _head_rows(g, t["head.weight"])
    rows["head_bias"] = np.zeros((g.action_size, 1), np.int64)
    low = t["head.bias"] & ((1 << HEAD_BIAS_BITS) - 1)
    rows["head_bias"][:actions, 0] = low | t["head.shift"] << HEAD_BIAS_BITS
    rows["table"] = t["head.table"][:, None]

    return PolicyImage(
        {name: pack_rows(values, _field_bits(g)[name], sections[name]) for name, values in rows.items()},
        {
            "INPUT_COUNT": policy.input_size,
            "ACTION_COUNT": actions,
            "ENTRY_THRESHOLD": int(t["entry.threshold"][0]),
        },
    )


def _head_rows(g: Geometry, weight: Integers) -> Integers:
    """Return the head's weights [actions, d_model] as rows of its memory."""
    head: Integers = np.zeros((_padded(g.action_size, head_actions(g)), g.d_model), np.int64)
    head[: len(weight)] = weight
    head = head.reshape(-1, head_actions(g), g.groups, g.group).swapaxes(1, 2)  # [rounds, groups, actions, group]
    return head.reshape(-1, head_actions(g) * g.group)


def pack_head(g: Geometry, weight: Integers) -> Words:
    """Pack the head's weights [actions, d_model] alone, as `pack` does; unused actions are zero."""
    return pack_rows(_head_rows(g, weight), g.dense_weight_bits, memory_map(g)["head"])


def unpack_head(g: Geometry, words: Words, actions: int) -> Integers:
    """Undo `pack_head`: words of the head's memory -> int64 [actions, d_model]."""
    rows = unpack_rows(words, g.dense_weight_bits, memory_map(g)["head"], signed=True)
    return rows.reshape(-1, g.groups, head_actions(g), g.group).swapaxes(1, 2).reshape(-1, g.d_model)[:actions]


def _pack_gate(g: Geometry, tensors: Mapping[str, Integers], at: str) -> Integers:
    """Return a step gate's row, a bit a field [1, bits]."""
    parts = ((tensors[f"{at}.weight"], g.weight_bits), (tensors[f"{at}.threshold"], g.gate_bits))
    return np.concatenate([spread_bits(values, bits).reshape(1, -1) for values, bits in parts], axis=1)


def _unpack_gate(g: Geometry, row: Integers, at: str) -> dict[str, Integers]:
    """Undo `_pack_gate`: bits [bits] -> tensors."""
    weight, threshold = np.split(row, [g.group * g.weight_bits])
    return {
        f"{at}.weight": gather_bits(weight.reshape(-1, g.weight_bits), signed=True),
        f"{at}.threshold": gather_bits(threshold.reshape(-1, g.gate_bits), signed=True),
    }


def _field_bits(g: Geometry) -> dict[str, int]:
    """Return the width of the fields that a row of each writable section is made of."""
    return {
        "weights": g.weight_bits,
        "taps": g.weight_bits,
        "dendrites": 1,
        "phase": 1,
        "gates": 1,
        "channels": channel_bits(g),
        "embed": g.dense_weight_bits,
        "head": g.dense_weight_bits,
        "head_bias": HEAD_BIAS_BITS + HEAD_SHIFT_BITS,
        "table": 16,
    }


def unpack(g: Geometry, sections: Mapping[str, Words], registers: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """Return the policy tensors that loaded words hold, int64, as a circuit of geometry `g` reads them."""
    memory, bits = memory_map(g), _field_bits(g)

    def fields(name: str, signed: bool = True) -> Integers:
        return unpack_rows(sections[name], bits[name], memory[name], signed)

    d, inputs, actions = g.d_model, registers["INPUT_COUNT"], registers["ACTION_COUNT"]
    head_bias = fields("head_bias", signed=False)[:actions, 0]
    low = head_bias & ((1 << HEAD_BIAS_BITS) - 1)
    tensors: dict[str, NDArray[Any]] = {
        "entry.threshold": np.array([registers["ENTRY_THRESHOLD"]]),
        "embed.weight": fields("embed").reshape(g.groups, -1, g.group).transpose(0, 2, 1).reshape(d, -1)[:, :inputs],
        "head.weight": unpack_head(g, sections["head"], actions),
        "head.bias": low - ((low >> (HEAD_BIAS_BITS - 1)) << HEAD_BIAS_BITS),
        "head.shift": head_bias >> HEAD_BIAS_BITS,
        "head.table": fields("table")[:, 0],
    }

    rows, start = fields("weights"), 0
    for name, count in _weight_blocks(g):
        block = rows[start : start + count]
        start += count
        if name.endswith("fc1.weight"):
            block = block.reshape(g.mlp_ratio, d, d).transpose(0, 2, 1).reshape(g.d_mlp, d)
            tensors[name] = block
        else:
            tensors[name] = block.T

    if "taps" in memory:
        taps = fields("taps").reshape(g.layers, g.window, d)
        for layer in range(g.layers):
            tensors[f"layer{layer}.window.weight"] = taps[layer].T
    if "dendrites" in memory:
        for layer, dendrites in enumerate(np.split(fields("dendrites", signed=False), g.layers)):
            tensors |= unpack_dendrites(g, dendrites, f"layer{layer}.dynamics")

    if "phase" in memory:
        codes = fields("phase", signed=False)
        by_layer = codes.reshape(g.layers, -1, g.heads)
        if g.phase_over == "steps":
            by_layer = codes.reshape(g.layers, g.heads, g.steps).swapaxes(1, 2)
        for layer in range(g.layers):
            tensors[f"layer{layer}.phase.bits"] = by_layer[layer]
    if "gates" in memory:
        for layer, gate in enumerate(fields("gates", signed=False)):
            tensors |= _unpack_gate(g, gate, f"layer{layer}.gate")

    channels = fields("channels", signed=False).reshape(-1, d)
    low = channels & ((1 << g.bias_bits) - 1)
    bias = low - ((low >> (g.bias_bits - 1)) << g.bias_bits)
    second = channels >> g.bias_bits
    for span, bias_name, second_name in _channel_spans(g):
        if bias_name:
            tensors[bias_name] = bias[span].reshape(-1)
        tensors[second_name] = second[span].reshape(-1)
    return tensors
