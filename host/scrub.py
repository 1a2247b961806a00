# SPDX-License-Identifier: MIT
"""Scrubbing: a loaded policy is read back a little at a time, between decisions."""

import numpy as np

from host.accelerator import Accelerator, AcceleratorError
from host.policy_image import PolicyImage


class Scrubber:
    """Reads the policy memory of an idle circuit in turns and compares it with what was loaded.

    A bit that flips in the memory is found within `period` calls of `step`, wherever it is: that many cover everything.

    Parameters
    ----------
    accelerator : with the policy loaded
    image : what was loaded
    words : to read in a call, at least 1; each costs a bus access, none of them while a decision runs

    """

    def __init__(self, accelerator: Accelerator, image: PolicyImage, words: int) -> None:
        self._accelerator = accelerator
        self._parts = [
            (name, first, expected[first : first + words])
            for name, expected in image.sections.items()
            for first in range(0, len(expected), words)
        ]
        self._next = 0

    @property
    def period(self) -> int:
        """Calls of `step` that read the whole policy."""
        return len(self._parts)

    def step(self) -> None:
        """Read the next part. Raises `AcceleratorError` where it is not what was loaded."""
        name, first, expected = self._parts[self._next]
        self._next = (self._next + 1) % len(self._parts)
        found = self._accelerator.peek(name, first, len(expected))
        if wrong := np.flatnonzero(found != expected).tolist():
            word = first + wrong[0]
            raise AcceleratorError(
                f"the circuit's {name} memory has changed since it was loaded: word {word} reads "
                f"0x{found[wrong[0]]:08x} instead of 0x{expected[wrong[0]]:08x}; load the policy again and fly again"
            )
