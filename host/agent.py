# SPDX-License-Identifier: MIT
"""What stands between an environment and the circuit: normalisation, the previous action, the return still to go."""

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from host.accelerator import Decision
from model.data.environments import Actions
from model.deployed.artifact import ACTION_SCALE, Policy, quantise_token

if TYPE_CHECKING:
    import gymnasium

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
    space : the environment's actions; -1 and 1 of a continuous one are its bounds, a discrete one is the choice of the
    largest component.
    target_return : what each episode is asked to reach, in the environment's units.

    After `act`, `token` [inputs], `decision` and `action` [actions] are those of the last step; a discrete `action` is
    one-hot.
    """

    def __init__(self, decider: Decider, policy: Policy, space: "gymnasium.Space[Any]", target_return: float) -> None:
        self.decider = decider
        self.policy = policy
        self.target_return = target_return
        self._actions = Actions.of(space, policy.environment)
        self._components = np.zeros(policy.input_size)
        self.begin()

    def begin(self) -> None:
        """Start an episode: no tokens, no previous action, the whole return to go."""
        self.decider.new_episode()
        self.return_to_go = self.target_return
        self.step = 0
        self.token: NDArray[np.int64] = np.zeros(self.policy.input_size, np.int64)
        self.decision: Decision | None = None
        self.action: Floats = np.zeros(self.policy.action_size)
        self._components[:] = 0

    def act(self, observation: NDArray[Any]) -> Any:
        """Return the environment's action for an observation [observations] in raw units.

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
        settled = self._actions.settle(self.decision.words / ACTION_SCALE)
        self._components[size:-1] = settled
        self.step += 1
        executed = self._actions.execute(settled)
        self.action = settled if self._actions.discrete else executed
        return executed

    def reward(self, reward: float) -> None:
        """Take a reward off the return still to go, unless the policy was trained with delayed rewards.

        Raises `AgentError` for a NaN or an infinity.
        """
        if not np.isfinite(reward):
            raise AgentError(f"the reward of step {self.step - 1} is {reward}; the environment has diverged")
        if not self.policy.delayed:
            self.return_to_go -= reward
