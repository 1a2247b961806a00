# SPDX-License-Identifier: MIT
"""What a circuit must do, by the PyTorch evaluation mode. The only file here that imports torch."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model.deployed.artifact import Policy
from model.deployed.golden import GoldenNetwork, signature
from model.deployed.golden_attention import Attention
from model.integer.fold import from_policy
from model.network.network import Record

torch.set_num_threads(1)


@dataclass(frozen=True)
class Expected:
    """One decision of PyTorch's, as the circuit shows it."""

    words: NDArray[np.int64]  # [actions]
    membranes: NDArray[np.int64]  # [signatures, steps, d_model]
    signatures: list[int]
    kept: NDArray[np.bool_]  # what the rings keep of this token [layers, kept, steps, d_model]
    layer_rows: list[int]
    unit_rows: dict[str, int]
    saturations: int
    activity: float  # share of spikes

    @property
    def residual(self) -> NDArray[np.int64]:
        """The residual membranes at the end [steps, d_model]."""
        return self.membranes[-1]


class Reference:
    """A policy in PyTorch, one token at a time; `batch` episodes side by side see `decide_all`."""

    def __init__(self, policy: Policy, batch: int = 1) -> None:
        self.geometry = policy.geometry
        self._network = from_policy(policy)
        self._batch = batch
        # counts clipped membranes, which the PyTorch network does not; its words are checked against PyTorch's too
        self._golden = GoldenNetwork(policy)
        self.begin()

    @property
    def attention(self) -> list[Attention]:
        """What each layer's attention keeps, as golden has it; its currents are PyTorch's."""
        return self._golden.attention

    def begin(self) -> None:
        """Begin an episode."""
        self._stream = self._network.stream(self._batch)
        self._golden.reset()

    def decide_all(self, tokens: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Advance all by tokens [batch, inputs] -> words [batch, actions], last membranes [batch, steps, d_model]."""
        record = Record()
        actions = self._stream.decide(torch.from_numpy(tokens), record)
        words = np.rint(actions.double().numpy() * 2**15).astype(np.int64)
        return words, record.membranes[-1].double().numpy().astype(np.int64).swapaxes(0, 1)

    def decide(self, token: NDArray[np.int64]) -> Expected:
        """Advance by one quantised token [inputs]."""
        g, record = self.geometry, Record()
        actions = self._stream.decide(torch.from_numpy(np.asarray(token, np.int64))[None], record)
        scaled = actions[0].double().numpy() * 2**15
        words = scaled.astype(np.int64)
        assert (words == scaled).all()
        membranes = np.stack([m[:, 0].double().numpy() for m in record.membranes])
        integers = membranes.astype(np.int64)
        assert (integers == membranes).all()
        spikes = {name: s[:, 0].numpy().astype(np.bool_) for name, s in record.spikes.items()}
        signatures, running = [], 0
        for membrane in integers:
            running = signature(running, membrane, g.membrane_bits, g.group)
            signatures.append(running)

        def rows(layer: int, part: str) -> int:
            return int(spikes[f"layer{layer}.{part}"].any(axis=0).sum())

        def kept(layer: int) -> NDArray[np.bool_]:
            key, value = (spikes[f"layer{layer}.{part}"] for part in ("key", "value"))
            return np.stack([key & value] if g.attention == "pssa" else [key, value])

        by_layer = [
            {
                "QKV": len(g.projections) * rows(layer, "entry"),
                "PROJ": rows(layer, "window"),
                "FC1": g.mlp_ratio * rows(layer, "mlp"),
                "FC2": rows(layer, "fc1"),
            }
            for layer in range(g.layers)
        ]
        trace = self._golden.decide(np.asarray(token, np.int64))
        assert (trace.action == words).all()
        return Expected(
            words=words,
            membranes=integers,
            signatures=signatures,
            kept=np.stack([kept(layer) for layer in range(g.layers)]),
            layer_rows=[sum(units.values()) for units in by_layer],
            unit_rows={unit: sum(units[unit] for units in by_layer) for unit in by_layer[0]},
            saturations=trace.saturations,
            activity=float(np.mean([s.mean() for s in spikes.values()])),
        )
