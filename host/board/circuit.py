# SPDX-License-Identifier: MIT
"""The accelerator of a board: its clock is measured before it decides anything. Not run on a board yet."""

import time

import numpy as np

from host.accelerator import Accelerator
from host.board.bitstream import Bitstream, BitstreamError
from host.bus import Bus
from host.policy_image import PolicyImage
from model.deployed.geometry import Geometry

MEASURED_CYCLES = 5_000_000
"""A twentieth of a second at 100 MHz."""

MEASURED_TOLERANCE = 1.01
"""Of a measured clock: what the host takes to see the end makes it look slower, never faster."""


class BoardAccelerator(Accelerator):
    """An `Accelerator` that knows its clock. The register table has none to read, so decisions are timed.

    bitstream : what was loaded, whose clock must not be exceeded; None if it is not known.
    `clock_mhz` is measured with every policy, None before the first.
    """

    def __init__(self, bus: Bus, geometry: Geometry, bitstream: Bitstream | None) -> None:
        super().__init__(bus, geometry)
        self._bitstream = bitstream

    def load_image(self, image: PolicyImage) -> None:
        """Load a packed policy, time the circuit on it and begin an episode.

        Raises `BitstreamError` where the clock is faster than the bitstream was signed off for.
        """
        super().load_image(image)
        self.clock_mhz = self._measure(image.registers["INPUT_COUNT"])
        self.new_episode()
        if self._bitstream and self.clock_mhz > self._bitstream.clock_mhz * MEASURED_TOLERANCE:
            self._inputs = 0  # nothing it computes can be trusted
            raise BitstreamError(
                f"the circuit runs at {self.clock_mhz:.1f} MHz as measured, its bitstream is good for "
                f"{self._bitstream.clock_mhz:g} MHz; set the clock slower"
            )

    def _measure(self, inputs: int) -> float:
        """Return the clock in MHz: busy cycles over time, while the circuit repeats a decision by itself."""
        token = np.zeros(inputs, np.int64)
        repeats = MEASURED_CYCLES // max(1, self.decide(token).cycles)
        _, before = self.totals()
        self.bus.write32(self._at["REPEAT"], repeats)
        start = time.perf_counter()
        self.decide(token)
        seconds = time.perf_counter() - start
        self.bus.write32(self._at["REPEAT"], 0)
        _, after = self.totals()
        return (after - before) / seconds / 1e6
