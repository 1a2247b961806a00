# SPDX-License-Identifier: MIT
"""The bitstreams in the repository belong to their manifests, their handoff files and the driver of today."""

import hashlib
import json
import lzma
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bitstreams.boards import BOARDS
from host.board.bitstream import Bitstream, kernel_image
from hw.memory_map import memory_map
from hw.registers import INTERFACE_VERSION, WINDOW_BYTES
from model.deployed.geometry import PRESETS

SHIPPED = Path(__file__).resolve().parent.parent / "bitstreams"

MANIFESTS = sorted(SHIPPED.glob("*/*.json"))


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_pynq_z2_has_one_bitstream_of_its_preset():
    assert [path.parent.name for path in MANIFESTS if path.name.startswith("hopper_z2-")] == ["pynq-z2"]


@pytest.fixture(params=MANIFESTS, ids=lambda path: path.stem)
def shipped(request):
    return request.param, json.loads(request.param.read_text())


def test_files_are_those_of_the_manifest(shipped):
    path, facts = shipped
    packed = path.with_name(facts["packed"]["file"])
    assert digest(packed) == facts["packed"]["sha256"]
    assert hashlib.sha256(lzma.decompress(packed.read_bytes())).hexdigest() == facts["bit"]["sha256"]
    assert digest(path.with_name(facts["hwh"]["file"])) == facts["hwh"]["sha256"]
    assert path.stem == f"{facts['name'].lower()}-{facts['bit']['sha256'][:12]}"
    assert packed.stat().st_size < 2_000_000


def test_the_circuit_is_the_preset_that_the_driver_knows(shipped):
    _, facts = shipped
    geometry = PRESETS[facts["name"]]
    assert facts["geometry_digest"] == geometry.digest
    assert facts["geometry_id"] == f"0x{geometry.identifier:08x}"
    assert facts["geometry"] == json.loads(geometry.to_json())
    assert facts["interface_version"] == INTERFACE_VERSION
    assert facts["pages"] == {name: section.page for name, section in memory_map(geometry).items()}


def test_the_handoff_file_names_address_and_clock(shipped):
    path, facts = shipped
    board = BOARDS[facts["board"]]
    clock = board.clock(facts["clock_mhz"])
    root = ElementTree.parse(path.with_suffix(".hwh")).getroot()
    (window,) = root.iter("MEMRANGE")
    low, high = int(window.get("BASEVALUE"), 16), int(window.get("HIGHVALUE"), 16)
    assert (low, high - low + 1) == (board.base, WINDOW_BYTES)
    assert int(facts["base"], 16) == board.base
    parameters = {entry.get("NAME"): entry.get("VALUE") for entry in root.iter("PARAMETER")}
    divisors = [int(parameters[f"PCW_FCLK0_PERIPHERAL_DIVISOR{index}"]) for index in (0, 1)]
    assert divisors == facts["clock_divisors"] == [clock.divisor0, clock.divisor1]


def test_timing_is_met_and_no_board_is_claimed(shipped):
    _, facts = shipped
    assert facts["fmax_mhz"] >= facts["clock_mhz"]
    assert facts["setup_slack_ns"] >= 0
    assert facts["worst_paths"]
    assert facts["verified_on_board"] is False


def test_the_driver_takes_the_compressed_file(shipped, tmp_path):
    path, facts = shipped
    for name in (path.name, facts["packed"]["file"]):
        shutil.copyfile(path.with_name(name), tmp_path / name)
    bitstream = Bitstream.read(tmp_path / facts["packed"]["file"])
    assert (bitstream.geometry.digest, bitstream.clock_mhz) == (facts["geometry_digest"], facts["clock_mhz"])
    content = bitstream.path.read_bytes()
    # the header names the part; the kernel finds the sync word with its bytes reversed
    assert BOARDS[facts["board"]].part.rpartition("-")[0].removeprefix("xc").encode() in content[:200]
    assert bytes.fromhex("665599aa") in kernel_image(content)[:256]
