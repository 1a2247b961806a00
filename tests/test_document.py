# SPDX-License-Identifier: MIT
"""The pages: the register page is current and its table and memory map are sound, widths and links are true."""

import re
from pathlib import Path

import pytest

from hw import document
from hw.memory_map import memory_map
from hw.registers import PAGE_OFFSET, PAGE_WORDS, register_table
from model.deployed.geometry import Geometry
from model.deployed.presets import HOPPER_Z2, HOPPER_Z2_PLASTIC, ODD, TINY

# capacities at their limits make the longest register arrays and the most pages
LARGEST = Geometry(observation_size=128, action_size=32, d_model=256, layers=8, weight_bits=5)
GEOMETRIES = {
    "TINY": TINY,
    "ODD": ODD,
    "HOPPER_Z2": HOPPER_Z2,
    "HOPPER_Z2_PLASTIC": HOPPER_Z2_PLASTIC,
    "LARGEST": LARGEST,
}

DOCS = Path(__file__).resolve().parent.parent / "docs"

every_geometry = pytest.mark.parametrize("g", GEOMETRIES.values(), ids=GEOMETRIES)


def test_page_is_current():
    assert document.main(["--check"]) == 0, "run `python -m hw.document`"


def test_check_finds_a_stale_page_and_writing_mends_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(document, "PAGE", tmp_path / "registers.md")
    assert document.main(["--check"]) == 1
    assert document.main([]) == 0
    assert document.main(["--check"]) == 0
    stale = document.PAGE.read_text().replace("0x018", "0x01c")
    document.PAGE.write_text(stale)
    assert document.main(["--check"]) == 1
    assert document.PAGE.read_text() == stale
    assert "python -m hw.document" in capsys.readouterr().err


def test_page_shows_every_register_field_and_section():
    text = document.PAGE.read_text()
    table = register_table(HOPPER_Z2)
    plastic = [register for register in register_table(HOPPER_Z2_PLASTIC) if register not in table]
    shown = [line.split(" | ")[1] for line in text.splitlines() if line.startswith("| 0x")]
    assert shown == [register.name for register in (*sorted(table, key=lambda register: register.offset), *plastic)]
    for register in table:
        for name, bit, doc in register.fields:
            assert f"| {bit} | {name} | {doc} |" in text
    for name, section in memory_map(HOPPER_Z2_PLASTIC).items():
        assert f"| {name} | {'RW' if section.writable else 'RO'} | {section.rows} |" in text


@every_geometry
def test_registers_are_aligned_apart_and_below_the_page(g):
    offsets = []
    for register in register_table(g):
        assert register.access in ("RO", "RW", "W1", "W1C")
        assert 1 <= register.width <= 32
        offsets += [register.offset + 4 * index for index in range(register.count)]
    assert len(set(offsets)) == len(offsets)
    assert all(offset % 4 == 0 and 0 <= offset < PAGE_OFFSET for offset in offsets)
    names = [register.name for register in register_table(g)]
    assert len(set(names)) == len(names)


@every_geometry
def test_fields_are_apart_and_within_their_register(g):
    for register in register_table(g):
        bits = [bit for _, bit, _ in register.fields]
        assert len(set(bits)) == len(bits)
        assert all(0 <= bit < register.width for bit in bits)


@every_geometry
def test_sections_take_pages_of_their_own_and_fit_them(g):
    sections = memory_map(g)
    pages = [section.page + page for section in sections.values() for page in range(section.pages)]
    assert pages == list(range(len(pages)))
    assert len(pages) <= 1 << next(register.width for register in register_table(g) if register.name == "PAGE")
    for name, section in sections.items():
        assert section.name == name
        assert section.words * 32 >= section.row_bits > (section.words - 1) * 32
        assert section.stride >= section.words
        assert section.rows * section.stride <= section.pages * PAGE_WORDS


def test_widths_on_the_number_page_are_the_geometry_s():
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \| (\d+) \|", (DOCS / "numbers.md").read_text(), re.MULTILINE)
    assert len(rows) == 24
    for name, *values in rows:
        assert [getattr(g, name) for g in (TINY, ODD, HOPPER_Z2)] == [int(value) for value in values], name


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.stem)
def test_links_and_named_files_exist(path):
    text = path.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [link for link in links if not (DOCS / link).exists()] == []
    named = re.findall(r"`((?:docs|host|hw|model|sim|tests)/[\w/]+\.(?:py|md))`", text)
    assert [name for name in named if not (DOCS.parent / name).exists()] == []
