# SPDX-License-Identifier: MIT
"""LRF-Dyn's memories as bits: a row per channel of its parameters, and of its state."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from host.bits import Integers, gather_bits, spread_bits
from model.deployed.geometry import Geometry


def _fields(g: Geometry) -> dict[str, tuple[int, bool]]:
    """Return name -> (bits, signed) of a dendrite's parameters, in the order of their bits."""
    code = (1 + g.dendrite_shift_bits, True)
    return {
        "decay": (g.dendrite_shift_bits, False),
        "upper": code,
        "lower": code,
        "readout": code,
        "gain": (g.gain_bits, True),
    }


def pack_dendrites(g: Geometry, t: Mapping[str, Integers], at: str) -> Integers:
    """Return the parameters of a layer's channels as bits [d_model, bits].

    `upper` has no code for the last dendrite of a channel, `lower` none for the first: theirs are 0.
    """
    whole = {"upper": np.pad(t[f"{at}.upper"], ((0, 0), (0, 1))), "lower": np.pad(t[f"{at}.lower"], ((0, 0), (1, 0)))}
    whole |= {name: t[f"{at}.{name}"] for name in ("decay", "readout", "gain")}
    each = [spread_bits(whole[name], bits) for name, (bits, _) in _fields(g).items()]
    dendrites = np.concatenate(each, axis=2).reshape(g.d_model, -1)
    local = spread_bits(t[f"{at}.local"], g.weight_bits).reshape(g.d_model, -1)
    return np.concatenate([dendrites, local], axis=1)


def unpack_dendrites(g: Geometry, channels: Integers, at: str) -> dict[str, Integers]:
    """Undo `pack_dendrites`: bits [d_model, bits] -> tensors."""
    taps = len(g.local_distances) * g.weight_bits
    dendrites, local = channels[:, :-taps].reshape(g.d_model, g.dendrites, -1), channels[:, -taps:]
    tensors, start = {}, 0
    for name, (bits, signed) in _fields(g).items():
        tensors[name] = gather_bits(dendrites[:, :, start : start + bits], signed)
        start += bits
    tensors["upper"], tensors["lower"] = tensors["upper"][:, :-1], tensors["lower"][:, 1:]
    tensors["local"] = gather_bits(local.reshape(g.d_model, -1, g.weight_bits), True)
    return {f"{at}.{name}": tensor for name, tensor in tensors.items()}


def pack_state(g: Geometry, x: Integers, values: NDArray[np.bool_]) -> Integers:
    """Return a layer's state as bits [d_model, bits].

    x [steps, d_model, dendrites]; values [tokens, steps, d_model], newest first, up to `reach` of them.
    """
    spikes = np.zeros((g.d_model, g.reach, g.steps), np.int64)
    spikes[:, : len(values)] = np.moveaxis(values, -1, 0)
    dendrites = spread_bits(x.swapaxes(0, 1), g.dendrite_bits)
    return np.concatenate([each.reshape(g.d_model, -1) for each in (dendrites, spikes)], axis=1)


def unpack_state(g: Geometry, state: Integers) -> tuple[Integers, NDArray[np.bool_]]:
    """Undo `pack_state`, of all layers: bits [layers * d_model, bits] -> x [layers, steps, d_model, dendrites] and
    values [layers, reach, steps, d_model].
    """
    spikes = g.reach * g.steps
    x = state[:, :-spikes].reshape(g.layers, g.d_model, g.steps, g.dendrites, -1)
    values = state[:, -spikes:].reshape(g.layers, g.d_model, g.reach, g.steps)
    return gather_bits(x, True).swapaxes(1, 2), np.moveaxis(values, 1, -1).astype(np.bool_)
