# SPDX-License-Identifier: MIT
"""Write docs/registers.md from the register table and the memory map."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from hw.memory_map import Section, memory_map
from hw.registers import INTERFACE_VERSION, PAGE_OFFSET, PAGE_WORDS, WINDOW_BYTES, Register, register_table
from model.deployed.geometry import Geometry
from model.deployed.presets import HOPPER_Z2, HOPPER_Z2_PLASTIC

PAGE = Path(__file__).resolve().parent.parent / "docs" / "registers.md"

INTRODUCTION = """\
# Registers

*Written by `python -m hw.document` from `hw/registers.py` and `hw/memory_map.py`: change those.*

A circuit is one AXI4-Lite window of {kilobytes} KB with 32-bit words. This page is interface version {version} for
the geometry HOPPER_Z2 (GEOMETRY_ID 0x{identifier:08x}); other geometries differ in counts, widths and pages only, and
of another attention than PSSA in its memories (`taps`, `ring`); with step gates there is a memory `gates` more, with
plasticity what [the end of this page](#plasticity) says.

* Every access is answered with OKAY. An address without a register reads zero and sets STATUS.BAD_ADDRESS; so does a
  store of less than four bytes, which is dropped. A store to an RO register does nothing.
* A store done twice does no harm, and reading clears nothing.
* RO: shows what the circuit knows. RW: holds what was written. W1: writing ones acts, reads zero. W1C: a written one
  clears the bit.
* Registers marked *idle* refuse a change while a decision runs (STATUS.REFUSED). The others may be written at any time;
  INPUT and REPEAT take effect at the next START.

## Decision

1. Write the token to INPUT: one signed byte per component, observation, previous action, return-to-go.
2. Write a number to START that it does not hold. The decision begins.
3. Read DONE until it shows that number. CYCLES and ACTION follow at the next addresses, for one burst.

An action word over 32768 is the action in -1..1. With REPEAT = n, a START runs n + 1 decisions on the same token, each
of which advances the episode, and DONE changes after the last: for power measurements. SOFT_RESET forgets the episode
and the last decision, DONE included; STATUS and TOTAL_* stay.
"""

MEMORIES = """\
## Policy memory and probes

The upper half of the window, from 0x{offset:04x}, shows {words} words of the page that PAGE selects. A section is a
memory of rows. A row is packed low bits first into words, and rows begin `stride` words apart, so that word *w* of row
*r* lies at word `r * stride + w` of the section. Pages work between decisions only: while one runs, stores are dropped,
reads give zero, and STATUS.REFUSED is set. Beyond a section's last row, and for a store to a probe, it is
STATUS.BAD_ADDRESS.
"""


PLASTICITY = """\
## Plasticity

What a geometry whose head learns has more, here HOPPER_Z2_PLASTIC ([numbers.md](numbers.md#plasticity)). Write FACTOR,
then a number to LEARN that it does not hold, and read LEARNED until it shows that number; meanwhile the circuit is
busy. DONE of a decision comes when its traces are in, sooner where they are FROZEN. NEW_EPISODE and SOFT_RESET clear
the traces; learned weights stay in `head` until a policy is loaded. A SOFT_RESET in the middle of a change leaves it
half done: load again.
"""


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    for cells in (header, ("---",) * len(header), *rows):
        yield "| " + " | ".join(cells) + " |"


def _offset(register: Register) -> str:
    first, last = register.offset, register.offset + 4 * (register.count - 1)
    return f"0x{first:03x}" if first == last else f"0x{first:03x} to 0x{last:03x}"


def _pages(section: Section) -> str:
    last = section.page + section.pages - 1
    return str(section.page) if section.page == last else f"{section.page} to {last}"


def _registers(registers: Iterable[Register]) -> Iterator[str]:
    return _table(
        ("offset", "name", "access", "bits", "what"),
        [(_offset(r), r.name, r.access + (", *idle*" if r.idle_only else ""), str(r.width), r.doc) for r in registers],
    )


def _sections(sections: Iterable[Section]) -> Iterator[str]:
    return _table(
        ("page", "section", "access", "rows", "bits of a row", "words", "stride", "what"),
        [
            (
                *(_pages(s), s.name, "RW" if s.writable else "RO"),
                *(str(n) for n in (s.rows, s.row_bits, s.words, s.stride)),
                s.doc,
            )
            for s in sections
        ],
    )


def page(g: Geometry, plastic: Geometry) -> str:
    """Return the page for a geometry, and what another, whose head learns, has more."""
    registers, sections = register_table(g), memory_map(g)
    lines = [
        INTRODUCTION.format(kilobytes=WINDOW_BYTES // 1024, version=INTERFACE_VERSION, identifier=g.identifier),
        "## Registers by address\n",
        *_registers(sorted(registers, key=lambda register: register.offset)),
        "",
    ]
    for register in registers:
        if register.fields:
            lines += [f"### {register.name}\n"]
            rows = [(str(bit), name, doc) for name, bit, doc in register.fields]
            lines += [*_table(("bit", "name", "what"), rows), ""]
    lines += [MEMORIES.format(offset=PAGE_OFFSET, words=PAGE_WORDS), *_sections(sections.values())]
    more = [register for register in register_table(plastic) if register not in registers]
    lines += ["", PLASTICITY, *_registers(more), ""]
    lines += _sections(section for name, section in memory_map(plastic).items() if name not in sections)
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m hw.document", description="Write docs/registers.md from the register table and the memory map."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is not current")
    options = parser.parse_args(arguments)
    text = page(HOPPER_Z2, HOPPER_Z2_PLASTIC)
    if not options.check:
        PAGE.write_text(text)
    elif not PAGE.is_file() or PAGE.read_text() != text:
        print("docs/registers.md is not current; run `python -m hw.document`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
