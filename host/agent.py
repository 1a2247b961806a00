# SPDX-License-Identifier: MIT
"""What stands between an environment and the circuit: normalisation, the previous action, the return still to go."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from host.accelerator import Decision
from model.artifact import ACTION_SCALE, Policy, quantise_token

Floats = NDArray[np.float64]


class AgentError(RuntimeError):
    """An environment that hands over what no policy can use; the message says what and when."""


class Decider(Protocol):
    """What decides: an `Accelerator`, or anything that behaves as one."""

    def new_episode(self) -> None:
        """Forget the tokens seen so far."""

    def decide(self, token: NDArray[Any]) -> Decision:
        """Advance by one quantised token [inputs]."""


class Agent:
    """A policy acting in one environment, one episode after the other.

    decider : has the policy loaded.
    low, high : the environment's action bounds [actions]; an action of -1 is `low`, one of 1 `high`.
    target_return : what each episode is asked to reach, in the environment's units.

    After `act`, `token` [inputs] and `decision` are those of the last step.
    """

    def __init__(self, decider: Decider, policy: Policy, low: Floats, high: Floats, target_return: float) -> None:
        self.decider = decider
        self.policy = policy
        self.target_return = target_return
        self._middle, self._half = (high + low) / 2, (high - low) / 2
        self._components = np.zeros(policy.input_size)
        self.begin()

    def begin(self) -> None:
        """Start an episode: no tokens, no previous action, the whole return to go."""
        self.decider.new_episode()
        self.return_to_go = self.target_return
        self.step = 0
        self.token: NDArray[np.int64] = np.zeros(self.policy.input_size, np.int64)
        self.decision: Decision | None = None
        self._components[:] = 0

    def act(self, observation: NDArray[Any]) -> Floats:
        """Return the action for an observation [observations] in raw units, within the bounds [actions].

        Raises `AgentError` for a NaN or an infinity.
        """
        policy, size = self.policy, self.policy.observation_size
        if not np.isfinite(observation).all():
            where = ", ".join(map(str, np.flatnonzero(~np.isfinite(observation))))
            raise AgentError(
                f"the observation holds a NaN or an infinity in step {self.step} (component {where}); "
                "the environment has diverged or is misread: start another episode"
            )
        self._components[:size] = (observation - policy.input_mean) / policy.input_std
        self._components[-1] = self.return_to_go / policy.return_scale
        self.token = quantise_token(policy, self._components)
        self.decision = self.decider.decide(self.token)
        action: Floats = self.decision.words / ACTION_SCALE
        self._components[size:-1] = action
        self.step += 1
        return self._middle + self._half * action

    def reward(self, reward: float) -> None:
        """Take a reward off the return still to go. Raises `AgentError` for a NaN or an infinity."""
        if not np.isfinite(reward):
            raise AgentError(f"the reward of step {self.step - 1} is {reward}; the environment has diverged")
        self.return_to_go -= reward
