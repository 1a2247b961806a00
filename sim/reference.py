# SPDX-License-Identifier: MIT
"""What a circuit must do, by the PyTorch evaluation mode. The only file here that imports torch."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from model.deployed.artifact import Policy
from model.deployed.golden import GoldenNetwork, signature
from model.deployed.golden_attention import Attention
from model.deployed.golden_plasticity import PlasticNetwork
from model.integer.fold import from_policy
from model.integer.quant_plasticity import QuantPlasticity
from model.network.network import Record

torch.set_num_threads(1)

HEAD = ("entry.threshold", "head.bias", "head.shift")


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
    """A policy in PyTorch, one token at a time; `batch` episodes side by side see `decide_all`.

    frozen : whether traces and weights of a head that learns stand still.
    """

    def __init__(self, policy: Policy, batch: int = 1) -> None:
        self.geometry = policy.geometry
        self._network = from_policy(policy)
        self._batch = batch
        # counts clipped membranes, which the PyTorch network does not; its words are checked against PyTorch's too
        rule = policy.geometry.plasticity
        self._golden = PlasticNetwork(policy) if rule else GoldenNetwork(policy)
        self._plasticity: QuantPlasticity | None = None
        if rule:
            weight = torch.from_numpy(policy.tensors["head.weight"].astype(np.int64))[None]
            self._plasticity = QuantPlasticity(rule, weight, policy.geometry.dense_weight_bits)
        self._policy, self.frozen = policy, False
        self.begin()

    @property
    def attention(self) -> list[Attention]:
        """What each layer's attention keeps, as golden has it; its currents are PyTorch's."""
        return self._golden.attention

    def begin(self) -> None:
        """Begin an episode."""
        self._stream = self._network.stream(self._batch)
        self._golden.reset()
        if self._plasticity:
            self._plasticity.reset()

    def learn(self, factor: int) -> None:
        """Change the head by its traces and a third factor."""
        if self.frozen:
            return
        assert self._plasticity
        assert isinstance(self._golden, PlasticNetwork)
        self._plasticity.learn(torch.tensor([factor]))
        self._golden.learn(factor)
        tensors = self._policy.tensors | {"head.weight": self.weight}
        self._network.head = from_policy(replace(self._policy, tensors=tensors)).head

    @property
    def weight(self) -> NDArray[np.int64]:
        """The head's weights as they are now [actions, d_model]."""
        assert self._plasticity
        return self._plasticity.weight[0].numpy()

    @property
    def eligibility(self) -> NDArray[np.int64]:
        """The traces [actions, d_model]."""
        assert self._plasticity
        return self._plasticity.eligibility[0].numpy()

    def _observe(self, membranes: torch.Tensor) -> None:
        """Let the traces see the last membranes [steps, 1, d_model]."""
        assert self._plasticity
        p = {name: torch.from_numpy(self._policy.tensors[name].astype(np.int64)) for name in HEAD}
        total = (membranes.sum(0)[:, None] * self._plasticity.weight).sum(-1) + p["head.bias"]
        self._plasticity.observe(membranes, p["entry.threshold"], total // 2 ** p["head.shift"])

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
        if isinstance(self._golden, PlasticNetwork):
            self._golden.frozen = self.frozen
            if not self.frozen:
                self._observe(record.membranes[-1].long())
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
