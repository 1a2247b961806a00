# SPDX-License-Identifier: MIT
"""A policy as a graph of the Neuromorphic Intermediate Representation, NIR (docs/nir.md has every node's equation).

Spikes, membranes and the window's AND over tokens are NIR's own nodes. What NIR has no node for (floor, saturation, the
action table) is metadata of the node it belongs to.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model import files
from model.deployed.artifact import Policy

if TYPE_CHECKING:
    import nir

FORMAT = "spikeloop-nir-1"
DT = 0.75
"""Time between two SNN steps, in units of the neurons' tau: a forward Euler step then keeps a quarter."""
REFUSED = {
    "sssa": "its current is a count of matches times a spike",
    "tssa": "its current is a count of matches times a spike",
    "lrf-dyn": "its dendrites round and saturate inside their own loop",
}


class NirError(ValueError):
    """A policy that NIR cannot express, or no NIR here; the message says why and what to do."""


def require_nir() -> Any:
    """Return the package `nir`. Raises `NirError` where it is missing."""
    try:
        import nir
    except ModuleNotFoundError as missing:
        raise NirError(f"the Python package {missing.name} is missing; `pip install '.[nir]'`") from None
    return nir


class _Builder:
    """Nodes and edges as they come."""

    def __init__(self, policy: Policy, nir: Any) -> None:
        self.nir, self.geometry = nir, policy.geometry
        self.tensors = {name: tensor.astype(np.float64) for name, tensor in policy.tensors.items()}
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []

    def add(self, name: str, node: Any, *sources: str) -> str:
        """Add a node that reads the sum of its sources."""
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return name

    def affine(self, name: str, tensors: str, source: str) -> str:
        """Add a spiking or residual linear, the left shift of the latter inside its weights."""
        shift = self.tensors.get(f"{tensors}.shift", np.zeros(1))
        weight = self.tensors[f"{tensors}.weight"] * 2.0 ** shift[:, None]
        return self.add(name, self.nir.Affine(weight, self.tensors[f"{tensors}.bias"]), source)

    def neurons(self, name: str, threshold: NDArray[np.float64], *sources: str) -> str:
        """Add LIF neurons and what flushes them.

        Their v is 0.75 m, and their threshold 0.75 times ours and half a unit of 4**-(T-1) more: no membrane meets it.
        """
        g, one, zero = self.geometry, np.ones_like(threshold), np.zeros_like(threshold)
        at = DT * (threshold + 0.5 * 4.0 ** -(g.steps - 1))
        flush = "flush_mlp" if len(threshold) == g.d_mlp else "flush_model"
        return self.add(name, self.nir.LIF(one, one, zero, at, zero), *sources, flush)

    def both(self, name: str, *sources: str) -> str:
        """Add the AND of two spikes."""
        return self.add(name, self.nir.Threshold(np.full(self.geometry.d_model, 1.5)), *sources)

    def delayed(self, name: str, steps: int, source: str) -> str:
        """Add a delay by SNN steps, the flushing ones included."""
        return self.add(name, self.nir.Delay(np.full(self.geometry.d_model, DT * steps)), source)

    def residual(self, name: str, *sources: str) -> str:
        """Add residual membranes: the sum of the sources, saturated."""
        g = self.geometry
        limits = np.array([-(2.0 ** (g.membrane_bits - 1)), 2.0 ** (g.membrane_bits - 1) - 1])
        return self.add(name, self.nir.Scale(np.ones(g.d_model), metadata={"clip": limits}), *sources)


def to_nir(policy: Policy) -> "nir.NIRGraph":
    """Return the graph of a policy. Raises `NirError` where NIR cannot express it, or is missing."""
    g = policy.geometry
    if g.attention != "pssa":
        raise NirError(
            f"NIR cannot express the attention {g.attention}: {REFUSED[g.attention]}; export a policy with pssa"
        )
    if g.phase != "none":
        raise NirError("NIR cannot express phase codes: bits that depend on the time alone; export one with phase none")
    if g.routing != "none":
        raise NirError("NIR cannot express routing: gains that a count of spikes chooses; export one with routing none")
    if g.adaptive:
        raise NirError(
            "NIR cannot express step gates: no node lets what neurons do depend on a count of steps chosen per token; "
            "export a policy without"
        )
    nir = require_nir()
    build = _Builder(policy, nir)
    p, inputs = build.tensors, policy.input_size
    shape = {"input": np.array([inputs + 1])}
    build.add("input", nir.Input(shape, metadata=_input_facts(policy)))
    for name, width in (("flush_model", g.d_model), ("flush_mlp", g.d_mlp)):
        # more than any other current and threshold together
        flush = np.pad(np.full((width, 1), 2.0 ** (g.current_bits + 1)), ((0, 0), (inputs, 0)))
        build.add(name, nir.Linear(flush), "input")
    weight = np.pad(p["embed.weight"] * 2.0 ** -p["embed.shift"][:, None], ((0, 0), (0, 1)))
    build.add("embed", nir.Affine(weight, p["embed.bias"], metadata={"floor": 1}), "input")
    x = build.residual("embed_membrane", "embed")
    for layer in range(g.layers):
        x = _layer(build, layer, x)
    late = [build.delayed(f"{x}_{step}", step, x) for step in range(1, g.steps)]
    entries, scale = len(p["head.table"]), 2.0 ** -p["head.shift"]
    rounded = {"floor": 1, "clip": np.array([0.0, entries - 1.0])}
    head = nir.Affine(p["head.weight"] * scale[:, None], p["head.bias"] * scale + entries // 2, metadata=rounded)
    build.add("head", head, x, *late)
    table = {"table": policy.tensors["head.table"].astype(np.int16)}
    build.add("output", nir.Output({"output": np.array([policy.action_size])}, metadata=table), "head")
    facts = {
        "format": FORMAT,
        "policy_digest": policy.digest,
        "environment": policy.environment,
        "geometry": g.to_json(),
        "dt": DT,
        "steps": g.steps,
    }
    return nir.NIRGraph(build.nodes, build.edges, metadata=facts)


def _layer(build: _Builder, layer: int, x: str) -> str:
    """Add a layer behind the residual membranes `x`; return its own."""
    g, p, at, own = build.geometry, build.tensors, f"layer{layer}_", f"layer{layer}."
    threshold = np.broadcast_to(p["entry.threshold"], (g.d_model,))

    def spiking(name: str, source: str) -> str:
        current = build.affine(f"{at}{name}_current", f"{own}{name}", source)
        return build.neurons(f"{at}{name}", p[f"{own}{name}.threshold"], current)

    entry = build.neurons(f"{at}entry", threshold, x)
    key, value, query = (spiking(name, entry) for name in g.projections)
    both = build.both(f"{at}both", key, value)
    currents = []
    for distance, tap in enumerate(p[f"{own}window.weight"].T):
        past = build.delayed(f"{at}both_{distance}", distance * (g.steps + 1), both) if distance else both
        met = build.both(f"{at}tap_{distance}", query, past)
        currents.append(build.add(f"{at}tap_{distance}_current", build.nir.Scale(tap), met))
    window = build.neurons(f"{at}window", p[f"{own}window.threshold"], *currents)
    x = build.residual(f"{at}proj_membrane", x, build.affine(f"{at}proj", f"{own}proj", window))
    hidden = spiking("fc1", build.neurons(f"{at}mlp", threshold, x))
    return build.residual(f"{at}fc2_membrane", x, build.affine(f"{at}fc2", f"{own}fc2", hidden))


def _input_facts(policy: Policy) -> dict[str, Any]:
    """Return what makes a token of an observation, a previous action and a return-to-go (docs/numbers.md)."""
    return {
        "mean": policy.input_mean,
        "std": policy.input_std,
        "scale": policy.input_scale,
        "bits": policy.geometry.input_bits,
        "return_scale": float(policy.return_scale),
        "target_return": float(policy.target_return),
    }


def save(graph: "nir.NIRGraph", path: Path) -> None:
    """Write a graph, whole or not at all. Raises `files.WriteError`."""
    nir = require_nir()
    files.save(path, lambda partial: nir.write(partial, graph))
