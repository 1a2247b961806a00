# SPDX-License-Identifier: MIT
"""The bitstreams of the repository: files, manifest, geometry and the driver's expectations belong together."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import pytest

from bitstreams.boards import BOARDS
from bitstreams.hwh import handoff
from bitstreams.report import SHIPPED, routed
from host.board.bitstream import Bitstream
from hw.memory_map import memory_map
from hw.registers import INTERFACE_VERSION
from model.deployed.geometry import HOPPER_Z2, preset

ROOT = SHIPPED.parent
MANIFESTS = sorted(SHIPPED.glob("*/*.json"))


@pytest.fixture(params=MANIFESTS, ids=lambda path: path.stem)
def shipped(request: pytest.FixtureRequest) -> Path:
    return request.param


def facts_of(path: Path) -> dict:
    return json.loads(path.read_text())


def test_the_pynq_z2_has_one_of_the_default_geometry() -> None:
    (path,) = (SHIPPED / "pynq-z2").glob("*.json")
    facts = facts_of(path)
    assert (facts["name"], facts["geometry_digest"]) == ("HOPPER_Z2", HOPPER_Z2.digest)


def test_the_files_are_those_that_the_manifest_names(shipped: Path) -> None:
    facts = facts_of(shipped)
    assert shipped.stem == f"{facts['name'].lower()}-{facts['bit']['sha256'][:12]}"
    for kind, suffix in (("bit", ".bit"), ("packed", ".bit.xz"), ("hwh", ".hwh")):
        assert facts[kind]["file"] == shipped.stem + suffix
    for kind in ("packed", "hwh"):
        content = shipped.with_name(facts[kind]["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == facts[kind]["sha256"]


def test_the_driver_takes_it(shipped: Path, tmp_path: Path) -> None:
    facts = facts_of(shipped)
    for suffix in (".json", ".hwh", ".bit.xz"):
        shutil.copy(shipped.with_name(shipped.stem + suffix), tmp_path)
    bitstream = Bitstream.read(tmp_path / facts["packed"]["file"])
    assert bitstream.sha256 == facts["bit"]["sha256"]
    assert bitstream.geometry == preset(facts["name"])
    assert bitstream.clock_mhz == facts["clock_mhz"]


def test_it_is_a_circuit_of_today_s_registers_and_memories(shipped: Path) -> None:
    facts = facts_of(shipped)
    geometry = preset(facts["name"])
    assert facts["geometry"] == dataclasses.asdict(geometry)
    assert facts["geometry_id"] == f"0x{geometry.identifier:08x}"
    assert facts["interface_version"] == INTERFACE_VERSION
    assert facts["pages"] == {name: section.page for name, section in memory_map(geometry).items()}


def test_its_clock_is_exact_and_reached(shipped: Path) -> None:
    facts = facts_of(shipped)
    board = BOARDS[facts["board"]]
    clock = board.clock(facts["clock_mhz"])
    assert [clock.divisor0, clock.divisor1] == facts["clock_divisors"]
    assert facts["clock_mhz"] <= facts["fmax_mhz"]
    assert facts["setup_slack_ns"] >= 0
    assert int(facts["base"], 16) == board.base
    assert shipped.with_suffix(".hwh").read_text() == handoff(board, clock)


def test_it_says_what_was_checked_and_what_was_not(shipped: Path) -> None:
    facts = facts_of(shipped)
    assert facts["verified_on_board"] is False
    assert facts["read_back_bits"] > 0
    assert facts["tools"]["nextpnr-xilinx"].endswith("-sdf")  # with the delays of the slow corner


def test_the_documents_have_its_figures(shipped: Path) -> None:
    facts = facts_of(shipped)
    page = (ROOT / "docs" / "bitstreams.md").read_text()
    figures = [facts["packed"]["file"], f"{facts['fmax_mhz']:g} MHz", f"**{facts['clock_mhz']:g} MHz**"]
    figures += [f"{used['used']:,.0f}" for used in routed(facts["utilisation"]).values()]
    assert [figure for figure in figures if figure not in page] == []
