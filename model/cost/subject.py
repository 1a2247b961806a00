# SPDX-License-Identifier: MIT
"""A policy artifact or a checkpoint as something to look into: its network, and real tokens for it to read."""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from model.cost.observer import Observer, Operation
from model.cost.operations import REAL
from model.data import offline
from model.data.environments import DataError
from model.data.offline import Normaliser
from model.deployed.artifact import Policy
from model.deployed.geometry import Geometry
from model.integer.fold import from_policy
from model.scores import rollout
from model.training.checkpoint import Checkpoint

# several subjects of one table were trained on the same data
_episodes = functools.lru_cache(maxsize=1)(offline.load)


@dataclass
class Subject:
    """What is looked into.

    kind : "deployed" (an artifact), "quantised" or "float" (checkpoints), or a baseline's name.
    streams : whether a decision takes one token; length : tokens of a recomputed window.
    """

    name: str
    kind: str
    network: nn.Module
    geometry: Geometry
    policy: Policy | None
    normaliser: Normaliser
    environment: str
    dataset: str
    target_return: float
    delayed: bool
    streams: bool
    length: int

    @classmethod
    def load(cls, file: Path) -> "Subject":
        """Read an artifact (.safetensors) or a checkpoint. Raises `ArtifactError`, `CheckpointError`."""
        if file.suffix == ".safetensors":
            policy = Policy.load(file)
            config = policy.provenance.get("config", {})
            return cls(
                name=file.stem,
                kind="deployed",
                network=from_policy(policy),
                geometry=policy.geometry,
                policy=policy,
                normaliser=Normaliser(policy.input_mean, policy.input_std, policy.return_scale),
                environment=policy.environment,
                dataset=policy.provenance.get("dataset", ""),
                target_return=policy.target_return,
                delayed=policy.delayed,
                streams=True,
                length=config.get("length", policy.geometry.context),
            )
        saved = Checkpoint.load(file)
        spiking = "quantised" if saved.network.quantised else "float"
        return cls(
            name=f"{file.parent.name}/{file.stem}",
            kind=spiking if saved.config.network == "spiking" else saved.config.network,
            network=saved.network.eval(),
            geometry=saved.config.geometry,
            policy=None,
            normaliser=saved.normaliser,
            environment=saved.facts["environment"],
            dataset=saved.facts["dataset"],
            target_return=saved.config.target_return,
            delayed=saved.config.delayed,
            streams=saved.config.inference == "stream",
            length=saved.config.length,
        )

    @property
    def token_level(self) -> int:
        """What its tokens are: integers, or reals (`model.cost.operations`)."""
        return 0 if self.network.quantised else REAL

    def tokens(self, count: int, seed: int) -> tuple[Tensor, str]:
        """Return `count` tokens of one episode as the network reads them [count, inputs], and where they come from.

        From its data set where that is local, an episode drawn by `seed`; else it flies its environment, reset with
        `seed`. Raises `DataError` where neither is possible.
        """
        if self.dataset and all((offline.local_root() / part / "data").is_dir() for part in self.dataset.split("+")):
            episodes = _episodes(self.dataset, self.delayed)
            long = np.flatnonzero(episodes.lengths >= count)
            if not len(long):
                most = int(episodes.lengths.max())
                raise DataError(f"no episode of {self.dataset} has {count} steps; ask for at most {most} tokens")
            chosen = int(np.random.default_rng(seed).choice(long))
            windows = offline.windows(episodes, np.array([chosen]), self.normaliser)
            start = int(windows.starts[0])
            read, source = windows.tokens[start : start + count].astype(np.float64), f"{self.dataset}, episode {chosen}"
        else:
            brain = _Listener(self)
            known = {"delayed": self.delayed, "discrete": self.policy.discrete if self.policy else None}
            rollout.run(brain, self.environment, self.normaliser, self.target_return, [seed], **known)
            if len(brain.tokens) < count:
                raise DataError(
                    f"the episode of {self.environment} with seed {seed} ended after {len(brain.tokens)} steps; "
                    "ask for fewer tokens or another seed"
                )
            read, source = np.concatenate(brain.tokens[:count]), f"{self.environment}, flown with seed {seed}"
        return self.network.prepare(torch.from_numpy(read)), source

    @torch.no_grad()
    def observe(self, tokens: Tensor, stream: bool) -> "Observation":
        """Watch a decision for each of the tokens [count, inputs].

        stream : one token each; else each recomputes the `length` tokens up to it, the first the first `length`.
        """
        observer, results = Observer(self.network), []
        with observer:
            if stream:
                flow = self.network.stream()
                for token in _bar(list(tokens), f"{self.name}, stream"):
                    results.append(flow.decide(observer.token(token[None].clone(), self.token_level)))
                    observer.forget([*flow.state, *results])
            else:
                for end in _bar(range(self.length, len(tokens) + 1), f"{self.name}, windows"):
                    window = observer.token(tokens[None, end - self.length : end].clone(), self.token_level)
                    results.append(self.network(window)[:, -1])
                    observer.forget(results)
        return Observation(observer.live(results), torch.cat(results))


def _bar(what: Any, name: str) -> Any:
    return tqdm(what, desc=name, leave=False, delay=3, disable=os.environ.get("TERM") == "dumb")


@dataclass
class Observation:
    """What some decisions executed, and what they decided [decisions, actions]."""

    operations: list[Operation]
    actions: Tensor
    decisions: int = field(init=False)

    def __post_init__(self) -> None:
        self.decisions = len(self.actions)


class _Listener:
    """A brain of one episode that keeps the tokens it decides on."""

    def __init__(self, subject: Subject) -> None:
        self.tokens: list[NDArray[np.float64]] = []
        self.brain: Any
        if subject.policy is not None:
            self.brain = rollout.GoldenBrain(subject.policy)
        elif subject.streams:
            self.brain = rollout.StreamBrain(subject.network)
        else:
            self.brain = rollout.RecomputeBrain(subject.network, subject.length)

    def begin(self, batch: int) -> None:
        self.brain.begin(batch)

    def decide(self, tokens: NDArray[np.float64], live: Sequence[int]) -> NDArray[np.float64]:
        self.tokens.append(tokens.copy())
        return self.brain.decide(tokens, live)
