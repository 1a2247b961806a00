# SPDX-License-Identifier: MIT
"""The circuit on a board through pynq, which loads the bitstream and sets the clock. Not run on a board yet."""

import ctypes
import importlib
import re
from typing import Any

from host.board.bitstream import Bitstream, BitstreamError
from host.board.mapped import MappedBus
from host.bus import BusError
from hw.registers import WINDOW_BYTES

ZYNQ_7000_BASE = 0x4000_0000


class PynqBus(MappedBus):
    """The window behind `pynq.MMIO`, whose memory is used directly: its own slices copy several words at once.

    bitstream : loaded as an Overlay where a .hwh lies beside it, else as a bare Bitstream. base : of the window.
    `clock_mhz` is the clock as read back. Raises `BusError`.
    """

    def __init__(self, bitstream: Bitstream, base: int, functions: ctypes.CDLL | None) -> None:
        pynq = _import()
        if (design := bitstream.path.with_suffix(".xsa")).exists():
            raise BusError(f"pynq would read {design} instead of the .bit beside it and fail; move the .xsa elsewhere")
        described = bitstream.path.with_suffix(".hwh").exists()
        if described and base == ZYNQ_7000_BASE and _major(pynq) >= 4:
            # pynq 4 divides by a frequency that no Zynq-7000 description has
            described = False
        try:
            if described:
                self._loaded = pynq.Overlay(str(bitstream.path))
            else:
                self._loaded = pynq.Bitstream(str(bitstream.path))
                self._loaded.download()
            # neither way of loading can be trusted to set it
            pynq.Clocks.fclk0_mhz = bitstream.clock_mhz
            self.clock_mhz = float(pynq.Clocks.fclk0_mhz)
            bitstream.check_clock(self.clock_mhz)
            memory: Any = getattr(pynq.MMIO(base, WINDOW_BYTES), "array", None)
        except BitstreamError:
            raise
        except Exception as error:  # pynq raises whatever its layers do
            raise BusError(f"pynq cannot load {bitstream.path}: {' '.join(str(error).split())}") from None
        try:
            octets = memoryview(memory)
        except TypeError:
            raise BusError(
                "pynq shows no mapped memory: a remote or simulated device? run this on the board itself"
            ) from None
        super().__init__(octets, functions)


def _import() -> Any:
    try:
        return importlib.import_module("pynq")
    except ImportError as error:
        raise BusError(
            f"pynq cannot be imported ({error}); use the image's Python (. /etc/profile.d/pynq_venv.sh as root), "
            "or --bus uio or devmem"
        ) from None


def _major(pynq: Any) -> int:
    found = re.match(r"\d+", str(getattr(pynq, "__version__", "")))
    return int(found.group()) if found else 0
