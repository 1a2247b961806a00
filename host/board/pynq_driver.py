# SPDX-License-Identifier: MIT
"""The circuit in a PYNQ overlay, bound by its type in the .hwh. Importing this imports pynq. Not run on a board yet."""

from functools import cached_property
from typing import Any

import pynq  # type: ignore[import-not-found]

from host.board.mapped import MappedBus, word_functions
from host.bus import BusError

VLNV = "xilinx.com:module_ref:spikeloop_axi:1.0"
"""Type of the circuit in every .hwh: vendor, library, name, version (bitstreams/hwh.py)."""


class Spikeloop(pynq.DefaultIP):  # type: ignore[misc]
    """The circuit in an overlay, once this module is imported: `pynq.Overlay("top.bit").spikeloop`.

    Its `read` and `write` are pynq's. `Accelerator(overlay.spikeloop.bus, geometry)` is the driver of this package.
    """

    bindto = [VLNV]

    @cached_property
    def bus(self) -> MappedBus:
        """The register window, a word at a time. Raises `BusError` where pynq maps no memory."""
        return MappedBus(mapped(self.mmio), word_functions())


def mapped(mmio: Any) -> memoryview:
    """Return the memory of a `pynq.MMIO`. Raises `BusError` for a device that has none."""
    try:
        return memoryview(mmio.array)
    except TypeError:
        raise BusError(
            "pynq shows no mapped memory: a remote or simulated device? run this on the board itself"
        ) from None
