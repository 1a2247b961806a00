# SPDX-License-Identifier: MIT
"""The gait phase of a hopping robot, from what it observes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

HEIGHT_VELOCITY = {"Hopper": 6, "Walker2d": 9}
"""Robot -> which component of its observation is the vertical velocity of its torso."""
SHORTEST, LONGEST = 20, 200
"""Steps of a hop; what is shorter is a wobble, what is longer no gait."""


def phases(environment: str, observations: NDArray[Any]) -> list[float | None]:
    """Return where in its hop the robot is at each step, 0..1, None where it does not hop.

    A hop goes from one lowest point of the torso, where its vertical velocity turns from down to up, to the next.
    observations [steps, components].
    """
    result: list[float | None] = [None] * len(observations)
    component = HEIGHT_VELOCITY.get(environment.split("-")[0])
    if component is None:
        return result
    velocity = observations[:, component]
    turns = (1 + np.flatnonzero((velocity[:-1] < 0) & (velocity[1:] >= 0))).tolist()
    start = None
    for turn in turns:
        if start is not None and turn - start < SHORTEST:
            continue
        if start is not None and turn - start <= LONGEST:
            result[start:turn] = np.round(np.arange(turn - start) / (turn - start), 3).tolist()
        start = turn
    return result
