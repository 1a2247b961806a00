# SPDX-License-Identifier: MIT
"""The third factor of plasticity: what a return is worth to a learner that has seen others."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Yardstick:
    """What a value is worth as a third factor: its distance from the mean of those before it, of each learner alone.

    A learner's first two values are worth nothing: there is no mean, then no deviation. limit : the largest factor.
    """

    def __init__(self, learners: int, limit: int) -> None:
        self.limit = limit
        self._count, self._mean, self._squares = (np.zeros(learners) for _ in range(3))

    def factor(self, values: NDArray[np.float64], told: Sequence[int]) -> NDArray[np.int64]:
        """Return the factors [learners] of values [learners], zero for those not in `told`, and remember the values.

        Two deviations of the values so far, or more, are the largest factor.
        """
        rows = np.asarray(told, np.int64)
        count, mean, squares = self._count[rows], self._mean[rows], self._squares[rows]
        distance = values[rows] - mean
        deviation = np.sqrt(squares / np.maximum(count - 1, 1))
        worth = np.divide(distance, 2 * deviation, out=np.zeros(len(rows)), where=deviation > 0)
        self._count[rows] += 1
        self._mean[rows] += distance / self._count[rows]
        self._squares[rows] += distance * (values[rows] - self._mean[rows])
        factors = np.zeros(len(values), np.int64)
        factors[rows] = np.rint(self.limit * np.clip(worth, -1, 1))
        return factors
