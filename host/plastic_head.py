# SPDX-License-Identifier: MIT
"""The driver's side of a head that learns: third factor, freeze, and what it has learned read back."""

import numpy as np
from numpy.typing import NDArray

from host.accelerator import Accelerator, AcceleratorError
from host.bus import BusTimeout
from host.policy_image import unpack_head, unpack_rows
from hw.memory_map import memory_map
from hw.registers import offsets


class PlasticHead:
    """The head of a circuit that learns, its policy loaded, while no decision runs.

    Raises `GeometryError` where the circuit's head does not learn.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.rule = accelerator.geometry.require_plasticity()
        self._accelerator, self._bus = accelerator, accelerator.bus
        self._at = offsets(accelerator.geometry)
        self._actions = self._bus.read32(self._at["ACTION_COUNT"])

    @property
    def frozen(self) -> bool:
        """Whether traces and weights stand still."""
        return bool(self._bus.read32(self._at["FROZEN"]))

    @frozen.setter
    def frozen(self, frozen: bool) -> None:
        self._bus.write32(self._at["FROZEN"], int(frozen))

    def learn(self, factor: int) -> None:
        """Change the weights by the traces and a third factor, signed `Plasticity.factor_bits`.

        Raises `ValueError` for a factor out of range, `AcceleratorError` if the circuit does not end.
        """
        bus, at, bits = self._bus, self._at, self.rule.factor_bits
        if not -(1 << (bits - 1)) <= factor < 1 << (bits - 1):
            raise ValueError(f"the third factor must be {-(1 << (bits - 1))} to {(1 << (bits - 1)) - 1}, not {factor}")
        number = bus.read32(at["LEARN"]) % 0xFFFF_FFFF + 1
        bus.write32(at["FACTOR"], factor & ((1 << bits) - 1))
        bus.write32(at["LEARN"], number)
        try:
            bus.poll(at["LEARNED"], 0xFFFF_FFFF, number, bus.decision_timeout_s)
        except BusTimeout as error:
            raise AcceleratorError(f"the change {number} of the head did not end: {error}; reset the circuit") from None

    def weights(self) -> NDArray[np.int64]:
        """Return the weights as they are now, [actions, d_model]."""
        return unpack_head(self._accelerator.geometry, self._words("head"), self._actions)

    def traces(self) -> NDArray[np.int64]:
        """Return the eligibility traces as the last decision left them, [actions, d_model]."""
        g, section = self._accelerator.geometry, memory_map(self._accelerator.geometry)["traces"]
        rows = unpack_rows(self._words("traces"), self.rule.trace_bits, section, signed=True)
        return rows.reshape(g.action_size, g.d_model)[: self._actions]

    def _words(self, name: str) -> NDArray[np.uint32]:
        section = memory_map(self._accelerator.geometry)[name]
        return self._accelerator.peek(name, 0, section.rows * section.stride)
