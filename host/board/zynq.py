# SPDX-License-Identifier: MIT
"""Buses on the boards themselves: which one there is, and opening it. Not run on a board yet."""

import ctypes
import mmap
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from host.board.bitstream import Bitstream, load_by_kernel, require_configured
from host.board.mapped import MappedBus, map_window, word_functions
from host.bus import BusError
from hw.registers import WINDOW_BYTES

BUSES = ("auto", "uio", "devmem", "pynq")

UIO_NAME = "fabric"
"""What the device tree of PYNQ's images calls the window that they lend to user space."""

ZYNQMP = "xlnx,zynqmp"

AXI_FS, HPM0_WIDTH = 0xFD61_5000, 0b11 << 8
"""Address and field of the width of a ZynqMP's M_AXI_HPM0_FPD (UG1087, FPD_SLCR.AXI_FS, DW_SS0_SEL); 0 is 32 bits."""


@dataclass(frozen=True)
class Family:
    """A kind of chip: where the window of a circuit lies in it."""

    name: str
    base: int


FAMILIES = {
    "xlnx,zynq-7000": Family("Zynq-7000 (PYNQ-Z2)", 0x4000_0000),
    ZYNQMP: Family("ZynqMP (ZCU104)", 0xA000_0000),
}
"""By the word in the device tree."""


def family(root: Path) -> Family | None:
    """Return the kind of chip this runs on, or None where it is another machine."""
    try:
        words = (root / "proc/device-tree/compatible").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((FAMILIES[word.decode()] for word in words if word.decode(errors="replace") in FAMILIES), None)


def find_uio(base: int, root: Path, name: str = UIO_NAME) -> Path | None:
    """Return the UIO device of that name whose first map is a window at `base`, or None.

    Numbers of UIO devices depend on the order in which drivers load; names and addresses do not.
    """
    for entry in sorted((root / "sys/class/uio").glob("uio*")):
        try:
            found = (entry / "name").read_text().strip()
            address, size = (int((entry / "maps/map0" / part).read_text(), 16) for part in ("addr", "size"))
        except (OSError, ValueError):
            continue
        if found == name and address == base and size >= WINDOW_BYTES:
            return root / "dev" / entry.name
    return None


class UioBus(MappedBus):
    """The window as the kernel lends it through /dev/uioN: no root where a udev rule says so, no pynq.

    device : the file. Raises `BusError`.
    """

    def __init__(self, device: Path, functions: ctypes.CDLL | None) -> None:
        memory, release = map_window(device, 0)
        super().__init__(memory, functions, release)


class DevMemBus(MappedBus):
    """The window at its physical address through /dev/mem: needs root and a kernel that allows it.

    Raises `BusError`.
    """

    def __init__(self, base: int, functions: ctypes.CDLL | None, device: Path = Path("/dev/mem")) -> None:
        memory, release = map_window(device, base)
        super().__init__(memory, functions, release)


def narrow_port(memory: Path) -> None:
    """Set a ZynqMP's M_AXI_HPM0_FPD to the 32 bits of every bitstream. Raises `BusError`.

    The boot loader leaves the width of another design, and the kernel's FPGA manager does not touch it; pynq sets it
    from the .hwh. memory : /dev/mem.
    """
    page, release = map_window(memory, AXI_FS, mmap.PAGESIZE)
    words = memoryview(page).cast("I")
    words[0] = words[0] & ~HPM0_WIDTH
    words.release()
    release()


@dataclass(frozen=True)
class Opened:
    """A bus on a board, and what is known of the circuit behind it."""

    bus: MappedBus
    reason: str  # why this bus, for people
    clock_mhz: float | None  # as set and read back; None where nothing tells


def open_board(
    kind: str,
    bitstream: Bitstream | None,
    note: Callable[[str], None] = lambda line: None,
    root: Path = Path("/"),
    compiled: bool = True,
) -> Opened:
    """Open the bus to the circuit on this board, after loading its bitstream if one is given.

    kind : one of `BUSES`; "auto" takes UIO where the kernel lends the window, else pynq where there is a bitstream to
    load and pynq is installed, else /dev/mem. compiled : whether words.c may be used. root : of the file system.
    Raises `BusError`: on another machine, where nothing is configured, where a device may not be opened.
    """
    chip = family(root)
    if chip is None:
        raise BusError(
            "this machine is no Zynq, so it has no circuit of its own; name the board with --board HOST, or use "
            "--device verilated"
        )
    if bitstream and bitstream.base != chip.base:
        raise BusError(
            f"{bitstream.path} is for a board whose window lies at 0x{bitstream.base:08x}, not for {chip.name}; take "
            "this board's bitstream"
        )
    functions = word_functions(note) if compiled else None
    uio = find_uio(chip.base, root)
    if kind == "auto":
        kind, reason = _choose(uio, bitstream)
    else:
        reason = "as --bus says"
    clock_mhz = None
    if kind == "pynq":
        from host.board.pynq_bus import PynqBus

        if bitstream is None:
            raise BusError("pynq shows no circuit but one that it loaded; give its file with --bitstream")
        bus: MappedBus = (pynq_bus := PynqBus(bitstream, chip.base, functions))
        clock_mhz = pynq_bus.clock_mhz
    else:
        if kind == "uio" and uio is None:
            raise BusError(
                f"no UIO device is called {UIO_NAME} and lies at 0x{chip.base:08x}; look at /sys/class/uio/*/name, or "
                "use --bus devmem"
            )
        if bitstream:
            load_by_kernel(bitstream, root)
            if chip is FAMILIES[ZYNQMP]:
                narrow_port(root / "dev/mem")
        require_configured(root)
        if kind == "uio":
            assert uio is not None
            bus = UioBus(uio, functions)
        else:
            bus = DevMemBus(chip.base, functions, root / "dev/mem")
    return Opened(bus, f"{kind} at 0x{chip.base:08x} on {chip.name}: {reason}", clock_mhz)


def _choose(uio: Path | None, bitstream: Bitstream | None) -> tuple[str, str]:
    if uio is not None:
        return "uio", f"the kernel lends the window as {uio}"
    if bitstream is not None and _pynq_is_installed():
        return "pynq", "no UIO device; pynq is installed and loads the bitstream"
    return "devmem", "no UIO device, and no bitstream for pynq to load"


def _pynq_is_installed() -> bool:
    import importlib.util

    return "pynq" in sys.modules or importlib.util.find_spec("pynq") is not None
