# SPDX-License-Identifier: MIT
"""What a table compares: the methods, and per suite the tasks and the budget every method gets."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from model.data import tasks
from model.data.offline import Episodes
from model.data.tasks import Task
from model.deployed.geometry import Geometry
from model.network.layers import Structure
from model.training.config import TrainConfig


@dataclass(frozen=True)
class Method:
    """One line of a table.

    network : of `config.NETWORKS`. attention, taps : of the spiking network. integer : whether it has an integer form.
    published : the name it has in `Task.published`, where others measured it. recipe : fields of `TrainConfig` that it
    has for itself, such as its rate (docs/protocol.md says how they were found).
    """

    network: str = "spiking"
    attention: str = "pssa"
    taps: str = "channel"
    integer: bool = True
    published: str | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)


# found by the studies recipe and rates
SPIKING: dict[str, Any] = {"norm_freeze": 1 / 3, "average": 0.995}
ONE_TOKEN: dict[str, Any] = {"rate": 3e-3, "action_dropout": 0.9}

METHODS = {
    "pssa": Method(published="PSSA", recipe=SPIKING),
    "pssa-or": Method(taps="or", recipe=SPIKING),
    "tssa": Method(attention="tssa", published="TSSA", recipe=SPIKING),
    "sssa": Method(attention="sssa", published="SSSA", recipe=SPIKING),
    "lrf-ssa": Method(attention="lrf-ssa", integer=False, recipe=SPIKING),
    "lrf-dyn": Method(attention="lrf-dyn", recipe=SPIKING),
    "dt-3-token": Method(network="dt-3-token", integer=False, published="DT", recipe={"rate": 3e-3}),
    "dt-1-token": Method(network="dt-1-token", integer=False, recipe=ONE_TOKEN),
    "dt-3-bit": Method(network="dt-3-bit", integer=False, recipe=ONE_TOKEN),
    "bc": Method(network="bc", integer=False, published="BC", recipe={"rate": 3e-3}),
}


@dataclass(frozen=True)
class Budget:
    """Sizes and updates, the same for every method; baselines are as wide as matches the parameters.

    steps : float updates. quant_steps : quantised updates behind them, or float ones of what has no integer form.
    """

    d_model: int = 128
    layers: int = 3
    window: int = 8
    length: int = 24
    batch: int = 64
    steps: int = 5000
    quant_steps: int = 2000


@dataclass(frozen=True)
class Suite:
    """Tasks of one table."""

    holds: Callable[[Task], bool]
    budget: Budget = Budget()

    @property
    def tasks(self) -> list[Task]:
        """The suite's tasks."""
        return [task for task in tasks.TASKS.values() if self.holds(task)]


SUITES = {
    "hopper": Suite(lambda task: task.name.startswith("hopper-")),
    **{name: Suite(lambda task, name=name: task.suite == name) for name in tasks.SUITES},  # type: ignore[misc]
}
SUITES["classic"] = dataclasses.replace(
    SUITES["classic"], budget=Budget(d_model=64, layers=2, steps=2000, quant_steps=1000)
)


def configuration(task: Task, method: Method, budget: Budget, episodes: Episodes, seed: int) -> TrainConfig:
    """Return the training run of a task and method. Raises `ConfigError`, `GeometryError`."""
    windowed = method.attention != "lrf-dyn"  # it has dendrites in its place
    geometry = Geometry(
        observation_size=episodes.observations.shape[1],
        action_size=episodes.actions.shape[1],
        d_model=budget.d_model,
        layers=budget.layers,
        **({"window": budget.window} if windowed else {}),
        group=min(16, budget.d_model),
        attention=method.attention,
    )
    return TrainConfig(
        geometry=geometry,
        network=method.network,
        structure=Structure(taps=method.taps),
        inference="stream" if method.network == "spiking" else "recompute",
        # what streams must have seen as far back in training
        length=max(budget.length, geometry.context) if method.network == "spiking" else budget.length,
        steps=budget.steps + (0 if method.integer else budget.quant_steps),
        quant_steps=budget.quant_steps if method.integer else 0,
        return_scale=task.return_scale,
        target_return=task.target_return,
        to_go_scale=_to_go_scale(task, episodes, geometry.input_bits),
        seed=seed,
        **{"batch": budget.batch, **method.recipe},
    )


def _to_go_scale(task: Task, episodes: Episodes, input_bits: int) -> float:
    """Return the finest grid for the return-to-go, at most 32 steps a unit, that every target and return is on."""
    largest = max(np.abs(episodes.returns).max(), *map(abs, (task.target_return, *task.targets))) / task.return_scale
    return min(32.0, 2.0 ** math.floor(math.log2(((1 << (input_bits - 1)) - 1) / largest)))
