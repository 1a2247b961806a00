# SPDX-License-Identifier: MIT
"""The tasks: data set, environment, target return, scale and reference returns of each, in one table."""

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from model.data.environments import DataError, parse

SUITES = ("mujoco", "adroit", "antmaze", "kitchen", "classic", "recall")

Published = dict[str, tuple[float, str]]


@dataclass(frozen=True)
class Task:
    """One task.

    dataset : Minari id, or several joined by "+" for a mix; local ones are made as docs/data.md says.
    environment : Gymnasium id, with options as `environments.parse` reads them.
    target_return : what a deployed policy asks for. targets : what the papers' protocol tries.
    return_scale : returns-to-go are divided by it. reference : (random, expert) returns, scored 0 and 100.
    published : method -> (score, source); measured by others on other data, as `note` and the sources say.
    """

    name: str
    suite: str
    dataset: str
    environment: str
    target_return: float
    targets: tuple[float, ...]
    return_scale: float
    reference: tuple[float, float]
    discrete: bool = False
    published: Published = field(default_factory=dict)
    note: str = ""


REFERENCES = {
    # D4RL's infos.py
    "Hopper": (-20.272305, 3234.3),
    "HalfCheetah": (-280.178953, 12135.0),
    "Walker2d": (1.629008, 4592.3),
    "Ant": (-325.6, 3879.7),
    "AdroitHandPen": (96.262799, 3076.8331),
    "AdroitHandHammer": (-274.856578, 12794.134825),
    "AdroitHandDoor": (-56.512833, 2880.5693),
    "AdroitHandRelocate": (-6.425911, 4233.877797),
    "AntMaze": (0.0, 1.0),
    "FrankaKitchen": (0.0, 4.0),
    # mean return of 100 episodes, reset seeds 0 to 99: uniformly random, and the expert agent of docs/data.md
    "CartPole": (23.68, 500.0),
    "MountainCar": (-200.0, -104.37),
    "Acrobot": (-497.08, -72.9),
    "Pendulum": (-1207.56, -165.8),
    # uniformly random, whatever the length of the corridor, and always the key's door
    "KeyToDoor": (0.0, 1.0),
}
"""(random, expert) returns per family of environments."""


def reference(environment: str) -> tuple[float, float] | None:
    """Return the (random, expert) returns of an environment of any version, or None."""
    family = parse(environment)[0].rsplit("-v", 1)[0]
    return REFERENCES.get("AntMaze" if family.startswith("AntMaze_") else family)


DT = "Decision Transformer paper, on D4RL -v2"
DSFORMER = "DSFormer paper (arXiv 2504.03800) as a public reading note quotes it, on D4RL; best target and checkpoint"
SNN_DT = "SNN-DT authors' docs (arXiv 2508.21505), return {}; unverified: found only as a literal of a plotting script"


SNN_DT_RETURNS: dict[str, dict[str, tuple[float, float]]] = {
    name: dict(zip(("Baseline", "Pos-only", "Route-only", "Full"), returns, strict=True))
    for name, returns in {
        "CartPole": ((452.3, 11.7), (474.1, 7.9), (479.2, 6.2), (492.3, 6.8)),
        "MountainCar": ((-120.2, 9.4), (-111.5, 7.2), (-109.8, 6.9), (-102.4, 5.5)),
        "Acrobot": ((-87.1, 3.2), (-72.0, 3.6), (-68.3, 3.9), (-59.7, 2.7)),
        "Pendulum": ((-155.3, 5.1), (-140.0, 4.7), (-135.4, 4.4), (-130.5, 4.2)),
    }.items()
}
"""environment -> variant -> (return, what follows its +-) as SNN-DT's authors print them; see `SNN_DT`."""


def _snn_dt(environment: str) -> Published:
    low, high = REFERENCES[environment]
    value, _ = SNN_DT_RETURNS[environment]["Full"]
    return {"SNN-DT": (round(100 * (value - low) / (high - low), 1), SNN_DT.format(value))}


def _dt_paper(dt: float, cql: float, bc: float) -> Published:
    return {"DT": (dt, DT), "CQL": (cql, DT), "BC": (bc, DT)}


PUBLISHED: dict[str, Published] = {
    "halfcheetah-medium": _dt_paper(42.6, 44.4, 43.1),
    "hopper-medium": _dt_paper(67.6, 58.0, 63.9),
    "walker2d-medium": _dt_paper(74.0, 79.2, 77.3),
    "halfcheetah-medium-expert": _dt_paper(86.8, 62.4, 59.9) | {"FCNet": (91.2, DSFORMER), "PSSA": (91.5, DSFORMER)},
    "hopper-medium-expert": _dt_paper(107.6, 111.0, 79.6),
    "walker2d-medium-expert": _dt_paper(108.1, 98.7, 36.6) | {"FCNet": (108.8, DSFORMER), "PSSA": (108.9, DSFORMER)},
    "pen-expert": {"DT": (110.4, DSFORMER), "PSSA": (122.0, DSFORMER)},
    "relocate-expert": {"DT": (15.3, DSFORMER), "PSSA": (108.4, DSFORMER)},
    "cartpole-mixed": _snn_dt("CartPole"),
    "mountaincar-mixed": _snn_dt("MountainCar"),
    "acrobot-mixed": _snn_dt("Acrobot"),
    "pendulum-mixed": _snn_dt("Pendulum"),
}
"""Normalised scores per task, on the data of the source; classic control's returns rescaled by our references."""

AVERAGES: dict[str, Published] = {
    "mujoco": {
        method: (value, f"{DSFORMER}; average of halfcheetah, hopper, walker2d x medium, medium-replay, medium-expert")
        for method, value in {
            "DT": 74.7, "FCNet": 72.8, "PSSA": 78.8, "TSSA": 75.7, "SSSA": 73.8, "SpikeGPT": 23.2,
            "PSSA, tdBN only": 62.3, "PSSA, tdLN only": 70.1,
        }.items()
    },
    "adroit": {"DT": (27.8, f"{DSFORMER}; tasks not stated"), "PSSA": (48.6, f"{DSFORMER}; tasks not stated")},
}  # fmt: skip
"""Published average scores per suite, over tasks that are not all in this table."""

OTHER_DATA = "published scores are on D4RL's data, ours on this one: never the same data set"


def _task(
    name: str,
    suite: str,
    dataset: str,
    environment: str,
    targets: tuple[float, ...],
    return_scale: float,
    note: str,
    discrete: bool = False,
) -> Task:
    known = reference(environment)
    assert known is not None
    published = PUBLISHED.get(name.removesuffix("-minari"), {})
    return Task(name, suite, dataset, environment, targets[0], targets, return_scale, known, discrete, published, note)


WITHOUT_FORCES = '{"include_cfrc_ext_in_observation": false}'


def _mujoco() -> Iterator[Task]:
    choices = {
        "hopper": ("Hopper-v5", (3600.0, 1800.0)),
        "halfcheetah": ("HalfCheetah-v5", (12000.0, 9000.0, 6000.0)),
        "walker2d": ("Walker2d-v5", (5000.0, 4000.0, 2500.0)),
        "ant": ("Ant-v5", (6000.0, 3000.0)),  # the papers have no Ant
    }
    for family, (environment, targets) in choices.items():
        levels = ("medium",) if family == "ant" else ("medium", "expert")
        mine = {level: f"{family}/{level}-v0" for level in levels}
        theirs = {level: f"mujoco/{family}/{level}-v0" for level in ("simple", "medium", "expert")}
        for sets, note in ((mine, "local data"), (theirs, "Minari's data")):
            if "expert" in sets:
                sets["medium-expert"] = f"{sets['medium']}+{sets['expert']}"
            for level, dataset in sets.items():
                name = f"{family}-{level}" + ("-minari" if sets is theirs and level in mine else "")
                # Ant's later versions observe contact forces too, which data of the older ones lack
                made = f"{environment} {WITHOUT_FORCES}" if family == "ant" and sets is mine else environment
                yield _task(name, "mujoco", dataset, made, targets, 1000.0, f"{note}; {OTHER_DATA}")


def _adroit() -> Iterator[Task]:
    choices = {
        "pen": ((6000.0, 12000.0), 1000.0),
        "door": ((2000.0, 1000.0, 500.0), 100.0),
        "hammer": ((12000.0, 6000.0, 3000.0), 1000.0),
        "relocate": ((3000.0, 1000.0), 1000.0),
    }
    note = "Adroit's rewards changed in gymnasium-robotics 1.2.1 under the same id; name the version with scores"
    for family, (targets, scale) in choices.items():
        # D4RL's references are of 100 steps, gymnasium-robotics lets the pen go on for 200
        environment = f"AdroitHand{family.title()}-v1" + (' {"max_episode_steps": 100}' if family == "pen" else "")
        mine = {"pen": ("expert",), "door": ("human", "expert")}.get(family, ())
        for level in mine:
            yield _task(f"{family}-{level}", "adroit", f"{family}/{level}-v0", environment, targets, scale, note)
        for level in ("human", "cloned", "expert"):
            name = f"{family}-{level}" + ("-minari" if level in mine else "")
            yield _task(name, "adroit", f"D4RL/{family}/{level}-v2", environment, targets, scale, note)


def _antmaze() -> Iterator[Task]:
    targets = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3)
    note = "an episode ends at the goal: its return is success; start and goal are what the data's own evaluation says"
    for level in ("umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse"):
        maze = {"umaze": "UMaze", "medium": "Medium", "large": "Large"}[level.split("-")[0]]
        environment = f'AntMaze_{maze}-v5 {{"continuing_task": false}}'
        yield _task(f"antmaze-{level}", "antmaze", f"D4RL/antmaze/{level}-v1", environment, targets, 1.0, note)


def _kitchen() -> Iterator[Task]:
    cabinet = ["microwave", "kettle", "light switch", "slide cabinet"]
    burner = ["microwave", "kettle", "bottom burner", "light switch"]
    note = "needs mujoco 3.11 or older; the papers' targets 500 and 250 over their scale of 100, in units of a subtask"
    for level, goals in {"complete": cabinet, "partial": cabinet, "mixed": burner}.items():
        environment = f"FrankaKitchen-v1 {json.dumps({'tasks_to_complete': goals})}"
        yield _task(f"kitchen-{level}", "kitchen", f"D4RL/kitchen/{level}-v2", environment, (5.0, 2.5), 1.0, note)


def _classic() -> Iterator[Task]:
    choices = {
        "cartpole": ("CartPole-v1", (500.0, 250.0), 250.0),
        "mountaincar": ("MountainCar-v0", (-100.0, -130.0), 100.0),
        "acrobot": ("Acrobot-v1", (-70.0, -100.0), 100.0),
        "pendulum": ("Pendulum-v1", (-150.0, -500.0), 500.0),
    }
    note = "local data; D4RL has no references here: ours are a random policy and the expert in the data"
    for family, (environment, targets, scale) in choices.items():
        discrete = family != "pendulum"
        dataset = f"{family}/mixed-v0"
        yield _task(f"{family}-mixed", "classic", dataset, environment, targets, scale, note, discrete)


def _recall() -> Iterator[Task]:
    note = "ours: a key seen at the start is asked for at the end; who walks and guesses among four doors scores 25"
    for length in (32, 64, 128, 256, 500):
        environment = f'KeyToDoor-v0 {{"length": {length}}}'
        yield _task(f"key-to-door-{length}", "recall", f"key-to-door/{length}-v0", environment, (1.0,), 1.0, note, True)


TASKS: dict[str, Task] = {
    task.name: task for family in (_mujoco, _adroit, _antmaze, _kitchen, _classic, _recall) for task in family()
}
"""Every task by name."""


def find(name: str) -> Task:
    """Return the task of a name. Raises `DataError` with the names closest to it."""
    if name in TASKS:
        return TASKS[name]
    close = difflib.get_close_matches(name, TASKS, n=4, cutoff=0.4) or list(TASKS)[:4]
    raise DataError(f"there is no task {name}; near it are {', '.join(close)} (`python -m model.tasks` lists all)")
