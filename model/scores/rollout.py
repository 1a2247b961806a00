# SPDX-License-Identifier: MIT
"""Whole episodes of a decision transformer in Gymnasium environments, many side by side."""

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from model.data.environments import Actions, DataError, make, require_kind
from model.data.offline import Normaliser
from model.deployed.artifact import ACTION_SCALE, Policy, quantise_token
from model.deployed.geometry import Geometry
from model.deployed.golden import GoldenNetwork, Trace, fetch_cycles, reads
from model.network.network import Network, Record

Floats = NDArray[np.float64]


@dataclass
class Effort:
    """What the decisions of some episodes cost.

    rows : weight rows fetched per linear, "layer0.key" and so on, summed over `decisions`: of inputs that spike in any
    SNN step, once for each d_model outputs. fetch_cycles : the fewest cycles the fetches take.
    """

    decisions: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    fetch_cycles: int = 0

    def add(self, geometry: Geometry, active: dict[str, int]) -> None:
        """Count one decision, given the inputs that spiked per linear."""
        self.decisions += 1
        self.rows.update({name: reads(geometry, name) * count for name, count in active.items()})
        self.fetch_cycles += fetch_cycles(geometry, active)

    def per_decision(self) -> dict[str, Any]:
        """Return the means over decisions; None where none was counted."""
        if not self.decisions:
            return dict.fromkeys(("active_rows_per_decision", "fetch_cycles_per_decision", "rows_per_linear"))
        return {
            "active_rows_per_decision": self.rows.total() / self.decisions,
            "fetch_cycles_per_decision": self.fetch_cycles / self.decisions,
            "rows_per_linear": {name: count / self.decisions for name, count in self.rows.items()},
        }


class StreamBrain:
    """A network in evaluation mode, one stream for all episodes."""

    def __init__(self, network: Network, effort: Effort | None = None) -> None:
        self.network, self.effort = network.eval(), effort

    def begin(self, batch: int) -> None:
        """Start `batch` episodes."""
        self.stream = self.network.stream(batch)
        self.rows = list(range(batch))

    def decide(self, tokens: Floats, live: Sequence[int]) -> Floats:
        """Return actions [batch, actions] for normalised tokens [batch, inputs]; episodes not in `live` are over."""
        if len(live) < len(self.rows):
            self.stream.keep(torch.tensor([self.rows.index(row) for row in live]))
            self.rows = list(live)
        record = None if self.effort is None else Record()
        actions = self.stream.decide(self.network.prepare(torch.from_numpy(tokens[self.rows])), record)
        if self.effort is not None and record is not None:
            fired = {name: spikes.amax(0).sum(1).int().tolist() for name, spikes in record.spikes.items()}
            for row in range(len(self.rows)):
                self.effort.add(self.network.geometry, {k: fired[v][row] for k, v in self._inputs().items()})
        return _spread(actions, self.rows, len(tokens))

    def _inputs(self) -> dict[str, str]:
        g = self.network.geometry
        sources = dict.fromkeys(g.projections, "entry") | {"proj": "window", "fc1": "mlp", "fc2": "fc1"}
        layers = range(g.layers)
        return {f"layer{n}.{name}": f"layer{n}.{source}" for n in layers for name, source in sources.items()}


class RecomputeBrain:
    """A network that cannot stream: every decision recomputes a window of the last `length` tokens."""

    def __init__(self, network: Network, length: int) -> None:
        self.network, self.length = network.eval(), length

    def begin(self, batch: int) -> None:
        """Start `batch` episodes."""
        self.tokens: list[torch.Tensor] = []

    @torch.no_grad()
    def decide(self, tokens: Floats, live: Sequence[int]) -> Floats:
        """Return actions [batch, actions] for normalised tokens [batch, inputs]; episodes not in `live` are over."""
        self.tokens = [*self.tokens, self.network.prepare(torch.from_numpy(tokens))][-self.length :]
        window = torch.stack([token[list(live)] for token in self.tokens], 1)
        return _spread(self.network(window)[:, -1], list(live), len(tokens))


def _spread(actions: torch.Tensor, rows: list[int], batch: int) -> Floats:
    """Put the actions of some rows into a batch that is zero elsewhere."""
    spread = np.zeros((batch, actions.shape[-1]))
    spread[rows] = actions.double().numpy()
    return spread


class GoldenBrain:
    """An artifact on the golden network, all episodes at once.

    trace : of the last decisions, of the episodes in `rows`.
    """

    rows: list[int]
    trace: Trace

    def __init__(self, policy: Policy, effort: Effort | None = None) -> None:
        self.policy, self.effort = policy, effort

    def begin(self, batch: int) -> None:
        """Start `batch` episodes."""
        self.network = GoldenNetwork(self.policy)
        self.rows = list(range(batch))

    def decide(self, tokens: Floats, live: Sequence[int]) -> Floats:
        """Return actions [batch, actions] for normalised tokens [batch, inputs]; episodes not in `live` are over."""
        if len(live) < len(self.rows):
            self.network.keep([self.rows.index(row) for row in live])
            self.rows = list(live)
        trace = self.trace = self.network.decide(quantise_token(self.policy, tokens[self.rows]))
        if self.effort is not None:
            for row in range(len(self.rows)):
                self.effort.add(self.policy.geometry, {name: rows[row] for name, rows in trace.active_rows.items()})
        actions = np.zeros((len(tokens), self.policy.action_size))
        actions[self.rows] = trace.action / ACTION_SCALE
        return actions


class Brain(Protocol):
    """What decides in many episodes at once."""

    def begin(self, batch: int) -> None:
        """Start `batch` episodes."""

    def decide(self, tokens: Floats, live: Sequence[int]) -> Floats:
        """Return actions [batch, actions] in -1..1 for tokens [batch, inputs]; only the rows in `live` matter.

        Of a discrete environment the actions are the choices' scores.
        """


@dataclass
class Episode:
    """One episode: observations (one more than the rest), actions as executed, rewards, (terminated, truncated)."""

    observations: list[Any]
    actions: list[Any] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    ends: list[tuple[bool, bool]] = field(default_factory=list)


def run(
    brain: Brain,
    environment: str,
    normaliser: Normaliser,
    target_return: float,
    seeds: Sequence[int],
    disturb: Callable[[Floats], Floats] = lambda action: action,
    delayed: bool = False,
    discrete: bool | None = None,
    progress: bool = False,
) -> list[Episode]:
    """Run one episode per reset seed, one decision of all that still run after the other.

    disturb : changes an action [actions] before it is clipped to -1..1, or before its largest score is chosen.
    delayed : the return-to-go stays what it was at the start, as rewards would only come at the end.
    discrete : what the network was trained for; None if that is not known.
    progress : shows a bar of the episodes that ended. Raises `DataError`.
    """
    with contextlib.ExitStack() as at_end:
        environments = []
        for _ in seeds:
            environments.append(make(environment))
            at_end.callback(environments[-1].close)
        codec = Actions.of(environments[0].action_space, environment)
        require_kind(environment, codec.discrete, discrete)
        shape = environments[0].observation_space.shape
        if shape != normaliser.mean.shape:
            raise DataError(f"{environment} observes {shape}, the policy {normaliser.mean.shape}")
        episodes = [Episode([env.reset(seed=s)[0]]) for env, s in zip(environments, seeds, strict=True)]
        observations = np.array([episode.observations[0] for episode in episodes], np.float64)
        previous, to_go = np.zeros((len(seeds), codec.size)), np.full(len(seeds), float(target_return))
        brain.begin(len(seeds))
        live = list(range(len(seeds)))
        bar = at_end.enter_context(tqdm(total=len(seeds), unit="episode", delay=3, leave=False, disable=not progress))
        while live:
            wanted = brain.decide(normaliser.token(observations, previous, to_go), live)
            if wanted.shape[1] != codec.size:
                raise DataError(f"{environment} takes {codec.size} actions, the policy gives {wanted.shape[1]}")
            for row in list(live):
                previous[row] = codec.settle(disturb(wanted[row]))
                executed = codec.execute(previous[row])
                observation, reward, terminated, truncated, _ = environments[row].step(executed)
                observations[row] = observation
                if not delayed:
                    to_go[row] -= float(reward)
                episode = episodes[row]
                episode.observations.append(observation)
                episode.actions.append(executed)
                episode.rewards.append(float(reward))
                episode.ends.append((bool(terminated), bool(truncated)))
                if terminated or truncated:
                    live.remove(row)
                    bar.update()
            bar.set_postfix(step=len(episodes[0].rewards), refresh=False)
    return episodes
