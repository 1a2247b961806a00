# SPDX-License-Identifier: MIT
"""A file whose mapping is a simulated circuit's register window, every load and store caught (trapped_window.c)."""

import ctypes
import platform
from pathlib import Path

import numpy as np
import pytest

from host.verilated import VerilatedBus
from hw.registers import WINDOW_BYTES
from model.compiled import compiled

SOURCE = Path(__file__).with_name("trapped_window.c")
CACHE = Path(__file__).resolve().parent.parent / "build" / "words"
EVENTS = 1 << 16

on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="accesses are caught by x86's single steps")
"""Not on other processors: trapped_window.c goes through an access by x86's trap flag."""


class TrappedWindow:
    """Stands between a window in memory and a simulated circuit while it is entered.

    address : of ordinary memory, `WINDOW_BYTES` on a page of its own. library : of the simulated circuit.
    """

    def __init__(self, address, library):
        self.circuit = VerilatedBus(library)
        self._trap = ctypes.CDLL(str(compiled(SOURCE, ("cc", "-O2", "-shared", "-fPIC"), CACHE)))
        pointer = ctypes.c_void_p
        self._trap.trap_arm.argtypes = (pointer, ctypes.c_size_t, pointer, pointer, pointer)
        self._trap.trap_take.argtypes = (pointer, pointer)
        self._address = address
        self._events = np.zeros(EVENTS, np.uint32)

    def __enter__(self):
        shim = self.circuit._shim
        transfers = [ctypes.cast(function, ctypes.c_void_p) for function in (shim.spikeloop_read, shim.spikeloop_write)]
        self._trap.trap_arm(self._address, WINDOW_BYTES, *transfers, self.circuit._circuit)
        return self

    def __exit__(self, *failure):
        self._trap.trap_disarm()
        self.circuit.close()

    def take(self):
        """Return the accesses since the last call, as ("load" or "store", address), and how many were odd."""
        odd = ctypes.c_uint32()
        count = self._trap.trap_take(self._events.ctypes.data, ctypes.addressof(odd))
        assert count <= EVENTS
        events = self._events[:count].tolist()
        return [("store" if event & 1 else "load", event & ~3) for event in events], odd.value
