# SPDX-License-Identifier: MIT
"""An environment whose world is another than the one a policy was trained in: masses, friction, motors, a lost sensor.

Chosen behind an id, for every command that takes one: `Hopper-v5 {"changed": {"mass": 1.5, "lost": 3}}`.
"""

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

FACTORS = ("mass", "friction", "gear")
"""Choices that multiply something in a MuJoCo model."""
CHOICES = (*FACTORS, "lost")


class Changed(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """A world with some numbers multiplied, for good, and one observation component that is always zero.

    mass : times every body's mass and inertia, as of another density. friction : times all coefficients of every
    geom. gear : times what every actuator makes of its control. lost : the component, counted from 0; None loses none.

    Raises `ValueError` for a choice that is none, or that this environment has not.
    """

    def __init__(self, env: "gymnasium.Env[Any, Any]", **choices: Any) -> None:
        unknown = [name for name in choices if name not in CHOICES]
        if unknown:
            raise ValueError(f"changed has no {', '.join(unknown)}; it has {', '.join(CHOICES)}")
        factors = {name: value for name, value in choices.items() if name in FACTORS}
        for name, value in factors.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"changed's {name} must be a number above 0, which it is multiplied by, not {value!r}")
        self.lost = choices.get("lost")
        if self.lost is not None:
            space = env.observation_space
            size = space.shape[0] if isinstance(space, spaces.Box) and len(space.shape) == 1 else 0
            if type(self.lost) is not int or not 0 <= self.lost < size:
                raise ValueError(
                    f"changed's lost must be a component of the observation, 0 to {size - 1}, not {self.lost!r}"
                )
        RecordConstructorArgs.__init__(self, **choices)
        gymnasium.Wrapper.__init__(self, env)
        if factors:
            self._multiply(**factors)

    def _multiply(self, mass: float = 1.0, friction: float = 1.0, gear: float = 1.0) -> None:
        import mujoco  # type: ignore[import-untyped]

        model, data = (getattr(self.unwrapped, name, None) for name in ("model", "data"))
        if not isinstance(model, mujoco.MjModel):
            raise ValueError(f"changed's {', '.join(FACTORS)} are of MuJoCo's models, and this environment has none")
        model.body_mass[:] *= mass
        model.body_inertia[:] *= mass
        model.geom_friction[:] *= friction
        model.actuator_gear[:] *= gear
        mujoco.mj_setConst(model, data)  # what MuJoCo derives from masses

    def reset(self, **options: Any) -> tuple[NDArray[Any], dict[str, Any]]:
        """Begin an episode."""
        observation, facts = self.env.reset(**options)
        return self._seen(observation), facts

    def step(self, action: Any) -> tuple[NDArray[Any], Any, bool, bool, dict[str, Any]]:
        """Take a step; the reward is of the world as it is, not as it is seen."""
        observation, reward, terminated, truncated, facts = self.env.step(action)
        return self._seen(observation), reward, terminated, truncated, facts

    def _seen(self, observation: NDArray[Any]) -> NDArray[Any]:
        if self.lost is None:
            return observation
        seen = np.array(observation)
        seen[self.lost] = 0
        return seen


def changed(env: "gymnasium.Env[Any, Any]", choices: Any) -> Changed:
    """Wrap an environment by what JSON says. Raises `ValueError`."""
    if not isinstance(choices, dict):
        raise ValueError(f"changed must be an object with some of {', '.join(CHOICES)}, not {choices!r}")
    return Changed(env, **choices)
