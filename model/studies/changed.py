# SPDX-License-Identifier: MIT
"""A deployed policy whose world changed: does its head learn to live there by the three-factor rule alone?

Integers throughout: the rule of docs/numbers.md on the golden network.
"""

import dataclasses
import hashlib
import json
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from model.data.environments import parse
from model.data.offline import Normaliser
from model.deployed import zoo
from model.deployed.artifact import Policy
from model.deployed.sizes import Plasticity
from model.deployed.yardstick import Yardstick
from model.integer.quantize import limits
from model.scores import rollout
from model.studies import plots
from model.studies.learners import Learners
from model.studies.runs import Bench, Row, Study, measured

LEARNING = 20
"""Episodes that a learner flies."""

WORLDS: dict[str, Row] = {
    "as trained": {},
    "mass x 1.25": {"mass": 1.25},
    "friction x 0.5": {"friction": 0.5},
    "gear x 0.85": {"gear": 0.85},
    "lost thigh angle": {"lost": 2},
}
"""label -> what is other in it (`model.data.changed`). Hopper's component 2 is the angle of its thigh."""

RULES: dict[str, tuple[int, Plasticity]] = {
    "episodes": (0, Plasticity()),
    "episodes, eta / 4": (0, Plasticity(rate_shift=14)),
    "16 steps": (16, Plasticity(rate_shift=15)),
}
"""label -> decisions between third factors (0: one after each episode), and the sizes of the rule."""


def world(environment: str, changes: Row) -> str:
    """Return an environment's name with other things changed in its world."""
    name, options = parse(environment)
    return f"{name} {json.dumps(options | {'changed': changes})}" if changes else environment


def fly(learners: Learners, environment: str, seeds: list[int]) -> list[float]:
    """Return the return of an episode of every learner, given its reset seed."""
    policy = learners.policy
    normaliser = Normaliser(policy.input_mean, policy.input_std, policy.return_scale)
    target, kind = policy.target_return, policy.discrete
    done = rollout.run(learners, environment, normaliser, target, seeds, delayed=policy.delayed, discrete=kind)
    return [float(sum(episode.rewards)) for episode in done]


def learn(policy: Policy, every: int, environment: str, learners: int) -> tuple[Tensor, list[list[float]]]:
    """Fly learning episodes -> weights that came of it [learners, actions, channels], returns [episodes][learners].

    Learner s resets with 1000 (s + 1) + 0, 1, ... every : as of `Learners`; 0: each return is a third factor.
    """
    flying = Learners(policy, weights(policy, learners), every=every)
    yardstick = Yardstick(learners, flying.limit)
    returns = []
    for episode in range(LEARNING):
        returns.append(fly(flying, environment, [1000 * (s + 1) + episode for s in range(learners)]))
        if not every:
            flying.learn(torch.from_numpy(yardstick.factor(np.array(returns[-1]), range(learners))))
    return flying.weight, returns


def score(policy: Policy, weight: Tensor, environment: str, episodes: int) -> list[float]:
    """Return every learner's mean return, frozen, over reset seeds 1000 (s + 1) + 500, ...; weight of all learners."""
    seeds = [1000 * (s + 1) + 500 + n for s in range(len(weight)) for n in range(episodes)]
    frozen = Learners(policy, weight.repeat_interleave(episodes, 0), frozen=True)
    return [float(value) for value in np.reshape(fly(frozen, environment, seeds), (-1, episodes)).mean(1)]


def weights(policy: Policy, learners: int) -> Tensor:
    """Return the policy's head once for every learner [learners, actions, channels]."""
    return torch.from_numpy(policy.tensors["head.weight"].astype(np.int64))[None].repeat(learners, 1, 1)


def scattered(before: Tensor, after: Tensor, bits: int) -> Tensor:
    """Return `before` with the changes that `after` has, at other weights of the learner and with signs by chance."""
    moved = []
    for seed, change in enumerate((after - before).numpy()):
        rng = np.random.default_rng(seed)
        drawn = rng.permutation(np.abs(change).ravel()) * rng.choice([-1, 1], change.size)
        moved.append(torch.from_numpy(drawn.reshape(change.shape)))
    change, (low, high) = torch.stack(moved), limits(bits)
    # the other way where a weight would leave its range, so that no change is cut
    change = torch.where((before + change < low) | (before + change > high), -change, change)
    return torch.clamp(before + change, low, high)


def _measure(policy: Policy, name: str, learners: int, episodes: int) -> dict[str, Any]:
    environment = world(policy.environment, WORLDS[name])
    start = weights(policy, learners)
    before = score(policy, start, environment, episodes)
    nothing: list[Any] = [None] * learners
    cases = {"none": (start, before, nothing)}
    for label, (every, rule) in RULES.items():
        learning = dataclasses.replace(policy, geometry=dataclasses.replace(policy.geometry, plasticity=rule))
        end, returns = learn(learning, every, environment, learners)
        chance = scattered(start, end, policy.geometry.dense_weight_bits)
        flown = [[each[s] for each in returns] for s in range(learners)]
        cases[label] = (end, score(policy, end, environment, episodes), flown)
        cases[f"chance, as {label}"] = (chance, score(policy, chance, environment, episodes), nothing)
    norm = start.double().norm(dim=(1, 2))
    return {
        "rows": [
            {
                "world": name,
                "learning": label,
                "seed": seed,
                "before": before[seed],
                "after": after[seed],
                "over_before": after[seed] - before[seed],
                "size": float((end - start).double().norm(dim=(1, 2))[seed] / norm[seed]),
                "flown": flown[seed],
                "policy_digest": policy.digest,
            }
            for label, (end, after, flown) in cases.items()
            for seed in range(learners)
        ]
    }


def measure(bench: Bench) -> list[Row]:
    """Let the shipped policy of the task's name learn in every world, by every rule, a learner per seed."""
    policy = Policy.load(zoo.find(bench.budget.task.name))
    learners, episodes = bench.budget.seeds, bench.budget.episodes
    rules = {label: (every, dataclasses.asdict(rule)) for label, (every, rule) in RULES.items()}
    jobs = {}
    for name, changes in WORLDS.items():
        facts = [policy.digest, name, changes, rules, LEARNING, learners, episodes]
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
        jobs[bench.out / f"changed-{key}" / "rows.json"] = partial(_measure, policy, name, learners, episodes)
    rows = [row for found in measured("world", jobs) for row in found["rows"]]
    after = {(row["world"], row["learning"], row["seed"]): row["after"] for row in rows}
    for row in rows:
        chance = after.get((row["world"], f"chance, as {row['learning']}", row["seed"]))
        row["over_chance"] = None if chance is None else row["after"] - chance
    return rows


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draw per world how returns moved, with intervals, and what the learners returned while they learned."""
    worlds = plots.names(rows, "world")
    panels = figure.subplots(2, len(worlds), squeeze=False)
    rules = [name for name in plots.names(rows, "learning") if any(r["flown"] for r in rows if r["learning"] == name)]
    for column, name in enumerate(worlds):
        here = [row for row in rows if row["world"] == name]
        moved, during = panels[:, column]
        plots.dots(moved, here, "learning", "over_before", "return after less before")
        plots.intervals(moved, here, "learning", "over_before")
        moved.axvline(0, color="#5f6b7a", linewidth=0.8)
        moved.set_title(f"{name}, before {np.mean([row['before'] for row in here]):.0f}")
        if column:
            moved.set_yticklabels([])
        order = plots.names(here, "learning")
        for rule in rules:
            flown = np.array([row["flown"] for row in here if row["learning"] == rule])
            colour = plots.COLOURS[order.index(rule)]
            during.plot(range(1, flown.shape[1] + 1), flown.mean(0), color=colour, label=rule)
            low, high = flown.min(0), flown.max(0)
            during.fill_between(range(1, flown.shape[1] + 1), low, high, color=colour, alpha=0.12, linewidth=0)
        during.set(xlabel="learning episode", ylim=(0, None))
    panels[1, 0].set_ylabel("return (mean, least and\nlargest of the learners)")
    panels[1, 0].legend(fontsize=7)


STUDY = Study(
    "changed",
    "a shipped policy in a changed world: its head learns alone, against chance and nothing (--task hopper-medium)",
    measure,
    draw,
    keys=("world", "learning"),
    values=("before", "after", "over_before", "over_chance", "size"),
    size=(15.0, 5.4),
    interval=True,
)
