# SPDX-License-Identifier: MIT
"""A board that is none, for the real pynq: its registers are the simulated circuit's.

All of pynq's own code for a board runs: reading .bit and .hwh, keeping what it read, loading by the FPGA manager,
clocks from dividers, widths of ports, MMIO. What a PC lacks is put in its place here and nowhere else: XRT, /dev/mem,
/lib/firmware, sysfs, the device tree and the processor's registers.
"""

import mmap
from pathlib import Path

import numpy as np
import pynq
from pynq.pl_server import embedded_device, global_state
from pynq.pl_server.embedded_device import EmbeddedDevice

from host.board import zynq
from hw.registers import WINDOW_BYTES
from tests.trapped_window import TrappedWindow

SLCR, CRL_APB, CRF_APB, FPD_SLCR = 0xF800_0000, 0xFF5E_0000, 0xFD1A_0000, 0xFD61_5000

CHIPS = {
    # architecture, as `platform.machine` says it there; the processor's registers after the image has booted
    "xlnx,zynq-7000": ("armv7l", {SLCR + 0x108: 20 << 12, SLCR + 0x170: 1 << 20 | 20 << 8}),  # 50 MHz * 20, over 20
    "xlnx,zynqmp": ("aarch64", {CRL_APB + 0x20: 90 << 8 | 1 << 16, CRL_APB + 0xC0: 1 << 24 | 1 << 16 | 30 << 8}),
}


class FakeBoard(EmbeddedDevice):
    """A `pynq.Device` without hardware.

    chip : key of `CHIPS`. image : what the FPGA manager must be given for the circuit to be there. library : of the
    simulated circuit. root : folder for files. `events` is what was done to the board, in order; `memory` holds its
    processor's registers by page.
    """

    def __init__(self, chip, image, library, root):
        pynq.Device.__init__(self, "fake")
        self.capabilities = {"MEMORY_MAPPED": True}
        self.chip, self.root, self.events = chip, root, []
        self.arch, registers = CHIPS[chip]
        self.memory = {page: np.zeros(1024, np.uint32) for page in (SLCR, CRL_APB, CRF_APB, FPD_SLCR)}
        for address, word in registers.items():
            self.memory[address & ~0xFFF][(address & 0xFFF) // 4] = word
        self._image, self._library, self._window = image, library, None
        self.BS_FPGA_MAN, self.BS_FPGA_MAN_FLAGS = str(root / "firmware"), str(root / "flags")
        (root / "lib").mkdir()

    name = "fake"

    def install(self, monkeypatch):
        """Make this the machine's board until the test ends."""
        monkeypatch.setattr(pynq.Device, "_active_device", self, raising=False)
        monkeypatch.setattr(pynq.Clocks, "device", None)
        monkeypatch.delattr(pynq.Clocks, "_real_instance", raising=False)  # of the last test's board
        monkeypatch.setattr(embedded_device, "Path", lambda *p: self.root / "lib" if p == FIRMWARE else Path(*p))
        monkeypatch.setattr(embedded_device, "__file__", str(self.root / "kept"))
        monkeypatch.setattr(global_state, "STATE_DIR", str(self.root))
        for module in (embedded_device, global_state):
            monkeypatch.setattr(module, "initial_global_state_file_boot_check", lambda *tag: None)
        monkeypatch.setattr(embedded_device, "_create_xclbin", lambda memories: embedded_device.DEFAULT_XCLBIN)
        monkeypatch.setattr(zynq, "family", lambda root: zynq.FAMILIES[self.chip])
        monkeypatch.chdir(self.root)

    def _xrt_download(self, data):
        """Come to life, as the FPGA manager would have made it by now."""
        self.release()
        name = (self.root / "firmware").read_text()
        assert (self.root / "flags").read_text() == "0"
        self.events.append(("loaded", name, (self.root / "lib" / name).read_bytes() == self._image))
        if self.events[-1][2]:
            memory = mmap.mmap(-1, WINDOW_BYTES)
            array = np.frombuffer(memory, np.uint32)
            self._window = array, TrappedWindow(array.ctypes.data, self._library).__enter__()

    def mmap(self, base_addr, length):
        """Return the memory at a physical address, uint32 [length / 4]."""
        self.events.append(("mapped", base_addr))
        if base_addr == zynq.FAMILIES[self.chip].base and length == WINDOW_BYTES:
            assert self._window, "an access here would stop a board: its logic is not configured"
            return self._window[0]
        first = base_addr % 4096 // 4
        return self.memory[base_addr & ~0xFFF][first : first + length // 4]

    def release(self):
        """End the simulated circuit."""
        if self._window:
            self._window[1].__exit__()
            self._window = None

    @property
    def trapped(self):
        """What catches the accesses to the circuit."""
        return self._window[1]


FIRMWARE = ("/lib/firmware",)
