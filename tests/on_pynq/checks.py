# SPDX-License-Identifier: MIT
"""The driver on the real pynq, over a fake board whose registers are the simulated circuit's.

Run by tests/test_host_pynq.py with the Python of each environment that has pynq.
"""

import argparse
import csv
import dataclasses
import functools
import json
import os
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pynq
import pytest
from pynq.pl_server.embedded_device import EmbeddedDevice

from host import devices, run_episode, selftest
from host.accelerator import Accelerator
from host.board import circuit, pynq_bus
from host.board.bitstream import Bitstream, BitstreamError, kernel_image
from host.board.mapped import MappedBus
from host.board.messages import TOKEN_VARIABLE
from host.board.pynq_driver import VLNV, Spikeloop
from host.board.rails import open_rails
from host.board.server import BoardServer
from host.board.service import BoardService
from host.board.zynq import FAMILIES, open_board
from host.bus import Bus, BusError
from host.golden_device import GoldenBus
from host.local import open_local
from hw.registers import MAGIC, offsets
from model.deployed.presets import TINY
from model.deployed.random_policy import random_policy, random_tokens
from tests.on_pynq.fake_board import CRL_APB, FPD_SLCR, SLCR, FakeBoard

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "notebooks" / "board.ipynb"
PUBLISHED = Path(os.environ["SPIKELOOP_PUBLISHED"])
VERSION = os.environ["PYNQ_VERSION"]
AT = offsets(TINY)

# what pynq does, which is not ours
pytestmark = pytest.mark.filterwarnings(
    *("ignore::DeprecationWarning:pynq", "ignore::UserWarning:pynq", "ignore:unclosed file .*_current_metadata"),
    "ignore::DeprecationWarning:gymnasium",
)


def no_overlay(board):
    """Whether pynq cannot load an Overlay on this chip: 4 reads a clock that a Zynq-7000's description lacks."""
    return VERSION.startswith("4") and board.chip == "xlnx,zynq-7000"


@pytest.fixture
def bit(request, tmp_path):
    """A published .bit of the chip's board, .hwh and .json beside it, free to be spoilt."""
    name = {"xlnx,zynq-7000": "pynq-z2", "xlnx,zynqmp": "zcu104"}[request.param]
    shutil.copytree(PUBLISHED / name, tmp_path / name)
    return next((tmp_path / name).glob("*.bit"))


@pytest.fixture
def board(bit, tmp_path, monkeypatch):
    """The board for it, which has not loaded anything."""
    chip = next(chip for chip, family in FAMILIES.items() if family.base == Bitstream.read(bit).base)
    (tmp_path / "board").mkdir()
    made = FakeBoard(chip, kernel_image(bit.read_bytes()), PUBLISHED / "circuit.so", tmp_path / "board")
    made.install(monkeypatch)
    # a simulation is thousands of times slower, and waits for its machine
    monkeypatch.setattr(circuit, "MEASURED_CYCLES", 5_000)
    monkeypatch.setattr(MappedBus, "decision_timeout_s", Bus.decision_timeout_s)
    yield made
    made.release()


on_both_chips = pytest.mark.parametrize("bit", list(FAMILIES), indirect=True)
on_a_z2 = pytest.mark.parametrize("bit", ["xlnx,zynq-7000"], indirect=True)
on_a_zcu104 = pytest.mark.parametrize("bit", ["xlnx,zynqmp"], indirect=True)


def divider(board):
    """Return what the circuit's clock is divided by, from the processor's registers."""
    address, first, second = (SLCR + 0x170, 8, 20) if board.arch == "armv7l" else (CRL_APB + 0xC0, 8, 16)
    word = int(board.memory[address & ~0xFFF][(address & 0xFFF) // 4])
    return (word >> first & 63) * (word >> second & 63)


def test_this_is_the_real_pynq_of_that_version():
    assert pynq.__version__ == VERSION
    assert "site-packages" in pynq.__file__


# The driver class


@on_both_chips
def test_an_overlay_binds_the_driver_by_its_type_and_it_decides_as_golden(bit, board):
    if no_overlay(board):
        with pytest.raises(TypeError):
            pynq.Overlay(str(bit))
        return
    overlay = pynq.Overlay(str(bit))
    assert type(overlay.spikeloop) is Spikeloop
    assert overlay.spikeloop.read(AT["MAGIC"]) == MAGIC
    overlay.spikeloop.write(AT["SCRATCH"], 0x0102_0304)
    assert overlay.spikeloop.bus.read32(AT["SCRATCH"]) == 0x0102_0304
    policy = random_policy(TINY, 1, 7, 3)
    accelerator, golden = Accelerator(overlay.spikeloop.bus, TINY), Accelerator(GoldenBus(TINY), TINY)
    for either in (accelerator, golden):
        either.load(policy)
    seen = set()
    for token in random_tokens(policy, 12, 0):
        found = accelerator.decide(token)
        np.testing.assert_array_equal(found.words, golden.decide(token).words)
        assert accelerator.signatures() == golden.signatures()
        seen.add(tuple(found.words))
    assert len(seen) > 6
    events, odd = board.trapped.take()
    assert odd == 0  # every access was one aligned word
    assert len(events) > 2000


def test_the_driver_is_registered_for_the_type_and_for_its_other_versions():
    assert pynq.overlay._ip_drivers[VLNV] is Spikeloop
    assert pynq.overlay._ip_drivers[VLNV.rpartition(":")[0]] is Spikeloop


# Loading


@on_both_chips
@pytest.mark.parametrize("described", [True, False])
def test_pynq_loads_and_the_clock_is_set_before_the_window_is_touched(bit, board, described):
    if not described:
        bit.with_suffix(".hwh").unlink()
        if board.arch == "aarch64":
            with pytest.raises(BusError, match=r"\.hwh is missing, by which pynq sets the widths"):
                open_board("pynq", Bitstream.read(bit))
            assert board.events == []
            return
    board.memory[FPD_SLCR][0] = 2 << 8  # HPM0_FPD as wide as after boot: 128 bits
    assert divider(board) > 15
    opened = open_board("auto", Bitstream.read(bit))
    assert opened.reason.startswith("pynq at")
    assert opened.clock_mhz == pytest.approx(100, rel=1e-4)
    assert divider(board) == {"armv7l": 10, "aarch64": 15}[board.arch]
    assert isinstance(pynq.Device.active_device, FakeBoard)
    # pynq took the header off and reversed the words as the kernel wants them; so does `kernel_image`
    assert board.events.count(("loaded", f"{bit.stem}.bin", True)) == 1
    base = FAMILIES[board.chip].base
    assert board.events.index(("loaded", f"{bit.stem}.bin", True)) < board.events.index(("mapped", base))
    assert board.memory[FPD_SLCR][0] == (0 if board.arch == "aarch64" else 2 << 8)  # 32 bits, which a Zynq-7000 is
    assert opened.bus.read32(AT["GEOMETRY_ID"]) == TINY.identifier
    opened.bus.close()


@on_both_chips
def test_a_clock_that_came_out_faster_is_refused(bit, board):
    """1000 MHz over 6 is nearer to 160 than over 7; 1500 over 11 is nearer to 135 than over 12."""
    wish = {"armv7l": 160.0, "aarch64": 135.0}[board.arch]
    with pytest.raises(BitstreamError, match=rf"clock is 1[36]6\.\d\d MHz, its bitstream is good for {wish:g} MHz"):
        open_board("pynq", dataclasses.replace(Bitstream.read(bit), clock_mhz=wish))
    assert ("mapped", FAMILIES[board.chip].base) not in board.events


def described_otherwise(bit, board, change):
    """Return the bitstream after pynq has loaded it beside another .hwh, which it keeps; the right one is back."""
    handoff = bit.with_suffix(".hwh")
    text, read = handoff.read_text(), Bitstream.read(bit)
    handoff.write_text(change(text))
    pynq.Overlay(str(bit))
    handoff.write_text(text)
    return read


@on_a_zcu104
@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda text: text.replace("spikeloop_axi:1.0", "another:1.0"), "describes none"),
        (lambda text: text.replace("0xA0000000", "0xA0010000").replace("0xA000FFFF", "0xA001FFFF"), "0xa0010000"),
    ],
    ids=["type", "address"],
)
def test_a_description_that_is_wrong_or_that_pynq_kept_is_refused(bit, board, change, found):
    read = described_otherwise(bit, board, change)
    with pytest.raises(BusError, match=rf"0xa0000000 is wanted, .*{found}.*remove .*_current_metadata\.pkl"):
        open_board("pynq", read)
    assert ("mapped", 0xA000_0000) not in board.events
    (board.root / "_current_metadata.pkl").unlink()
    open_board("pynq", read).bus.close()


@on_a_z2
def test_what_pynq_cannot_do_is_said(bit, board, monkeypatch):
    read = Bitstream.read(bit)
    with monkeypatch.context() as user:
        user.setattr(os, "geteuid", lambda: 1000)
        user.setattr(board, "mmap", functools.partial(EmbeddedDevice.mmap, board), raising=False)
        with pytest.raises(BusError, match=r"pynq cannot load .*: Root permissions required\."):
            open_board("pynq", read)
    bit.with_suffix(".xsa").write_bytes(b"")
    with pytest.raises(BusError, match=r"move the \.xsa elsewhere"):
        open_board("pynq", read)
    bit.with_suffix(".xsa").unlink()
    board.capabilities = {"REGISTER_RW": True}  # as a device across a network has
    board.read_registers = lambda address, size: board.mmap(address, size).tobytes()
    board.write_registers = lambda address, data: np.copyto(board.mmap(address, len(data)), np.frombuffer(data, "<u4"))
    with pytest.raises(BusError, match="no mapped memory"):
        open_board("pynq", read)
    board.capabilities = {}
    with pytest.raises(BusError, match=r"pynq cannot load .*does not have capabilities"):
        open_board("pynq", read)


def test_without_a_device_the_way_to_one_is_said(monkeypatch):
    monkeypatch.delattr(pynq.Device, "_active_device", raising=False)
    with pytest.raises(BusError, match=r"finds no device \(No Devices Found\).*xrt_setup"):
        pynq_bus._import()


# The whole way


def columns(folder):
    """Return the columns of steps.csv that the circuit's cycles have no part in."""
    with (folder / "steps.csv").open() as file:
        rows = list(csv.DictReader(file))
    kept = [name for name in rows[0] if name.startswith(("action", "reward", "return"))]
    return [[row[name] for name in kept] for row in rows], {row["cycles"] for row in rows}


@on_both_chips
def test_an_episode_flies_by_the_command_with_every_action_equal(bit, board, tmp_path, capsys):
    common = ["--policy", "hopper-tiny", "--env", 'Hopper-v5 {"max_episode_steps": 40}', "--seed", "5"]
    here = ["--board", "--bus", "pynq", "--bitstream", str(bit), "--out", str(tmp_path / "board-run")]
    assert run_episode.main([*common, *here]) == 0
    assert f"deciding on pynq at 0x{FAMILIES[board.chip].base:08x}" in capsys.readouterr().err
    assert run_episode.main([*common, "--device", "golden", "--out", str(tmp_path / "golden")]) == 0
    summary = json.loads((tmp_path / "board-run" / "episode.json").read_text())
    assert (summary["device"], summary["mismatches"]) == ("board", 0)
    assert summary["checked_actions"] == 3 * summary["steps"] >= 60
    found, cycles = columns(tmp_path / "board-run")
    expected, _ = columns(tmp_path / "golden")
    assert found == expected
    assert len({tuple(row) for row in found}) == len(found)
    assert len(cycles) > 5


@on_a_z2
def test_an_episode_flies_through_the_server_of_a_board(bit, board, tmp_path, monkeypatch, capsys):
    """A PYNQ-Z2's way: the environment is on a PC. Here both are one process."""
    token = "0123456789abcdef"
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    options = argparse.Namespace(device="board", geometry=None, bus="pynq", bitstream=bit)
    opened = open_local(options, lambda line: None)
    server = BoardServer(BoardService(opened.accelerator, opened.facts, list), token.encode(), ("127.0.0.1", 0))
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        there = ["--board", f"127.0.0.1:{server.address[1]}", "--out", str(tmp_path / "there")]
        environment = 'Hopper-v5 {"max_episode_steps": 15}'
        assert run_episode.main(["--policy", "hopper-tiny", "--env", environment, *there]) == 0
    finally:
        server.close()
        thread.join(20)
        opened.accelerator.close()
    assert "45 actions equal the golden network's" in capsys.readouterr().out
    events, odd = board.trapped.take()
    assert odd == 0
    assert len(events) > 2000


@on_both_chips
def test_the_selftest_passes_on_a_fresh_board(bit, board, tmp_path, capsys):
    options = ["--board", "--bitstream", str(bit), "--policies", "2", "--decisions", "6"]
    assert selftest.main([*options, "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["device"], found["decisions"]) == ("board", 12)
    assert found["bus"].startswith("pynq at")
    assert found["bitstream_sha256"] == Bitstream.read(bit).sha256
    text = capsys.readouterr().out
    assert re.search(r"latency: p50 [\d,]+ µs, p99 [\d,]+ µs, seen from here; p50 \d+, p99 \d+ cycles\n", text)
    assert "counters: p50" in text


def sensors(root):
    """Make the files of a ZCU104's monitor of its 12 V supply."""
    monitor = root / "sys/class/hwmon/hwmon0"
    monitor.mkdir(parents=True)
    for file, text in {"name": "ina226", "in1_input": "12110", "curr1_input": "1159", "curr1_label": "12V"}.items():
        (monitor / file).write_text(f"{text}\n")
    return root


@on_a_zcu104
def test_the_notebook_runs_on_a_board(bit, board, tmp_path, monkeypatch, capsys):
    import matplotlib.pyplot as plt

    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()))
    monkeypatch.setattr(devices, "open_rails", functools.partial(open_rails, root=sensors(tmp_path)))
    monkeypatch.setenv("SPIKELOOP_DEVICE", f"--board --bus pynq --bitstream {bit}")
    monkeypatch.chdir(NOTEBOOK.parent)  # as Jupyter does
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    space = {"__name__": "__main__"}
    for cell in cells:
        exec(compile("".join(cell["source"]), cell["id"], "exec"), space)
    plt.close("all")
    text = capsys.readouterr().out
    assert "deciding on a board: pynq at 0xa0000000" in text
    assert "120 action words equal the golden network's, 0 differ" in text
    assert "ina226 ina226-hwmon0/1: 14,035 mW idle, 14,035 mW deciding, on a board" in text
    assert len(shown) == 1
