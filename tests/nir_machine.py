# SPDX-License-Identifier: MIT
"""A small interpreter of NIR graphs: each node by NIR's own definition, time in steps of dt by forward Euler, in numpy.

It knows nothing of spikeloop but the two metadata keys of docs/nir.md, "floor" and "clip".
"""

from graphlib import TopologicalSorter

import nir
import numpy as np


def run(graph: nir.NIRGraph, signal: np.ndarray, dt: float, extras: bool = True, fires=np.greater) -> dict:
    """Run from rest on a signal [time, inputs]; return every node's output [time, size].

    extras : whether to heed floor and clip. fires : NIR says greater.
    """
    sources = {name: [] for name in graph.nodes}
    for source, target in graph.edges:
        sources[target].append(source)
    outputs = {}
    # no loops, so one node after the other can run through all of time
    for name in TopologicalSorter(sources).static_order():
        node = graph.nodes[name]
        current = signal if isinstance(node, nir.Input) else sum(outputs[source] for source in sources[name])
        result = _node(node, current, dt, fires)
        if extras and node.metadata.get("floor"):
            result = np.floor(result)
        if extras and "clip" in node.metadata:
            result = np.clip(result, *node.metadata["clip"])
        outputs[name] = result
    return outputs


def _node(node: nir.NIRNode, current: np.ndarray, dt: float, fires) -> np.ndarray:
    match node:
        case nir.Input() | nir.Output():
            return current
        case nir.Affine():
            return current @ node.weight.T + node.bias
        case nir.Linear():
            return current @ node.weight.T
        case nir.Scale():
            return current * node.scale
        case nir.Threshold():
            return fires(current, node.threshold).astype(float)
        case nir.Delay():
            return _delayed(current, node.delay, dt)
        case nir.LIF():
            return _lif(node, current, dt, fires)
    raise TypeError(f"no rule for NIR's {type(node).__name__}")


def _delayed(current: np.ndarray, delay: np.ndarray, dt: float) -> np.ndarray:
    steps = delay / dt
    assert (steps == steps[0]).all()
    assert steps[0] == int(steps[0])
    late = np.zeros_like(current)
    late[int(steps[0]) :] = current[: len(current) - int(steps[0])]
    return late


def _lif(node: nir.LIF, current: np.ndarray, dt: float, fires) -> np.ndarray:
    """tau dv/dt = (v_leak - v) + r I; spike and reset where v exceeds its threshold."""
    v, spikes = np.zeros(len(node.tau)), np.zeros_like(current)
    for t, drive in enumerate(current):
        v = v + dt / node.tau * ((node.v_leak - v) + node.r * drive)
        spikes[t] = fires(v, node.v_threshold)
        v = np.where(spikes[t], node.v_reset, v)
    return spikes
