# SPDX-License-Identifier: MIT
"""The circuit on a board through pynq, which loads the bitstream and sets the clock. Not run on a board yet."""

import ctypes
import importlib
import re
from pathlib import Path
from typing import Any

from host.board.bitstream import Bitstream
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
        pynq, device = _import()
        handoff = bitstream.path.with_suffix(".hwh")
        if (design := bitstream.path.with_suffix(".xsa")).exists():
            raise BusError(f"pynq would read {design} instead of the .bit beside it and fail; move the .xsa elsewhere")
        described = handoff.exists()
        if not described and base != ZYNQ_7000_BASE:
            raise BusError(f"{handoff} is missing, by which pynq sets the widths of a ZynqMP's ports; copy it too")
        if base == ZYNQ_7000_BASE and _major(pynq) >= 4:
            # pynq 4 divides by a frequency that no Zynq-7000 description has
            described = False
        # imports pynq too, and binds itself to the circuit's type
        from host.board.pynq_driver import VLNV, Spikeloop, mapped

        try:
            if described:
                self._loaded = pynq.Overlay(str(bitstream.path), device=device)
            else:
                self._loaded = pynq.Bitstream(str(bitstream.path), device=device)
                self._loaded.download()
            # neither way of loading can be trusted to set it
            pynq.Clocks.fclk0_mhz = bitstream.clock_mhz
            self.clock_mhz = float(pynq.Clocks.fclk0_mhz)
            bitstream.check_clock(self.clock_mhz)
            if described:
                cells = [cell for cell in self._loaded.ip_dict.values() if cell.get("driver") is Spikeloop]
                if [cell["phys_addr"] for cell in cells] != [base]:
                    found = ", ".join(f"0x{cell['phys_addr']:08x}" for cell in cells) or "none"
                    raise BusError(
                        f"one circuit of type {VLNV} at 0x{base:08x} is wanted, {handoff} describes {found}; copy the "
                        f".hwh of this .bit, and remove {_kept(pynq)}, which pynq reads instead for a .bit it knows"
                    )
            memory = mapped(pynq.MMIO(base, WINDOW_BYTES, device))
        except BusError:
            raise
        except Exception as error:  # pynq raises whatever its layers do
            raise BusError(f"pynq cannot load {bitstream.path}: {' '.join(str(error).split())}") from None
        super().__init__(memory, functions)


def _import() -> tuple[Any, Any]:
    """Return pynq and its device. Raises `BusError`."""
    try:
        pynq = importlib.import_module("pynq")
    except ImportError as error:
        raise BusError(
            f"pynq cannot be imported ({error}); use the image's Python (. /etc/profile.d/pynq_venv.sh as root), "
            "or --bus uio or devmem"
        ) from None
    try:
        return pynq, pynq.Device.active_device
    except RuntimeError as error:
        raise BusError(
            f"pynq finds no device ({error}); run as root, after . /etc/profile.d/xrt_setup.sh, or take --bus uio or "
            "devmem"
        ) from None


def _major(pynq: Any) -> int:
    found = re.match(r"\d+", str(getattr(pynq, "__version__", "")))
    return int(found.group()) if found else 0


def _kept(pynq: Any) -> Path:
    """Return where pynq keeps the description of the last .bit it loaded."""
    return Path(pynq.__file__).parent / "pl_server" / "_current_metadata.pkl"
