# SPDX-License-Identifier: MIT
"""Gymnasium environments a policy can act in."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Space

from model.artifact import Policy


class UnsuitableEnvironment(RuntimeError):
    """An environment that cannot be made or does not suit the policy; the message says why."""


def make_environment(name: str, policy: Policy, render: bool = False) -> gymnasium.Env[Any, Any]:
    """Make the environment `name` and check that observations and actions are as the policy expects.

    render : frames can be asked for with `render()`. Raises `UnsuitableEnvironment`.
    """
    try:
        environment = gymnasium.make(name, disable_env_checker=True, render_mode="rgb_array" if render else None)
    except (gymnasium.error.Error, ImportError, ValueError, TypeError) as error:
        raise UnsuitableEnvironment(
            f"there is no environment {name!r} here ({error}); name a Gymnasium one with --env, such as Hopper-v5"
        ) from None
    _vector(environment.observation_space, name, "observation", policy.observation_size)
    bounds = _vector(environment.action_space, name, "action", policy.action_size)
    if not (np.isfinite(bounds.low).all() and np.isfinite(bounds.high).all()):
        raise UnsuitableEnvironment(f"{name} has no finite action bounds; a policy's actions have nothing to scale to")
    return environment


def _vector(space: Space[Any], name: str, what: str, size: int) -> Box:
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise UnsuitableEnvironment(
            f"{name} has the {what} space {space}; policies here need a vector of real numbers: "
            "choose another environment or wrap this one"
        )
    if space.shape[0] != size:
        raise UnsuitableEnvironment(
            f"{name} has {what}s of {space.shape[0]} components, the policy was trained with {size}; "
            "choose the policy's environment or another policy"
        )
    return space
