# SPDX-License-Identifier: MIT
"""Bitstreams and their manifests, and the clock that is measured."""

import argparse
import dataclasses
import hashlib
import json
import time

import numpy as np
import pytest

from host import local
from host.accelerator import Accelerator, AcceleratorError
from host.board import circuit
from host.board.bitstream import Bitstream, BitstreamError, kernel_image, load_by_kernel
from host.board.circuit import BoardAccelerator
from host.board.zynq import Opened
from host.golden_device import GoldenBus
from hw.registers import offsets
from model.deployed.artifact import ArtifactError
from model.deployed.golden import GoldenNetwork
from model.deployed.presets import HOPPER_Z2, HOPPER_Z2_LEAN, ODD, TINY
from model.deployed.random_policy import random_policy, random_tokens
from tests.board_files import PAYLOAD, bit_file, published, system


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


# The clock


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


def test_a_handoff_file_of_another_build_is_refused(bitstream):
    """Pynq sets the clock and the ports by it; without one there is nothing to compare."""
    bitstream.with_suffix(".hwh").write_text("<EDKSYSTEM />")
    with pytest.raises(BitstreamError, match=r"\.hwh is not the one that .*\.json names"):
        Bitstream.read(bitstream)
    bitstream.with_suffix(".hwh").unlink()
    assert Bitstream.read(bitstream).geometry == TINY


class Clocked(GoldenBus):
    """A golden device whose busy cycles are what a clock of `mhz` would have counted meanwhile."""

    mhz = 80.0
    cycles = 0.0

    def _decide(self):
        start = time.perf_counter()
        super()._decide()
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


@pytest.mark.parametrize("loaded", [True, False], ids=["bitstream", "configured already"])
def test_a_board_s_circuit_is_what_it_shows_and_takes_policies_of_its_network(bitstream, monkeypatch, loaded):
    shown = dataclasses.replace(TINY, rows_per_cycle=2) if loaded else HOPPER_Z2_LEAN
    file = dataclasses.replace(Bitstream.read(bitstream), geometry=shown)
    monkeypatch.setattr(Bitstream, "read", lambda path: file)
    monkeypatch.setattr(local, "open_board", lambda *_: Opened(Clocked(shown), "a stand-in", None))
    options = argparse.Namespace(device="board", geometry=None, bus="auto", bitstream=bitstream if loaded else None)
    policy = random_policy(TINY if loaded else HOPPER_Z2, 1, 4, 2)
    opened = local.open_local(options, lambda line: None, policy.geometry)
    assert opened.accelerator.geometry == shown
    assert json.loads(opened.facts["geometry"])["rows_per_cycle"] == shown.rows_per_cycle
    monkeypatch.setattr(circuit, "MEASURED_CYCLES", 3)
    opened.accelerator.load(policy)
    network = GoldenNetwork(policy)
    for token in random_tokens(policy, 4, 0):
        np.testing.assert_array_equal(opened.accelerator.decide(token).words, network.decide(token).action)
    with pytest.raises(ArtifactError, match="another geometry than the circuit"):
        opened.accelerator.load(random_policy(ODD, 1))
    options.geometry = "TINY"  # then it must be that one
    with pytest.raises(AcceleratorError, match="not the one asked for"):
        local.open_local(options, lambda line: None, policy.geometry)
