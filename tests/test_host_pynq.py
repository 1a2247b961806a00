# SPDX-License-Identifier: MIT
"""The real pynq, both versions, each in an environment of its own: tests/on_pynq/checks.py is run there."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import SubElement

import pytest
from packaging.requirements import Requirement

from bitstreams.boards import BOARDS
from bitstreams.hwh import handoff
from bitstreams.publish import Outcome, publish
from bitstreams.reports import Timing
from host.board.bitstream import SYNC_WORD
from host.verilated import library
from model.deployed.presets import TINY
from tests.board_files import bit_file
from tests.trapped_window import on_x86

ROOT = Path(__file__).resolve().parent.parent
CHECKS = ROOT / "tests" / "on_pynq" / "checks.py"
VERSIONS = ("3.1.2", "4.0.0")
FOREIGN = ("ignore:Pynq does not support the CPU Architecture", "ignore:pkg_resources is deprecated as an API")
"""What pynq says when it is imported here; any other warning is an error."""

OPTIONS = ("-q", "-p", "no:cacheprovider", *(word for warning in FOREIGN for word in ("-W", warning)))


def as_vivado_writes(text):
    """Return our generator's .hwh with what Vivado's has for a ZynqMP in the place of a Zynq-7000's clocks."""
    root = ElementTree.fromstring(text)
    listed = next(module for module in root.iter("MODULE") if module.get("INSTANCE") == "ps").find("PARAMETERS")
    listed.clear()
    parameters = {"C_MAXIGP0_DATA_WIDTH": "32"}
    for index in range(4):
        clock = f"PSU__CRL_APB__PL{index}_REF_CTRL__"
        parameters |= {f"{clock}DIVISOR0": "15", f"{clock}DIVISOR1": "1", f"{clock}SRCSEL": "IOPLL"}
        parameters |= {f"{clock}ACT_FREQMHZ": "99.999001", f"PSU__FPGA_PL{index}_ENABLE": "0" if index else "1"}
    for key, value in parameters.items():
        SubElement(listed, "PARAMETER", {"NAME": key, "VALUE": value})
    return ElementTree.tostring(root, encoding="unicode")


def published(folder):
    """Publish a .bit file for each board as a build does, its payload made up, and its .hwh by our generator."""
    for number, (name, board) in enumerate(BOARDS.items()):
        bit, description = folder / "made.bit", folder / "made.hwh"
        bit.write_bytes(bit_file(bytes(16) + SYNC_WORD + bytes([number, 1, 2, 3]) * 64))
        text = handoff(board, board.clock(100))
        description.write_text(as_vivado_writes(text) if name == "zcu104" else text)
        outcome = Outcome(bit, description, "none", {}, None, Timing(120.0, True, (), 0.1, 0.1), {})
        publish(outcome, "TINY", board, board.clock(100), TINY, "module m; endmodule", folder)


@on_x86
@pytest.mark.parametrize("version", VERSIONS)
def test_the_real_pynq(version, tmp_path):
    stamp = ROOT / "build" / f"pynq-{version}" / "installed"
    assert stamp.exists(), f"pynq {version} is not installed; `make {stamp.relative_to(ROOT)}` does it, as `make test`"
    published(tmp_path)
    (tmp_path / "circuit.so").symlink_to(library(TINY))
    done = subprocess.run(
        [stamp.with_name("bin") / "python", "-m", "pytest", *OPTIONS, CHECKS],
        cwd=ROOT,
        env={**os.environ, "SPIKELOOP_PUBLISHED": str(tmp_path), "PYNQ_VERSION": version},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d+ passed in ", done.stdout, re.MULTILINE), done.stdout  # none was skipped


# What pip installs on a board

HELD = {"pynq": "5.0.0", "numpy": "2.0.0", "pycparser": "3.0", "setuptools": "82.0"}
"""Versions that must not come in anywhere."""

IMAGES = {
    # architecture, Python and packages of a board's image
    "PYNQ-Z2, 3.1": ("armv7l", "3.10", {"pynq": "3.1.2", "numpy": "1.21.5"}, "4.0.0"),
    "ZCU104, 3.1": ("aarch64", "3.10", {"pynq": "3.1.2", "numpy": "1.21.5"}, "4.0.0"),
    "ZCU104, 4.0": ("aarch64", "3.12", {"pynq": "4.0.0", "numpy": "1.26.4"}, "3.1.2"),
}


@pytest.mark.parametrize("image", IMAGES)
def test_the_extra_leaves_an_image_s_packages_as_they_are(image, monkeypatch, capsys):
    architecture, python, held, other = IMAGES[image]
    monkeypatch.setattr(sys, "argv", ["requirements.py", "board"])
    runpy.run_path(str(ROOT / ".ci" / "requirements.py"))
    every = [Requirement(line) for line in capsys.readouterr().out.splitlines()]
    machine = {"platform_machine": architecture, "python_version": python}
    wanted = [line for line in every if line.marker is None or line.marker.evaluate(machine)]
    assert {line.name for line in wanted} == {*HELD, "safetensors"}
    for name, version in held.items():
        assert all(line.specifier.contains(version) for line in wanted if line.name == name)
    for name, version in [*HELD.items(), ("pynq", other)]:
        assert not all(line.specifier.contains(version) for line in wanted if line.name == name)


def test_elsewhere_the_extra_has_no_pynq(monkeypatch, capsys):
    """Where the environments of the tests are made, each names its own."""
    monkeypatch.setattr(sys, "argv", ["requirements.py", "board"])
    runpy.run_path(str(ROOT / ".ci" / "requirements.py"))
    lines = [Requirement(line) for line in capsys.readouterr().out.splitlines()]
    machine = {"platform_machine": "x86_64", "python_version": "3.12"}
    assert not [line for line in lines if line.name == "pynq" and line.marker.evaluate(machine)]
    assert len([line for line in lines if line.name == "pynq"]) == 3
