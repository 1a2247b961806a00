# SPDX-License-Identifier: MIT
"""The proof, from the real weights, that no sum of a policy can leave its register in the circuit."""

import numpy as np

from model.deployed.geometry import Geometry
from model.deployed.golden_attention import shifted


class ExportError(ValueError):
    """A network that cannot be deployed; the message says where and why."""


def reach(weight: np.ndarray, low: int = 0, high: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return per row of weight [rows, n] the least and greatest sum over inputs that range over low..high.

    The partial sums of any order of adding, starting from 0, stay between the two (each includes 0).
    """
    extremes = np.stack([weight * low, weight * high])
    return np.minimum(extremes.min(0), 0).sum(1), np.maximum(extremes.max(0), 0).sum(1)


def _sum(extremes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and greatest sum of terms that lie between the ends [2, ...] or are absent."""
    return sum(np.minimum(e.min(0), 0) for e in extremes), sum(np.maximum(e.max(0), 0) for e in extremes)


def attention_reach(g: Geometry, tensors: dict[str, np.ndarray], at: str) -> tuple[np.ndarray, np.ndarray]:
    """Return per channel the least and greatest sum of the attention of layer `at`."""
    if g.attention == "pssa":
        return reach(tensors[f"{at}.window.weight"])
    if g.attention in ("sssa", "tssa"):
        # every channel of a head in which a query meets a key, in one step or in all, for each token of the window
        return np.zeros(1, np.int64), np.array([g.window * g.most_matches])
    top = 1 << (g.dendrite_bits - 1)
    code = np.asarray(tensors[f"{at}.dynamics.readout"], np.int64)
    ends = np.stack([shifted(np.array(end), code, g.least_readout_shift) for end in (-top, top - 1)])
    least, most = _sum(list(np.moveaxis(ends, -1, 0)))
    local_least, local_most = reach(np.asarray(tensors[f"{at}.dynamics.local"], np.int64) << g.local_shift)
    return least + local_least, most + local_most


def dendrite_reach(g: Geometry, tensors: dict[str, np.ndarray], at: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and greatest sum of each dendrite of layer `at` before it saturates."""
    top = 1 << (g.dendrite_bits - 1)
    p = {name: np.asarray(tensors[f"{at}.dynamics.{name}"], np.int64) for name in ("decay", "upper", "lower", "gain")}
    ends = [np.array(end) for end in (-top, top - 1)]
    return _sum(
        [
            np.stack([x - (x >> p["decay"]) for x in ends]),
            np.stack([np.pad(shifted(x, p["upper"]), ((0, 0), (0, 1))) for x in ends]),
            np.stack([np.pad(shifted(x, p["lower"]), ((0, 0), (1, 0))) for x in ends]),
            np.stack([0 * p["gain"], p["gain"]]),
        ]
    )


def prove(g: Geometry, tensors: dict[str, np.ndarray]) -> dict[str, int]:
    """Prove from the real weights that no accumulator, current or LIF membrane outgrows the geometry's widths.

    Returns what is needed -> signed bits, the greatest over channels. Raises `ExportError` naming the first layer that
    does not fit.
    """
    needed: dict[str, int] = {}

    def fits(what: str, name: str, least: np.ndarray, most: np.ndarray, bits: int) -> None:
        low, high = int(least.min()), int(most.max())
        need = 1 + max(high.bit_length(), (-low - 1).bit_length() if low < 0 else 0)
        if need > bits:
            raise ExportError(f"{name}: its {what} can reach {low}..{high}, which needs {need} bits; there are {bits}")
        needed[what] = max(needed.get(what, 0), need)

    def neuron(name: str, least: np.ndarray, most: np.ndarray) -> None:
        fits("current", name, least, most, g.current_bits)
        # |m| stays below 4/3 of the largest |u|; guard bits below the point
        bound = (4 * np.maximum(np.abs(least), np.abs(most)) + 2) // 3 << g.guard_bits
        fits("membrane of a neuron", name, -bound, bound, g.lif_bits)

    half = 1 << (g.input_bits - 1)
    fits("accumulator of the embedding", "embed", *reach(tensors["embed.weight"], -half, half - 1), g.embed_bits)
    top = 1 << (g.membrane_bits - 1)
    for layer in range(g.layers):
        if g.adaptive:
            gate = reach(tensors[f"layer{layer}.gate.weight"][None], -top, top - 1)
            fits("sum of a step gate", f"layer{layer}.gate", *gate, g.gate_bits)
        if g.attention == "lrf-dyn":
            dendrites = dendrite_reach(g, tensors, f"layer{layer}")
            fits("sum of a dendrite", f"layer{layer}.dynamics", *dendrites, g.dendrite_sum_bits)
        for part in (*g.projections, "window", "fc1", "proj", "fc2"):
            name = f"layer{layer}.{part}"
            attention = part == "window"
            least, most = (
                attention_reach(g, tensors, f"layer{layer}") if attention else reach(tensors[f"{name}.weight"])
            )
            fits("accumulator", name, least, most, g.attention_bits if attention else g.pass_bits)
            if part not in ("proj", "fc2"):
                bias = tensors.get(f"{name}.bias", 0)
                neuron(name, np.minimum(least + bias, 0), np.maximum(most + bias, 0))
    neuron("entry", np.array([-top]), np.array([top - 1]))
    for layer in range(g.layers if g.phase == "input" else 0):
        added = np.asarray(tensors[f"layer{layer}.phase.current"], np.int64)
        neuron(f"layer{layer}.entry", np.minimum(added, 0) - top, np.maximum(added, 0) + top - 1)
    least, most = reach(tensors["head.weight"], -top * g.steps, (top - 1) * g.steps)
    bias = tensors["head.bias"]
    fits("accumulator of the head", "head", least + np.minimum(bias, 0), most + np.maximum(bias, 0), g.head_bits)
    return needed
