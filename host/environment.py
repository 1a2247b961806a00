# SPDX-License-Identifier: MIT
"""Gymnasium environments a policy can act in."""

from typing import Any

import gymnasium
from gymnasium.spaces import Box

from model.data.environments import Actions, DataError, make, require_kind
from model.deployed.artifact import Policy


class UnsuitableEnvironment(RuntimeError):
    """An environment that cannot be made or does not suit the policy; the message says why."""


def make_environment(name: str, policy: Policy, render: bool = False) -> gymnasium.Env[Any, Any]:
    """Make the environment `name` and check that observations and actions are as the policy expects.

    Observations that are dictionaries or tuples are flattened. render : frames can be asked for with `render()`.
    Raises `UnsuitableEnvironment`.
    """
    try:
        environment = make(name, render_mode="rgb_array" if render else None)
    except DataError as error:
        raise UnsuitableEnvironment(f"{error}; name a Gymnasium one with --env, such as Hopper-v5") from None
    try:
        actions = Actions.of(environment.action_space, name)
    except DataError as error:
        raise UnsuitableEnvironment(f"{error}: choose another environment") from None
    space = environment.observation_space
    if not isinstance(space, Box):
        raise UnsuitableEnvironment(f"{name} has the observation space {space}, no vector: choose another environment")
    for what, size, trained in (
        ("observation", space.shape[0], policy.observation_size),
        ("action", actions.size, policy.action_size),
    ):
        if size != trained:
            raise UnsuitableEnvironment(
                f"{name} has {what}s of {size} components, the policy was trained with {trained}; "
                "choose the policy's environment or another policy"
            )
    try:
        require_kind(name, actions.discrete, policy.discrete)
    except DataError as error:
        raise UnsuitableEnvironment(str(error)) from None
    return environment
