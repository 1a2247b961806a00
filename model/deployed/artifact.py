# SPDX-License-Identifier: MIT
"""The policy artifact: one safetensors file with integers, normalisation, provenance and a digest over all of it."""

import contextlib
import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.deployed.geometry import Geometry, GeometryError

FORMAT = "spikeloop-policy-1"
ACTION_SCALE = 1 << 15
"""An action word over this is the action in -1..1 (the table holds int16)."""


class ArtifactError(ValueError):
    """An artifact that cannot be used; the message says why and what to do."""


def tensor_ranges(g: Geometry, inputs: int, actions: int) -> dict[str, tuple[tuple[int, ...], int, int]]:
    """Return name -> (shape, lowest, highest) of every integer tensor of a policy.

    `inputs` = observation + action + 1 and `actions` are the policy's own sizes, at most the geometry's.
    """

    def signed(bits: int) -> tuple[int, int]:
        return -(1 << (bits - 1)), (1 << (bits - 1)) - 1

    weight, dense = signed(g.weight_bits), signed(g.dense_weight_bits)
    # an embedding or residual bias is in membrane units, a spiking bias in accumulator units
    bias, threshold = signed(g.bias_bits), (0, (1 << g.threshold_bits) - 1)
    d, h = g.d_model, g.d_mlp
    table: dict[str, tuple[tuple[int, ...], int, int]] = {
        "embed.weight": ((d, inputs), *dense),
        "embed.shift": ((d,), 0, (1 << g.embed_shift_bits) - 1),
        "embed.bias": ((d,), *bias),
        "entry.threshold": ((1,), 0, (1 << (g.membrane_bits - 1)) - 1),
        "head.weight": ((actions, d), *dense),
        "head.shift": ((actions,), 0, 31),
        "head.bias": ((actions,), *signed(g.head_bits - 1)),
        "head.table": ((1 << g.table_log2,), *signed(16)),
    }
    for layer in range(g.layers):
        for name, outputs in (*((name, d) for name in g.projections), ("fc1", h)):
            table[f"layer{layer}.{name}.weight"] = ((outputs, d), *weight)
            table[f"layer{layer}.{name}.bias"] = ((outputs,), *bias)
            table[f"layer{layer}.{name}.threshold"] = ((outputs,), *threshold)
        table |= {f"layer{layer}.{name}": entry for name, entry in _attention_ranges(g).items()}
        if g.adaptive:
            table[f"layer{layer}.gate.weight"] = ((g.group,), *weight)
            table[f"layer{layer}.gate.threshold"] = ((g.steps - 1,), *signed(g.gate_bits))
        table[f"layer{layer}.window.threshold"] = ((d,), *threshold)
        if g.phase != "none":
            table[f"layer{layer}.phase.bits"] = ((g.phase_times, g.heads), 0, 1)
        if g.routing == "count":
            table[f"layer{layer}.routing.threshold"] = ((2, g.heads), -1, g.largest_query_count)
        if g.phase == "input":
            table[f"layer{layer}.phase.current"] = ((d,), *signed(g.membrane_bits))
        for name, fan_in in (("proj", d), ("fc2", h)):
            table[f"layer{layer}.{name}.weight"] = ((d, fan_in), *weight)
            table[f"layer{layer}.{name}.shift"] = ((d,), 0, (1 << g.residual_shift_bits) - 1)
            table[f"layer{layer}.{name}.bias"] = ((d,), *bias)
    return table


def _attention_ranges(g: Geometry) -> dict[str, tuple[tuple[int, ...], int, int]]:
    """Return the ranges of what an attention has beside its threshold; SSSA and TSSA have nothing."""
    d, k, low = g.d_model, g.dendrites, -(1 << (g.weight_bits - 1))
    if g.attention == "pssa":
        return {"window.weight": ((d, g.window), low, -low - 1)}
    if g.attention != "lrf-dyn":
        return {}
    most, gain = (1 << g.dendrite_shift_bits) - 1, 1 << (g.gain_bits - 1)
    # codes: 0 for nothing, else a sign times 1 plus a right shift
    readout = most - g.least_readout_shift + 1
    return {
        "dynamics.decay": ((d, k), 0, most),
        "dynamics.upper": ((d, k - 1), -most, most),
        "dynamics.lower": ((d, k - 1), -most, most),
        "dynamics.gain": ((d, k), -gain, gain - 1),
        "dynamics.readout": ((d, k), -readout, readout),
        "dynamics.local": ((d, len(g.local_distances)), low, -low - 1),
    }


def _storage(low: int, high: int) -> "type[np.signedinteger[Any]]":
    for dtype in (np.int8, np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return dtype
    raise ArtifactError(f"no storage type holds {low}..{high}")


@dataclass(frozen=True)
class Policy:
    """A deployable policy.

    tensors : integers, names and ranges of `tensor_ranges`.
    input_mean, input_std : float64 [observation], raw observation units.
    input_scale : float64 [observation + action + 1], integer steps per unit of a normalised token component.
    return_scale : environment return per unit of the token's return-to-go.
    provenance : JSON-able facts: environment, data set, digests, training command, seeds, scores, versions.
    discrete : whether it was trained to choose (the largest action component), or for continuous actions; None where
    the artifact does not say, as those from before this was recorded.
    """

    geometry: Geometry
    tensors: dict[str, NDArray[Any]]
    input_mean: NDArray[np.float64]
    input_std: NDArray[np.float64]
    input_scale: NDArray[np.float64]
    environment: str
    target_return: float
    return_scale: float
    provenance: dict[str, Any] = field(default_factory=dict)
    discrete: bool | None = None

    def __post_init__(self) -> None:
        g = self.geometry
        if self.observation_size > g.observation_size or self.action_size > g.action_size:
            raise ArtifactError(
                f"the policy has {self.observation_size} observations and {self.action_size} actions, more than its "
                f"geometry's {g.observation_size} and {g.action_size}"
            )
        if g.attention == "lrf-ssa":
            raise ArtifactError("lrf-ssa has no integer form; choose pssa, sssa, tssa or lrf-dyn")
        if g.routing == "mlp":
            raise ArtifactError("routing mlp has no integer form; choose count or none")
        expected = tensor_ranges(g, self.input_size, self.action_size)
        if set(expected) != set(self.tensors):
            odd = ", ".join(sorted(set(expected) ^ set(self.tensors)))
            raise ArtifactError(f"the policy's tensors are not those of its geometry; missing or unknown: {odd}")
        for name, (shape, low, high) in expected.items():
            tensor = self.tensors[name]
            if tensor.shape != shape:
                raise ArtifactError(f"{name} has shape {tensor.shape}, its geometry needs {shape}")
            if tensor.dtype.kind != "i" or tensor.min() < low or tensor.max() > high:
                raise ArtifactError(f"{name} must hold integers in {low}..{high}")
            if name.endswith("gate.threshold") and (np.diff(tensor.astype(np.int64)) < 0).any():
                raise ArtifactError(f"{name} must not descend: a step is live only where the one before is")
        for name in ("input_mean", "input_std", "input_scale"):
            if not np.isfinite(getattr(self, name)).all():
                raise ArtifactError(f"{name} holds a NaN or an infinity")
        if self.input_std.shape != self.input_mean.shape or (self.input_std <= 0).any():
            raise ArtifactError("input_std must be positive, one per observation component")
        if self.discrete is not None and type(self.discrete) is not bool:
            raise ArtifactError(f"discrete must be true or false, not {self.discrete!r}")

    @property
    def observation_size(self) -> int:
        """Components of the environment's observation."""
        return len(self.input_mean)

    @property
    def action_size(self) -> int:
        """Components of the environment's action."""
        return len(self.input_scale) - self.observation_size - 1

    @property
    def input_size(self) -> int:
        """Components of a token: observation, previous action, return-to-go."""
        return len(self.input_scale)

    @property
    def delayed(self) -> bool:
        """Whether it was trained with all reward at the end of an episode: its return-to-go then stays as asked."""
        return bool(self.provenance.get("config", {}).get("delayed"))

    def on(self, circuit: Geometry) -> "Policy":
        """Return the policy as a circuit of another geometry runs it: the same integers, packed for that one.

        A circuit whose head can learn runs a policy that knows nothing of it, too. Raises `ArtifactError` if the two
        differ in more than that and `Geometry.circuit_choices`.
        """
        choices = self.geometry.circuit_choices
        if self.geometry.plasticity is None:
            choices += ("plasticity",)
        if different := self.geometry.differences(circuit, but=choices):
            raise ArtifactError(
                f"the policy is of another geometry than the circuit (policy, circuit): {'; '.join(different)}; "
                "use a policy or a circuit of the other's geometry"
            )
        return dataclasses.replace(self, geometry=circuit)

    def score(self, kind: str) -> dict[str, Any] | None:
        """Return the first score inside of a kind of network, "float" or "quantised" (`model.evaluate`), or None."""
        return next((score for score in self.provenance.get("scores", []) if score["kind"] == kind), None)

    @property
    def digest(self) -> str:
        """SHA-256 over every tensor and every metadata field, hexadecimal."""
        tensors, metadata = self._contents()
        state = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
        for name in sorted(tensors):
            tensor = np.ascontiguousarray(tensors[name])
            state.update(f"{name}|{tensor.dtype.str}|{tensor.shape}|".encode())
            state.update(tensor.tobytes())
        return state.hexdigest()

    def _contents(self) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
        ranges = tensor_ranges(self.geometry, self.input_size, self.action_size)
        tensors: dict[str, NDArray[Any]] = {
            name: tensor.astype(_storage(*ranges[name][1:])) for name, tensor in self.tensors.items()
        }
        for name in ("input_mean", "input_std", "input_scale"):
            tensors[name] = getattr(self, name).astype(np.float64)
        metadata = {
            "format": FORMAT,
            "geometry": self.geometry.to_json(),
            "environment": self.environment,
            "target_return": repr(float(self.target_return)),
            "return_scale": repr(float(self.return_scale)),
            "provenance": json.dumps(self.provenance, sort_keys=True),
        }
        if self.discrete is not None:  # what says nothing keeps the digest it always had
            metadata["discrete"] = json.dumps(self.discrete)
        return tensors, metadata

    def save(self, path: Path) -> None:
        """Write the artifact, whole or not at all. Raises `ArtifactError`."""
        tensors, metadata = self._contents()
        write_tensors(path, tensors, metadata | {"digest": self.digest})

    @classmethod
    def load(cls, path: Path) -> "Policy":
        """Read and check an artifact. Raises `ArtifactError` if missing, truncated, edited or inconsistent."""
        tensors, metadata = read_tensors(path, "policy artifact", FORMAT, "python -m model.export")
        try:
            policy = cls(
                geometry=Geometry.from_json(metadata["geometry"]),
                input_mean=tensors.pop("input_mean"),
                input_std=tensors.pop("input_std"),
                input_scale=tensors.pop("input_scale"),
                tensors=tensors,
                environment=metadata["environment"],
                target_return=float(metadata["target_return"]),
                return_scale=float(metadata["return_scale"]),
                provenance=json.loads(metadata["provenance"]),
                discrete=json.loads(metadata.get("discrete", "null")),
            )
        except (KeyError, GeometryError, ArtifactError, ValueError) as error:
            raise ArtifactError(f"{path} is not a usable policy: {error}") from None
        if policy.digest != metadata.get("digest"):
            raise ArtifactError(f"{path} was edited or damaged: its digest does not match; copy or export it again")
        return policy


def write_tensors(path: Path, tensors: dict[str, NDArray[Any]], metadata: dict[str, str]) -> None:
    """Write an artifact's file, whole or not at all. Raises `ArtifactError`."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    partial = path.with_suffix(".partial")
    try:
        save_file(tensors, str(partial), metadata)
        partial.replace(path)
    except (SafetensorError, OSError) as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise ArtifactError(f"{path} cannot be written ({error}); make room there or choose another place") from None


def read_tensors(path: Path, what: str, form: str, maker: str) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return an artifact's tensors and metadata.

    what : for people. form : its format. maker : the command that makes one. Raises `ArtifactError`.
    """
    if not path.is_file():
        raise ArtifactError(f"there is no {what} at {path}; make one with `{maker}` or name another")
    from safetensors import SafetensorError, safe_open  # not at the top: a board may lack it and read no artifact

    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is no whole {what} ({error}); copy or make it again") from None
    if metadata.get("format") != form:
        raise ArtifactError(f"{path} is not a {what} of format {form}")
    return tensors, metadata


def quantise_token(policy: Policy, token: NDArray[np.float64]) -> NDArray[np.int64]:
    """Quantise a normalised token [..., inputs]: round to the input grid, clip to signed `input_bits`.

    Raises `ValueError` for a NaN or an infinity.
    """
    if not np.isfinite(token).all():
        raise ValueError("the observation holds a NaN or an infinity; the environment has diverged or is misread")
    limit = 1 << (policy.geometry.input_bits - 1)
    return np.clip(np.rint(token * policy.input_scale), -limit, limit - 1).astype(np.int64)
