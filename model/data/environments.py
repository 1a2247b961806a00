# SPDX-License-Identifier: MIT
"""Gymnasium environments by name, and how a network's actions become theirs."""

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import gymnasium

Floats = NDArray[np.float32]

ROBOTICS = ("AdroitHand", "AntMaze", "PointMaze", "FrankaKitchen", "Fetch", "HandReach", "HandManipulate")
"""How the ids of gymnasium-robotics begin; only for them is it imported."""

MAZES = ("AntMaze", "PointMaze")
"""How the ids of those begin that write their model into the temporary folder, to be read once, and leave it there."""


class DataError(ValueError):
    """Data or an environment that cannot be used; the message says why and what to do."""


def parse(environment: str) -> tuple[str, dict[str, Any]]:
    """Split `Some-v1 {"option": 1}` into the Gymnasium id and its options. Raises `DataError`."""
    name, _, options = environment.partition(" ")
    try:
        chosen = json.loads(options or "{}")
    except json.JSONDecodeError:
        chosen = None
    if not isinstance(chosen, dict):
        raise DataError(f"after the id {name} only a JSON object of options may follow, not {options!r}")
    return name, chosen


def name_of(spec: "gymnasium.envs.registration.EnvSpec") -> str:
    """Return what `parse` takes apart: the id of a Gymnasium spec, and the options that differ from the registered."""
    import gymnasium

    _register(spec.id)
    known = gymnasium.registry.get(spec.id)
    usual = known.kwargs if known else {}
    options = {key: value for key, value in spec.kwargs.items() if key not in usual or usual[key] != value}
    if known and spec.max_episode_steps != known.max_episode_steps:
        options["max_episode_steps"] = spec.max_episode_steps
    for wrapper in spec.additional_wrappers:
        if wrapper.name == "Changed":
            options["changed"] = wrapper.kwargs
    return spec.id + (f" {json.dumps(options, sort_keys=True)}" if options else "")


def make(environment: str, **options: Any) -> "gymnasium.Env[Any, Any]":
    """Make an environment whose observation is one vector: dictionaries and tuples are flattened in Gymnasium's order.

    environment : a Gymnasium id, such as Hopper-v5, with its own options as JSON behind a space where it needs some.
    The option `changed` is of every environment: what is other in its world (`model.data.changed`).
    options : more options for `gymnasium.make`. Raises `DataError`.
    """
    import gymnasium

    name, chosen = parse(environment)
    changes = chosen.pop("changed", None)
    _register(name)
    _log_to_the_console()
    try:
        with own_temporary_folder() if name.startswith(MAZES) else contextlib.nullcontext():
            made = gymnasium.make(name, **{"disable_env_checker": True, **chosen, **options})
    except (gymnasium.error.Error, AssertionError, ImportError, TypeError, ValueError) as error:
        if name.startswith("FrankaKitchen") and isinstance(error, AssertionError):
            raise DataError(f"{name} fails with MuJoCo 3.12 and newer: pip install 'mujoco==3.11.0'") from None
        raise DataError(f"the environment {environment} cannot be made: {_one_line(error)}") from None
    space = made.observation_space
    if not (isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1):
        if not space.is_np_flattenable:
            raise DataError(f"the observations of {environment} are {space}, which is no vector; choose another one")
        made = gymnasium.wrappers.FlattenObservation(made)
    return made if changes is None else _changed(made, changes, environment)


def _changed(made: "gymnasium.Env[Any, Any]", changes: Any, environment: str) -> "gymnasium.Env[Any, Any]":
    from model.data.changed import changed

    try:
        return changed(made, changes)
    except ValueError as error:
        made.close()
        raise DataError(f"the environment {environment} cannot be made: {error}") from None


def _register(name: str) -> None:
    import gymnasium

    if name.startswith("KeyToDoor"):
        from model.data import key_to_door  # noqa: F401 (registers itself)
    if name in gymnasium.registry or not name.startswith(ROBOTICS):
        return
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # it prints news
            import gymnasium_robotics  # type: ignore[import-untyped]
    except ImportError:
        raise DataError(f"{name} needs gymnasium-robotics: pip install '.[train]'") from None
    gymnasium.register_envs(gymnasium_robotics)


def _log_to_the_console() -> None:
    """Keep MuJoCo's warnings out of MUJOCO_LOG.TXT in the working directory; the console shows them as before."""
    import mujoco  # type: ignore[import-untyped]

    config = mujoco.MjLogConfig.get()
    config.logto_file = False
    config.set()


@contextlib.contextmanager
def own_temporary_folder() -> Iterator[None]:
    """Let what runs within have a temporary folder that is removed afterwards."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as folder:
        # such a maze writes beside the folder that it asks for
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def flatten(space: "gymnasium.Space[Any]", values: Any) -> NDArray[Any]:
    """Flatten a sequence of observations [n, ...], in a space's own structure, to [n, size] in Gymnasium's order.

    values : as Minari keeps them, one array per leaf of the space. Raises `DataError` for a space that is no vector.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        return np.concatenate([flatten(part, values[key]) for key, part in space.spaces.items()], axis=1)
    if isinstance(space, spaces.Tuple):
        return np.concatenate([flatten(part, value) for part, value in zip(space.spaces, values, strict=True)], axis=1)
    rows = np.asarray(values)
    if isinstance(space, spaces.Discrete):
        return np.eye(int(space.n))[rows.reshape(-1).astype(np.int64) - int(space.start)]
    if isinstance(space, (spaces.Box, spaces.MultiBinary)):
        return rows.reshape(len(rows), -1)
    raise DataError(f"the observation space {space} is no vector; wrap the environment before collecting")


def require_kind(owner: str, discrete: bool, trained: bool | None) -> None:
    """Raise `DataError` where an environment or a data set has not the kind of actions a policy was trained for.

    trained : whether those were discrete; None where the policy does not say.
    """
    if trained is not None and trained != discrete:
        kinds = {True: "discrete", False: "continuous"}
        raise DataError(
            f"{owner} has {kinds[discrete]} actions, the policy was made for {kinds[trained]} ones; "
            "choose what the policy was trained for, or another policy"
        )


@dataclass(frozen=True)
class Actions:
    """How an environment's actions and a network's, vectors [size] in -1..1, become each other.

    Continuous actions are scaled from their bounds; a discrete one is the index of the largest component, and a one-hot
    vector where the network is told of it.

    start : the first choice's number, None if continuous. middle, half [size] : of the bounds.
    """

    size: int
    start: int | None
    middle: NDArray[np.float64]
    half: NDArray[np.float64]
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, space: "gymnasium.Space[Any]", owner: str) -> "Actions":
        """Read an action space; `owner` names it in errors. Raises `DataError` where a network cannot serve it."""
        from gymnasium import spaces

        if isinstance(space, spaces.Discrete):
            count = int(space.n)
            return cls(count, int(space.start), np.zeros(count), np.ones(count), np.dtype(np.int64))
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise DataError(f"the actions of {owner} are {space}; a vector of bounded numbers or one choice is needed")
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise DataError(
                f"the actions of {owner} have no bounds; wrap its environment in ClipAction before collecting"
            )
        middle, half = (space.high + space.low) / 2, (space.high - space.low) / 2
        return cls(int(space.shape[0]), None, middle, half, np.dtype(space.dtype))

    @property
    def discrete(self) -> bool:
        """Whether an action is one of several choices."""
        return self.start is not None

    def encode(self, actions: NDArray[Any], owner: str) -> Floats:
        """Turn an environment's actions [n] or [n, size] into the network's [n, size]. Raises `DataError`."""
        actions = np.asarray(actions)
        if self.start is None:
            if actions.ndim != 2 or actions.shape[1] != self.size:
                raise DataError(
                    f"the actions of {owner} have the shape {list(actions.shape)}, but {self.size} real numbers a step "
                    "are needed: data of discrete actions and a continuous environment do not go together"
                )
            return ((actions - self.middle) / self.half).astype(np.float32)
        index = actions.reshape(len(actions), -1)
        number = index[:, 0] - self.start if index.shape[1] == 1 else np.full(len(index), -1)
        if not ((number == np.rint(number)) & (number >= 0) & (number < self.size)).all():
            raise DataError(
                f"the actions of {owner} are not whole numbers from {self.start} to {self.start + self.size - 1}: "
                "data of continuous actions and a discrete environment do not go together"
            )
        return np.eye(self.size, dtype=np.float32)[number.astype(np.int64)]

    def settle(self, wanted: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the actions that are really taken for wanted ones [..., size]: clipped, or one-hot at the largest."""
        if self.start is None:
            return np.asarray(np.clip(wanted, -1.0, 1.0))
        return np.asarray(np.eye(self.size)[np.argmax(wanted, axis=-1)])

    def execute(self, settled: NDArray[np.float64]) -> Any:
        """Return the environment's action for a settled one [size]."""
        if self.start is None:
            return (self.middle + self.half * settled).astype(self.dtype)
        return self.start + int(np.argmax(settled))
