# SPDX-License-Identifier: MIT
"""Which bus a board has: UIO, physical memory, pynq."""

import sys
import types

import numpy as np
import pytest

from host.board import pynq_bus
from host.board.bitstream import Bitstream, BitstreamError, require_configured
from host.board.zynq import open_board
from host.bus import BusError
from hw.registers import WINDOW_BYTES, offsets
from model.deployed.geometry import TINY
from tests.board_files import ZYNQ, ZYNQMP, published, system


@pytest.fixture
def bitstream(tmp_path):
    return published(tmp_path)


def test_the_uio_device_is_found_by_name_and_address(tmp_path):
    root = system(
        tmp_path,
        uio0=("audio", 0x4000_0000, 1 << 16),
        uio1=("fabric", 0x4120_0000, 1 << 16),
        uio2=("fabric", 0x4000_0000, 1 << 12),
        uio3=("fabric", 0x4000_0000, 1 << 16),
    )
    opened = open_board("auto", None, root=root)
    assert "uio at 0x40000000 on Zynq-7000 (PYNQ-Z2): the kernel lends the window" in opened.reason
    assert "uio3" in opened.reason
    opened.bus.write32(offsets(TINY)["SCRATCH"], 7)
    opened.bus.close()
    assert [(root / f"dev/uio{n}").read_bytes()[12] for n in range(4)] == [0, 0, 0, 7]


def test_without_uio_there_is_physical_memory_at_the_chip_s_address(tmp_path):
    root = system(tmp_path, ZYNQMP, uio0=("fabric", 0x4000_0000, 1 << 16))  # the other chip's address
    with (root / "dev/mem").open("wb") as file:
        file.truncate(0xA001_0000)
    opened = open_board("auto", None, root=root)
    assert opened.reason.startswith("devmem at 0xa0000000 on ZynqMP (ZCU104): no UIO device")
    opened.bus.write32(offsets(TINY)["SCRATCH"], 0x0102_0304)
    opened.bus.close()
    with (root / "dev/mem").open("rb") as file:
        file.seek(0xA000_000C)
        assert file.read(4) == b"\4\3\2\1"
    with pytest.raises(BusError, match="no UIO device is called fabric and lies at 0xa0000000"):
        open_board("uio", None, root=root)


def test_what_must_not_be_touched_is_not(tmp_path):
    with pytest.raises(BusError, match="no Zynq"):
        open_board("devmem", None, root=tmp_path)
    root = system(tmp_path / "board", state="unknown", uio0=("fabric", 0x4000_0000, 1 << 16))
    with pytest.raises(BitstreamError, match=r"state 'unknown'.*load a bitstream first"):
        open_board("auto", None, root=root)
    (root / "sys/class/fpga_manager/fpga0/state").unlink()
    with pytest.raises(BitstreamError, match="nobody knows"):
        open_board("auto", None, root=root)
    with pytest.raises(BusError, match="give its file with --bitstream"):
        open_board("pynq", None, root=root)
    require_configured(system(tmp_path / "other"))


def test_a_device_that_is_missing(tmp_path):
    root = system(tmp_path, uio0=("fabric", 0x4000_0000, 1 << 16))
    (root / "dev/uio0").unlink()
    with pytest.raises(BusError, match="uio0 cannot be opened"):
        open_board("uio", None, root=root)


def test_a_bitstream_of_the_other_board_is_refused(tmp_path):
    path = published(tmp_path, "zcu104")
    with pytest.raises(BusError, match=r"window lies at 0xa0000000, not for Zynq-7000"):
        open_board("devmem", Bitstream.read(path), root=system(tmp_path / "board"))


# pynq, as far as this package calls it


class Clocks:
    real = None  # what the divider makes of a wish
    asked = None

    @property
    def fclk0_mhz(self):
        return Clocks.real or Clocks.asked

    @fclk0_mhz.setter
    def fclk0_mhz(self, mhz):
        Clocks.asked = mhz


def fake_pynq(monkeypatch, version, array=None):
    """Put a pynq of that version in place; return what it was asked to load."""
    loaded = []
    module = types.ModuleType("pynq")
    module.__version__ = version
    memory = np.zeros(WINDOW_BYTES // 4, np.uint32) if array is None else array
    module.Overlay = lambda path: loaded.append(("overlay", path))
    module.Bitstream = lambda path: types.SimpleNamespace(download=lambda: loaded.append(("bitstream", path)))
    module.MMIO = lambda base, size: types.SimpleNamespace(array=memory, base=base)
    module.Clocks = Clocks()
    monkeypatch.setattr(Clocks, "real", None)
    monkeypatch.setitem(sys.modules, "pynq", module)
    return loaded, memory


@pytest.mark.parametrize(
    ("version", "described", "compatible", "way"),
    [
        ("3.1.2", False, ZYNQ, "bitstream"),
        ("3.1.2", True, ZYNQ, "overlay"),
        ("4.0.0", True, ZYNQ, "bitstream"),
        ("4.0.0", True, ZYNQMP, "overlay"),
    ],
)
def test_pynq_loads_in_the_way_that_works(bitstream, tmp_path, monkeypatch, version, described, compatible, way):
    loaded, memory = fake_pynq(monkeypatch, version)
    if compatible == ZYNQMP:
        bitstream = published(tmp_path, "zcu104")
    if not described:
        bitstream.with_suffix(".hwh").unlink()
    root = system(tmp_path / "board", compatible)
    opened = open_board("auto", Bitstream.read(bitstream), root=root)
    assert opened.reason.startswith("pynq at")
    assert loaded == [(way, str(bitstream))]
    assert (Clocks.asked, opened.clock_mhz) == (100.0, 100.0)
    opened.bus.write32(offsets(TINY)["SCRATCH"], 9)
    assert memory[3] == 9
    opened.bus.close()


def test_a_clock_that_came_out_faster_is_refused(bitstream, tmp_path, monkeypatch):
    fake_pynq(monkeypatch, "3.1.2")
    root = system(tmp_path / "board")
    monkeypatch.setattr(Clocks, "real", 107.14)
    with pytest.raises(BitstreamError, match=r"clock is 107\.14 MHz, its bitstream is good for 100 MHz"):
        open_board("pynq", Bitstream.read(bitstream), root=root)
    monkeypatch.setattr(Clocks, "real", 99.999)
    opened = open_board("pynq", Bitstream.read(bitstream), root=root)
    assert opened.clock_mhz == 99.999
    opened.bus.close()


def test_what_pynq_cannot_do_is_said(bitstream, tmp_path, monkeypatch):
    root = system(tmp_path / "board")
    fake_pynq(monkeypatch, "3.1.2", array=object())
    with pytest.raises(BusError, match="no mapped memory"):
        open_board("pynq", Bitstream.read(bitstream), root=root)
    sys.modules["pynq"].Bitstream = sys.modules["pynq"].Overlay = None
    with pytest.raises(BusError, match="pynq cannot load"):
        open_board("pynq", Bitstream.read(bitstream), root=root)
    bitstream.with_suffix(".xsa").write_bytes(b"")
    with pytest.raises(BusError, match=r"move the \.xsa elsewhere"):
        open_board("pynq", Bitstream.read(bitstream), root=root)
    monkeypatch.setattr(pynq_bus.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError("no xrt")))
    bitstream.with_suffix(".xsa").unlink()
    with pytest.raises(BusError, match=r"cannot be imported \(no xrt\)"):
        open_board("pynq", Bitstream.read(bitstream), root=root)
