# SPDX-License-Identifier: MIT
"""The bitstreams of the repository: files, manifest, geometry and the driver's expectations belong together.

The repository may hold none; one that is made here shows that the checks find what they should.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bitstreams.boards import BOARDS
from bitstreams.hwh import handoff
from bitstreams.publish import Outcome, publish
from bitstreams.report import SHIPPED, routed
from bitstreams.reports import Timing
from host.board.bitstream import Bitstream
from hw.memory_map import memory_map
from hw.registers import INTERFACE_VERSION
from model.deployed.geometry import Geometry
from model.deployed.presets import TINY, preset
from tests.board_files import bit_file

MANIFESTS = sorted(SHIPPED.glob("*/*.json"))
PAGE = SHIPPED.parent / "docs" / "bitstreams.md"

SUFFIXES = (".json", ".hwh", ".bit.xz")


def check(manifest: Path, scratch: Path) -> None:
    """Fail unless a bitstream's files are what its manifest says and what driver and circuit of today expect."""
    facts: dict[str, Any] = json.loads(manifest.read_text())
    geometry, board = preset(facts["name"]), BOARDS[facts["board"]]
    assert manifest.stem == f"{facts['name'].lower()}-{facts['bit']['sha256'][:12]}"
    for kind, suffix in (("packed", ".bit.xz"), ("hwh", ".hwh")):
        path = manifest.with_name(manifest.stem + suffix)
        assert (facts[kind]["file"], facts[kind]["sha256"]) == (
            path.name,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )

    # the circuit of today
    assert Geometry.from_json(json.dumps(facts["geometry"])) == geometry
    assert facts["geometry_digest"] == geometry.digest
    assert facts["geometry_id"] == f"0x{geometry.identifier:08x}"
    assert facts["interface_version"] == INTERFACE_VERSION
    assert facts["pages"] == {name: section.page for name, section in memory_map(geometry).items()}

    # the board, and a clock that it gives exactly and the circuit reaches
    clock = board.clock(facts["clock_mhz"])
    assert facts["clock_divisors"] == [clock.divisor0, clock.divisor1]
    assert facts["clock_mhz"] <= facts["fmax_mhz"]
    assert facts["setup_slack_ns"] >= 0
    assert int(facts["base"], 16) == board.base
    assert manifest.with_suffix(".hwh").read_text() == handoff(board, clock)

    # what was checked, and what was not
    assert facts["verified_on_board"] is False
    assert facts["read_back_bits"] > 0
    assert facts["tools"]["nextpnr-xilinx"].endswith("-sdf")  # with the delays of the slow corner

    # the driver takes it
    for suffix in SUFFIXES:
        shutil.copy(manifest.with_name(manifest.stem + suffix), scratch)
    bitstream = Bitstream.read(scratch / facts["packed"]["file"])
    assert (bitstream.sha256, bitstream.clock_mhz) == (facts["bit"]["sha256"], facts["clock_mhz"])
    assert bitstream.geometry == geometry


@pytest.mark.parametrize("manifest", MANIFESTS, ids=str)
def test_a_shipped_bitstream_holds_together(manifest: Path, tmp_path: Path) -> None:
    check(manifest, tmp_path)


@pytest.mark.parametrize("manifest", MANIFESTS, ids=str)
def test_the_page_has_a_shipped_bitstream_s_figures(manifest: Path) -> None:
    facts = json.loads(manifest.read_text())
    page = PAGE.read_text()
    figures = [facts["packed"]["file"], f"{facts['fmax_mhz']:g} MHz", f"**{facts['clock_mhz']:g} MHz**"]
    figures += [f"{used['used']:,.0f}" for used in routed(facts["utilisation"]).values()]
    assert [figure for figure in figures if figure not in page] == []


def test_the_page_says_whether_there_is_one() -> None:
    assert ("**The repository holds no bitstream yet**" in PAGE.read_text()) == (not MANIFESTS)
    of_board = [json.loads(path.read_text())["name"] for path in MANIFESTS if path.parent.name == "pynq-z2"]
    assert len(of_board) == len(set(of_board))  # a bitstream that is built anew takes the place of the old one


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Publish a .bit of TINY as a build with the open tools does; return its manifest."""
    board = BOARDS["pynq-z2"]
    clock = board.clock(100)
    bit, described = tmp_path / "made.bit", tmp_path / "made.hwh"
    bit.write_bytes(bit_file())
    described.write_text(handoff(board, clock))
    timing = Timing(120.0, True, (), 1.667, None)
    outcome = Outcome(bit, described, "openxc7", {"nextpnr-xilinx": "0.8.2-sdf"}, 1, timing, {}, 3)
    return publish(outcome, "TINY", board, clock, TINY, "module m; endmodule", tmp_path / "out")


def test_one_that_is_made_holds_together(made: Path, tmp_path: Path) -> None:
    check(made, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"geometry_digest": "0"},
        {"pages": {}},
        {"interface_version": 0},
        {"fmax_mhz": 99.0},
        {"clock_mhz": 90.909},
        {"base": "0x43c00000"},
        {"verified_on_board": True},
        {"read_back_bits": None},
        {"tools": {"nextpnr-xilinx": "0.8.2"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_manifest_that_does_not_fit_is_found(made: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    made.write_text(json.dumps(json.loads(made.read_text()) | change))
    with pytest.raises((AssertionError, TypeError)):
        check(made, tmp_path)


@pytest.mark.parametrize("suffix", [".hwh", ".bit.xz"])
def test_a_file_that_does_not_fit_is_found(made: Path, tmp_path: Path, suffix: str) -> None:
    path = made.with_name(made.stem + suffix)
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(AssertionError):
        check(made, tmp_path)
