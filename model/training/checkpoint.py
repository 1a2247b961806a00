# SPDX-License-Identifier: MIT
"""Training results on disk: a network's state with all that is needed to rebuild, evaluate and export it."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model import files
from model.data.offline import Normaliser
from model.integer.fold import quantise
from model.network import baselines
from model.network.baselines import Baseline
from model.network.layers import float_network
from model.network.network import Network
from model.training.config import TrainConfig


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says why and what to do."""


def build(config: TrainConfig, inputs: int, actions: int, quantised: bool) -> Network | Baseline:
    """Return a network of the configuration's shape, its state still to be loaded or trained.

    A baseline is as wide as brings it nearest to the parameters of the spiking network it is compared with.
    """
    network = float_network(config.geometry, inputs, actions, config.structure, config.norm)
    if config.network != "spiking":
        budget = baselines.parameters(network)
        return baselines.build(config.network, config.geometry.layers, inputs, actions, config.length, budget)
    return integers(network, config, inputs, actions) if quantised else network


def integers(network: Network, config: TrainConfig, inputs: int, actions: int) -> Network:
    """Return the integer network nearest to a float one, by the configuration's number format."""
    scale = input_scale(config, inputs, actions)
    return quantise(network, scale, config.fraction_bits, config.symmetric_weights)


def input_scale(config: TrainConfig, inputs: int, actions: int) -> torch.Tensor:
    """Return the integer steps per unit of each token component [inputs]."""
    observations = inputs - actions - 1
    scales = [config.observation_scale] * observations + [config.action_scale] * actions + [config.to_go_scale]
    return torch.tensor(scales)


@dataclass
class Checkpoint:
    """A training result, or the middle of a run.

    facts : data set, digest, environment, command line and versions. progress : optimiser and random states to resume,
    empty in a result.
    """

    config: TrainConfig
    network: Network | Baseline
    normaliser: Normaliser
    facts: dict[str, Any]
    progress: dict[str, Any]

    @property
    def actions(self) -> int:
        """Components of the environment's action."""
        return int(self.facts["actions"])

    def save(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all. Raises `CheckpointError`."""
        content = io.BytesIO()
        torch.save(
            {
                "config": self.config.to_json(),
                "quantised": self.network.quantised,
                "state": self.network.state_dict(),
                "mean": self.normaliser.mean.tolist(),
                "std": self.normaliser.std.tolist(),
                "facts": self.facts,
                "progress": self.progress,
            },
            content,
        )
        try:
            files.save(path, lambda partial: partial.write_bytes(content.getbuffer()))
        except files.WriteError as error:
            raise CheckpointError(str(error)) from None

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read a checkpoint. Raises `CheckpointError`."""
        if not path.is_file():
            raise CheckpointError(f"there is no checkpoint {path}; train one with `python -m model.train`")
        try:
            content = torch.load(path, weights_only=True, map_location="cpu")
        except Exception:  # of bytes that are no checkpoint it raises many things, and advises to trust them
            raise CheckpointError(
                f"{path} is no usable checkpoint: cut off, damaged or another kind of file; copy or train it again"
            ) from None
        try:
            config = TrainConfig.from_json(content["config"])
            normaliser = Normaliser(np.array(content["mean"]), np.array(content["std"]), config.return_scale)
            facts = content["facts"]
            network = build(config, len(content["mean"]) + facts["actions"] + 1, facts["actions"], content["quantised"])
            network.load_state_dict(content["state"])
            return cls(config, network, normaliser, facts, content["progress"])
        except KeyError as error:
            raise CheckpointError(f"{path} is no usable checkpoint: it lacks {error}") from None
        except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{path} is no usable checkpoint: {str(error).splitlines()[0]}") from None


def state_digest(network: Network | Baseline) -> str:
    """SHA-256 over a network's parameters and buffers, hexadecimal: says which network a score belongs to."""
    state = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        state.update(name.encode())
        state.update(tensor.contiguous().numpy().tobytes())
    return state.hexdigest()
