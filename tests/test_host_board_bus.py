# SPDX-License-Identifier: MIT
"""Which bus a board has: UIO, physical memory, pynq."""

import pytest

from host.board.bitstream import Bitstream, BitstreamError, require_configured
from host.board.zynq import open_board
from host.bus import BusError
from hw.registers import offsets
from model.deployed.presets import TINY
from tests.board_files import ZYNQMP, published, system


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


def test_a_zynqmp_s_port_is_narrowed_after_loading(tmp_path):
    """The kernel leaves HPM0_FPD and HPM1_FPD at 128 bits; the first is the circuit's."""
    root = system(tmp_path / "board", ZYNQMP, uio0=("fabric", 0xA000_0000, 1 << 16))
    with (root / "dev/mem").open("wb") as file:
        file.truncate(0xFD61_6000)
        file.seek(0xFD61_5000)
        file.write(bytes([1, 0x0A, 2, 3, 4]))
    open_board("uio", Bitstream.read(published(tmp_path, "zcu104")), root=root).bus.close()
    with (root / "dev/mem").open("rb") as file:
        file.seek(0xFD61_5000)
        assert file.read(5) == bytes([1, 0x08, 2, 3, 4])


def test_a_zynq_7000_has_no_such_port(tmp_path):
    root = system(tmp_path / "board", uio0=("fabric", 0x4000_0000, 1 << 16))
    (root / "dev/mem").unlink()
    open_board("uio", Bitstream.read(published(tmp_path)), root=root).bus.close()


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


def test_without_pynq_the_other_ways_are_named(bitstream, tmp_path):
    """The real pynq is not in this environment; tests/test_host_pynq.py has it."""
    root = system(tmp_path / "board")
    with pytest.raises(BusError, match=r"cannot be imported \(No module named 'pynq'\).*--bus uio or devmem"):
        open_board("pynq", Bitstream.read(bitstream), root=root)
