# SPDX-License-Identifier: MIT
"""Key to door: a corridor whose beginning shows a key and whose end asks for it; nothing between tells which it was."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

ID = "KeyToDoor-v0"
WALK = 0
"""The action that goes a step on; the others, 1 to `doors`, open a door."""
LENGTHS = (4, 1000)
"""Fewest and most tokens of an episode."""
VIEW = 8
"""The key is in view for one in this many of an episode's tokens, from the first on, at least for one."""
WALLS = 3
"""Observation components that are 1 or -1 at random in every step: distractors."""


class KeyToDoor(gymnasium.Env[NDArray[np.float32], np.int64]):
    """A key in the first eighth of `length` observations, `doors` doors in the last; the reward, 1, is for the key's.

    Observation: a component per key, 1 for the one shown; 1 where the doors are; the walls. To open a door before there
    is one ends the episode too, with nothing. So an agent that walks and guesses gets 1 / doors on average.

    Raises `ValueError` for sizes that make no corridor.
    """

    def __init__(self, length: int = 64, doors: int = 4) -> None:
        low, high = LENGTHS
        if type(length) is not int or not low <= length <= high:
            raise ValueError(f"length must be {low} to {high} tokens from the key to the doors, not {length!r}")
        if type(doors) is not int or not 2 <= doors <= 8:
            raise ValueError(f"doors must be 2 to 8, not {doors!r}")
        self.length, self.doors = length, doors
        self.observation_space = spaces.Box(-1.0, 1.0, (doors + 1 + WALLS,), np.float32)
        self.action_space = spaces.Discrete(1 + doors)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw a key and show it."""
        super().reset(seed=seed)
        self.key, self.place = int(self.np_random.integers(self.doors)), 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Walk on, or open a door and end."""
        opened, at_the_doors = int(action) != WALK, self.place == self.length - 1
        reward = float(at_the_doors and int(action) == 1 + self.key)
        if not (opened or at_the_doors):
            self.place += 1
        return self._observation(), reward, opened or at_the_doors, False, {}

    def _observation(self) -> NDArray[np.float32]:
        seen = np.zeros(self.doors + 1 + WALLS, np.float32)
        seen[self.key] = self.place < max(1, self.length // VIEW)
        seen[self.doors] = self.place == self.length - 1
        seen[self.doors + 1 :] = self.np_random.choice([-1.0, 1.0], WALLS)
        return seen


def scripted(doors: int) -> Callable[[NDArray[Any], bool], int]:
    """Return an agent that walks, remembers the key that it saw last, and opens its door."""
    key = 0

    def act(observation: NDArray[Any], sample: bool) -> int:
        nonlocal key
        if observation[:doors].any():
            key = int(np.argmax(observation[:doors]))
        return 1 + key if observation[doors] else WALK

    return act


gymnasium.register(ID, entry_point=f"{__name__}:KeyToDoor")
