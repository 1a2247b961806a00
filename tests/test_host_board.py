# SPDX-License-Identifier: MIT
"""Boards as far as they go without one: episodes through a server, choosing a bus, bitstreams, clock and power."""

import csv
import dataclasses
import hashlib
import json
import sys
import threading
import time
import types

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from bitstreams.boards import BOARDS
from bitstreams.publish import Outcome, publish
from bitstreams.reports import Timing
from host import run_episode
from host.accelerator import Accelerator, AcceleratorError
from host.board import messages, pynq_bus
from host.board.bitstream import Bitstream, BitstreamError, kernel_image, load_by_kernel, require_configured
from host.board.circuit import BoardAccelerator
from host.board.power import read_power
from host.board.server import BoardServer
from host.board.service import BoardService
from host.board.zynq import open_board
from host.bus import BusError
from host.golden_device import GoldenBus
from host.verilated import VerilatedBus, library
from hw.registers import WINDOW_BYTES, offsets
from model.deployed.geometry import TINY
from model.deployed.random_policy import random_policy, random_tokens

TOKEN = "0123456789abcdef"

ZYNQ = b"tul,pynq-z2\0xlnx,zynq-7000\0"
ZYNQMP = b"xlnx,zynqmp-zcu104-revC\0xlnx,zynqmp\0"


# Episodes through a server


class Drifting(gymnasium.Env):
    """An environment whose next observation follows from the action, so that a wrong action shows."""

    def __init__(self, render_mode=None):
        self.observation_space = Box(-9, 9, (5,), np.float64)
        self.action_space = Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.steps = self.np_random.normal(size=5), 0
        return self.at.copy(), {}

    def step(self, action):
        self.steps += 1
        self.at = np.clip(np.roll(self.at, 1) + np.array([*action, 0.1, *action]), -9, 9)
        return self.at.copy(), float(self.at.sum()), self.steps == 40, False, {}


@pytest.fixture(autouse=True)
def _environment():
    gymnasium.register("Drifting-v0", Drifting)
    yield
    del gymnasium.registry["Drifting-v0"]


@pytest.fixture
def policy(tmp_path):
    policy = dataclasses.replace(random_policy(TINY, 3, 5, 2), environment="Drifting-v0", target_return=300.0)
    policy.save(tmp_path / "policy.safetensors")
    return policy


@pytest.fixture
def served(monkeypatch):
    """A server on the simulated circuit."""
    monkeypatch.setenv(messages.TOKEN_VARIABLE, TOKEN)
    accelerator = Accelerator(VerilatedBus(library(TINY)), TINY)
    service = BoardService(accelerator, {"geometry": TINY.to_json()}, list)
    server = BoardServer(service, TOKEN.encode(), ("127.0.0.1", 0), keep_s=0.2)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    yield server
    server.close()
    thread.join(20)
    accelerator.close()


def fly(tmp_path, name, *options):
    """Return exit code, table of steps and summary of a run."""
    out = tmp_path / name
    arguments = ["--policy", tmp_path / "policy.safetensors", "--out", out, "--episodes", 2, *options]
    code = run_episode.main([str(argument) for argument in arguments])
    with (out / "steps.csv").open() as file:
        return code, list(csv.reader(file)), json.loads((out / "episode.json").read_text())


def test_episodes_through_the_network_are_those_of_the_simulated_circuit(policy, served, tmp_path, capsys):
    here = fly(tmp_path, "here", "--device", "verilated")
    board = f"127.0.0.1:{served.address[1]}"
    there = fly(tmp_path, "there", "--board", board)
    assert (here[0], there[0]) == (0, 0)
    assert here[1] == there[1]  # actions, rewards, cycles, counters: every step of both episodes
    assert len(there[1]) == 81
    assert len({tuple(row[-7:]) for row in there[1]}) == 81
    assert there[2]["device"] == "board"
    assert there[2]["checked_actions"] == 160
    assert there[2]["mismatches"] == 0
    assert f"deciding on the board server at {board}" in capsys.readouterr().err


def test_a_board_that_is_lost_ends_the_episode_with_what_it_has(policy, served, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("host.board.remote.PATIENCE_S", 0.3)
    honest = Drifting.step

    def step(environment, action):
        if environment.steps == 20:
            served.close()
        return honest(environment, action)

    monkeypatch.setattr(Drifting, "step", step)
    code, rows, summary = fly(tmp_path, "out", "--board", f"127.0.0.1:{served.address[1]}")
    assert code == 1
    assert len(rows) == 22
    assert summary["steps"] == 21
    assert "does not answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--board"], "this machine is no Zynq"),
        (["--board", "board:http"], "is no address"),
        (["--board", "127.0.0.1:1"], "a shared token is needed"),
    ],
)
def test_boards_that_are_not_there(policy, tmp_path, capsys, monkeypatch, options, sentence):
    monkeypatch.delenv(messages.TOKEN_VARIABLE, raising=False)
    assert run_episode.main(["--policy", str(tmp_path / "policy.safetensors"), *options]) == 1
    text = capsys.readouterr().err
    assert sentence in text
    assert "Traceback" not in text


# Which bus there is


def system(root, compatible=ZYNQ, state="operating", **uio):
    """Make the files of a board's kernel; uio : name -> (called, address, size)."""
    (root / "proc/device-tree").mkdir(parents=True)
    (root / "proc/device-tree/compatible").write_bytes(compatible)
    (root / "sys/class/fpga_manager/fpga0").mkdir(parents=True)
    (root / "sys/class/fpga_manager/fpga0/state").write_text(state + "\n")
    (root / "dev").mkdir()
    (root / "dev/mem").write_bytes(b"")
    for name, (called, address, size) in uio.items():
        maps = root / "sys/class/uio" / name / "maps/map0"
        maps.mkdir(parents=True)
        (maps.parents[1] / "name").write_text(called + "\n")
        (maps / "addr").write_text(f"0x{address:08x}\n")
        (maps / "size").write_text(f"0x{size:08x}\n")
        (root / "dev" / name).write_bytes(bytes(WINDOW_BYTES))
    return root


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


# Bitstreams

PAYLOAD = bytes.fromhex("ffffffff 000000bb 11220044 aa995566 20000000 01020304")


def bit_file(payload=PAYLOAD):
    """Return a .bit file as the tools write it: fields of the header, then the configuration."""
    fields = ((b"a", b"e;top"), (b"b", b"7z020clg400"), (b"c", b"2026/11/22"), (b"d", b"01:02:03"))
    head = bytes.fromhex("00090ff00ff00ff00ff0000001")
    head += b"".join(key + (len(text) + 1).to_bytes(2, "big") + text + b"\0" for key, text in fields)
    return head + b"e" + len(payload).to_bytes(4, "big") + payload


def published(folder, board="pynq-z2", payload=PAYLOAD):
    """Publish a .bit file as a build does; return its path."""
    bit, handoff, out = folder / "made.bit", folder / "made.hwh", folder / "out"
    bit.write_bytes(bit_file(payload))
    handoff.write_text("<EDKSYSTEM/>")
    outcome = Outcome(bit, handoff, "vivado", {}, None, Timing(120.0, True, (), 0.1, 0.1), {})
    clock = BOARDS[board].clock(100)
    return publish(outcome, "TINY", BOARDS[board], clock, TINY, "module m; endmodule", out).with_suffix(".bit")


@pytest.fixture
def bitstream(tmp_path):
    return published(tmp_path)


def test_the_kernel_gets_the_configuration_with_each_word_reversed():
    image = kernel_image(bit_file())
    assert image == bytes.fromhex("ffffffff bb000000 44002211 665599aa 00000020 04030201")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(bit_file()[:-4], "cut off"), (bit_file()[70:], "cut off"), (b"nothing like it", "no sync word")],
)
def test_a_damaged_bitstream(content, sentence):
    with pytest.raises(BitstreamError, match=sentence):
        kernel_image(content)


def test_a_bitstream_is_what_its_manifest_says(bitstream):
    read = Bitstream.read(bitstream)
    assert (read.geometry, read.base, read.clock_mhz) == (TINY, 0x4000_0000, 100.0)
    bitstream.write_bytes(bit_file(PAYLOAD + bytes(4)))
    with pytest.raises(BitstreamError, match="is not the file its manifest describes"):
        Bitstream.read(bitstream)
    manifest = bitstream.with_suffix(".json")
    facts = json.loads(manifest.read_text())
    for change, sentence in (
        ({"geometry": {**facts["geometry"], "layers": 0}}, "cannot be used"),
        ({"clock_mhz": "fast"}, "cannot be used"),
        ({"bit": {}}, "lacks 'sha256'"),
    ):
        manifest.write_text(json.dumps(facts | change))
        with pytest.raises(BitstreamError, match=sentence):
            Bitstream.read(bitstream)
    manifest.write_text("{")
    with pytest.raises(BitstreamError, match="is no manifest"):
        Bitstream.read(bitstream)
    manifest.unlink()
    with pytest.raises(BitstreamError, match=r"\.json cannot be read"):
        Bitstream.read(bitstream)


def test_a_compressed_bitstream_is_expanded_beside_itself(bitstream):
    packed, content = bitstream.with_name(f"{bitstream.name}.xz"), bitstream.read_bytes()
    facts = json.loads(bitstream.with_suffix(".json").read_text())
    assert facts["packed"] == {"file": packed.name, "sha256": hashlib.sha256(packed.read_bytes()).hexdigest()}
    for given, before in ((packed, None), (bitstream, None), (packed, b"of another day")):
        bitstream.unlink()
        if before:
            bitstream.write_bytes(before)
        assert Bitstream.read(given) == Bitstream.read(bitstream)
        assert bitstream.read_bytes() == content
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(BitstreamError, match=r"\.bit\.xz is damaged"):
        Bitstream.read(packed)
    packed.unlink()
    with pytest.raises(BitstreamError, match=r"\.bit\.xz cannot be read"):
        Bitstream.read(packed)


def test_a_bitstream_of_the_other_board_is_refused(tmp_path):
    path = published(tmp_path, "zcu104")
    with pytest.raises(BusError, match=r"window lies at 0xa0000000, not for Zynq-7000"):
        open_board("devmem", Bitstream.read(path), root=system(tmp_path / "board"))


def test_loading_by_the_kernel_takes_no_stale_file(tmp_path):
    root, names = system(tmp_path / "board"), []
    for payload in (PAYLOAD, PAYLOAD + bytes(4)):
        path = published(tmp_path, payload=payload).rename(tmp_path / "top.bit")
        next((tmp_path / "out").rglob("*.json")).rename(tmp_path / "top.json")
        load_by_kernel(Bitstream.read(path), root)
        name = (root / "sys/class/fpga_manager/fpga0/firmware").read_text()
        assert (root / "lib/firmware" / name).read_bytes() == kernel_image(bit_file(payload))
        assert (root / "sys/class/fpga_manager/fpga0/flags").read_text() == "0"
        names.append(name)
    assert len(set(names)) == 2


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


# The clock


class Clocked(GoldenBus):
    """A golden device whose busy cycles are what a clock of `mhz` would have counted meanwhile."""

    mhz = 80.0
    cycles = 0.0

    def _start(self, number):
        start = time.perf_counter()
        super()._start(number)
        self.cycles += (time.perf_counter() - start) * self.mhz * 1e6
        self._stored["CYCLES"] = [50_000]

    def _snapshot(self):
        super()._snapshot()
        self._stored["TOTAL_CYCLES_LOW"] = [int(self.cycles)]


@pytest.mark.parametrize(("signed_off", "good"), [(100.0, True), (20.0, False)])
def test_the_clock_is_measured_before_anything_is_decided(bitstream, signed_off, good):
    policy = random_policy(TINY, 1)
    file = dataclasses.replace(Bitstream.read(bitstream), clock_mhz=signed_off)
    accelerator = BoardAccelerator(Clocked(TINY), TINY, file)
    if good:
        accelerator.load(policy)
        assert 20 < accelerator.clock_mhz <= 80
        golden = Accelerator(GoldenBus(TINY), TINY)
        golden.load(policy)
        for token in random_tokens(policy, 6, 0):  # measuring left no trace in the episode
            np.testing.assert_array_equal(accelerator.decide(token).words, golden.decide(token).words)
            assert accelerator.signatures() == golden.signatures()
        assert accelerator.bus.read32(offsets(TINY)["REPEAT"]) == 0
        return
    with pytest.raises(BitstreamError, match="MHz as measured, its bitstream is good for 20 MHz"):
        accelerator.load(policy)
    with pytest.raises(AcceleratorError, match="no policy is loaded"):
        accelerator.decide(random_tokens(policy, 1, 0)[0])


# Power


def test_rails_are_found_by_the_sensor_s_name_and_power_is_computed(tmp_path):
    assert read_power(tmp_path) == []
    for number, (name, files) in enumerate(
        {
            "acpitz": {"curr1_input": "1", "in1_input": "1"},
            "irps5401": {
                **{"curr1_input": "4375", "in1_input": "851", "curr1_label": "iout1", "power1_input": "3500000"},
                **{"curr2_input": "junk", "in2_input": "1800"},
            },
            "ina226": {"curr1_input": "-1159", "in0_input": "5", "in1_input": "12110"},
        }.items()
    ):
        entry = tmp_path / f"sys/class/hwmon/hwmon{number}"
        entry.mkdir(parents=True)
        for file, text in {"name": name, **files}.items():
            (entry / file).write_text(text + "\n")
    assert read_power(tmp_path) == [
        {"sensor": "irps5401", "rail": "iout1", "v": 0.851, "a": 4.375, "mw": pytest.approx(3723.125)},
        {"sensor": "ina226", "rail": "hwmon2/1", "v": 12.11, "a": -1.159, "mw": pytest.approx(-14035.49)},
    ]
