# SPDX-License-Identifier: MIT
"""Random policies and tokens: every tensor over its useful range, so that equality is checked off the beaten path."""

import numpy as np

from model.deployed.artifact import Policy, tensor_ranges
from model.deployed.geometry import Geometry

USUAL_BITS = 16
"""Of a sum: policies of geometries with wider ones reach beyond."""


def random_policy(
    geometry: Geometry, seed: int, observation_size: int | None = None, action_size: int | None = None
) -> Policy:
    """Draw a policy whose neurons fire neither never nor always, and whose membranes sometimes saturate."""
    rng = np.random.default_rng(seed)
    observations = observation_size or geometry.observation_size
    actions = action_size or geometry.action_size
    inputs = observations + actions + 1
    tensors = {}
    weight_rms = (1 << (geometry.weight_bits - 1)) / 3**0.5
    for name, (shape, low, high) in tensor_ranges(geometry, inputs, actions).items():
        part = name.split(".")[-1]
        # what a quarter of the inputs spiking adds up to, usually
        usual_sum = weight_rms * (geometry.d_model / 4) ** 0.5
        if name.endswith("gate.threshold"):
            # about as far apart as the sums of random membranes are
            tensors[name] = np.sort(rng.integers(low // 64, high // 64 + 1, shape))
        elif name.endswith("window.weight"):
            # more taps excite than inhibit, or hardly anything would pass the three-fold AND
            tensors[name] = np.maximum(rng.integers(low, high + 1, shape), rng.integers(low, high + 1, shape))
        elif part == "weight" and (low, high) == (-2, 1):
            # equally likely, they would add up to silence
            tensors[name] = rng.choice(np.arange(-2, 2), shape, p=(0.1, 0.2, 0.3, 0.4))
        elif name.endswith(("dynamics.upper", "dynamics.lower")):
            # around the leak of the dendrite they act on: some settle, some grow until they saturate
            leak = tensors[f"{name.split('.')[0]}.dynamics.decay"][:, : shape[1]]
            size = np.clip(leak + rng.integers(0, 6, shape), 1, high)
            tensors[name] = size * rng.integers(-1, 2, shape)
        elif part == "decay":
            tensors[name] = rng.integers(0, 9, shape)
        elif part in ("weight", "table", "gain", "local", "readout"):
            tensors[name] = rng.integers(low, high + 1, shape)
        elif name.endswith("routing.threshold"):
            tensors[name] = rng.integers(low, high // 2 + 1, shape)
        elif name.endswith("window.threshold"):
            tensors[name] = rng.integers(0, 2 + _usual_attention(geometry), shape)
        elif name.endswith(("key.threshold", "value.threshold", "query.threshold")):
            tensors[name] = rng.integers(0, 2 + round(usual_sum * rng.uniform(0.05, 0.3)), shape)
        elif part == "threshold":
            tensors[name] = np.minimum(rng.integers(0, 2 + round(usual_sum * rng.uniform(0.2, 1.5)), shape), high)
        elif part == "bias":
            tensors[name] = rng.integers(-round(usual_sum), round(usual_sum) + 1, shape)
        elif part == "bits":
            tensors[name] = rng.integers(low, high + 1, shape)
        elif part == "current":
            tensors[name] = rng.integers(low // 4, high // 4 + 1, shape)
        elif name == "embed.shift":
            usual = geometry.embed_bits - geometry.membrane_bits
            tensors[name] = np.minimum(rng.integers(max(0, usual - 3), max(1, usual) + 1, shape), high)
        elif name == "head.shift":
            usual = geometry.head_bits - geometry.table_log2
            tensors[name] = rng.integers(max(0, usual - 8), max(1, usual - 4) + 1, shape)
        else:  # residual shift
            tensors[name] = rng.integers(0, 4, shape)
    if geometry.pass_bits > USUAL_BITS:
        _reach_far(geometry, tensors)
    tensors["entry.threshold"] = rng.integers(1, max(2, 1 << (geometry.membrane_bits - 4)), (1,))
    return Policy(
        geometry=geometry,
        tensors=tensors,
        input_mean=rng.normal(size=observations),
        input_std=rng.uniform(0.5, 2.0, observations),
        input_scale=np.full(inputs, 2.0 ** (geometry.input_bits - 3)),
        environment="random",
        target_return=1000.0,
        return_scale=1000.0,
        provenance={"seed": seed},
    )


def _reach_far(g: Geometry, tensors: dict[str, np.ndarray]) -> None:
    """Make every other channel's sums, biases and thresholds outgrow `USUAL_BITS`.

    A bias and its threshold move by the same, so a neuron's first step fires as often as before. Half of fc2's outputs
    have weights that are nearly the greatest, and a bias that takes off a third of what they can add up to.
    """
    lowest, far = -(1 << (g.bias_bits - 1)), (1 << (USUAL_BITS - 1)) * 3 // 2
    for name, tensor in tensors.items():
        spiking = name.endswith(".bias") and name.replace(".bias", ".threshold") in tensors
        if spiking:
            tensor[::2] += far
            threshold = tensors[name.replace(".bias", ".threshold")]
            threshold[::2] += far
        elif name.endswith("fc2.weight"):
            most = (1 << (g.weight_bits - 1)) - 1
            tensor[::2] = most - np.abs(tensor[::2]) // 8
            tensors[name.replace(".weight", ".bias")][::2] = max(lowest, -(most * g.d_mlp) // 3)


def _usual_attention(g: Geometry) -> int:
    """Return about the largest threshold that a current of the attention still passes now and then."""
    matches = g.d_model // g.heads * g.window
    usual = {"sssa": matches // 24, "tssa": g.steps * matches // 24, "lrf-dyn": 1 << 6}
    return usual.get(g.attention, 0)


def random_tokens(policy: Policy, count: int, seed: int) -> np.ndarray:
    """Draw `count` quantised tokens [count, inputs], the extremes included."""
    rng = np.random.default_rng(seed)
    limit = 1 << (policy.geometry.input_bits - 1)
    tokens = np.rint(rng.normal(0, limit / 3, (count, policy.input_size))).astype(np.int64)
    extremes = rng.random(tokens.shape) < 0.03
    tokens[extremes] = rng.choice([-limit, limit - 1], extremes.sum())
    return np.clip(tokens, -limit, limit - 1)
