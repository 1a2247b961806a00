# SPDX-License-Identifier: MIT
"""Write a geometry's accelerator as Verilog, with a manifest of what it is."""

import argparse
import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import ClockDomain, ClockSignal, DomainRenamer, Elaboratable, Module, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from hw.accelerator import Accelerator
from hw.axi import AxiLite
from hw.expressions import IF_VALID
from hw.memory_map import memory_map
from hw.registers import INTERFACE_VERSION
from hw.synthesis import SynthesisError, run_yosys
from model.deployed.geometry import Geometry, GeometryError
from model.deployed.presets import PRESETS, preset

TOP = "spikeloop"
"""Name of the top module; its ports are `clk`, `rst` and `s_axil__*`."""


class Top(wiring.Component):
    """The accelerator with its reset registered: a short path in the circuit, and one that a simulator need not follow
    through every next-state function.

    Members
    -------
    s_axil : AXI4-Lite, 32-bit data, 64 KB

    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        super().__init__({"s_axil": In(AxiLite(Accelerator.ADDRESS_BITS))})

    def elaborate(self, platform):
        m = Module()
        m.domains.core = core = ClockDomain(local=True)
        reset = Signal(reset_less=True, init=1)
        m.d.sync += reset.eq(ResetSignal("sync"))
        m.d.comb += [core.clk.eq(ClockSignal("sync")), core.rst.eq(reset)]
        m.submodules.accelerator = accelerator = DomainRenamer("core")(Accelerator(self.geometry))
        wiring.connect(m, wiring.flipped(self.s_axil), accelerator.s_axil)
        return m


def verilog(geometry: Geometry) -> str:
    """Return the accelerator's Verilog: the same text on every run and machine. Raises `SynthesisError`."""
    return converted(Top(geometry), TOP)


def converted(design: Elaboratable, name: str, ports: Sequence[Signal] | None = None) -> str:
    """Return a design as Verilog, its top module under a name; a design that is no component names its `ports`.

    Amaranth's own conversion would have yosys take operations with constants apart, bit by bit: of a mask over a word,
    which a simulator applies at once, come a dozen assignments to pieces of it. Raises `SynthesisError`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        text = undefined_otherwise(rtlil.convert(design, name=name, ports=ports, emit_src=False))
        (Path(scratch) / "design.il").write_text(text)
        script = [
            "read_rtlil design.il",
            "proc -noopt -nomux -norom",
            "memory_collect",
            "write_verilog -norename design.v",
        ]
        run_yosys(Path(scratch), script, "design.v")
        return (Path(scratch) / "design.v").read_text()


def undefined_otherwise(design: str) -> str:
    """Return RTLIL in which every signal of `hw.expressions.if_valid` is x where it is not valid.

    Amaranth has no such value, and makes it its signal's first.
    """
    name = rf"\\\w+{IF_VALID}(?:\$\d+)?"
    default = re.compile(rf"(process \S+\n +assign {name} \[\d+:0\] (\d+)')[01]+$", re.MULTILINE)
    design, count = default.subn(lambda found: found[1] + "x" * int(found[2]), design)
    # a signal that another one merely repeats may go by that one's name
    assert count == len(re.findall(rf"^ +wire .*{name}$", design, re.MULTILINE))
    return design


def manifest(geometry: Geometry, text: str) -> dict[str, object]:
    """Return the facts that go beside the Verilog: sizes, digests, interface."""
    return {
        "top": TOP,
        "geometry": json.loads(geometry.to_json()),
        "geometry_digest": geometry.digest,
        "geometry_id": f"0x{geometry.identifier:08x}",
        "interface_version": INTERFACE_VERSION,
        "verilog_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "pages": {name: section.page for name, section in memory_map(geometry).items()},
    }


def read_geometry(name: str) -> Geometry:
    """Return a preset by name, or a geometry from a JSON file. Raises `GeometryError`, also where it has no circuit."""
    path = Path(name)
    if path.suffix != ".json":
        return preset(name)
    if not path.is_file():
        raise GeometryError(f"there is no geometry file {name}; the presets are {', '.join(PRESETS)}")
    geometry = Geometry.from_json(path.read_text())
    geometry.require_circuit()
    return geometry


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m hw.generate",
        description="Write OUT/spikeloop.v and OUT/manifest.json. Files are touched only if their text changes.",
    )
    parser.add_argument("--geometry", default="HOPPER_Z2", help="preset, or a .json file (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build"), help="folder (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        geometry = read_geometry(options.geometry)
        text = verilog(geometry)
    except (GeometryError, SynthesisError) as error:
        print(f"hw.generate: {error}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    files = {"spikeloop.v": text, "manifest.json": json.dumps(manifest(geometry, text), indent=2) + "\n"}
    for name, content in files.items():
        path = options.out / name
        if not path.is_file() or path.read_text() != content:
            path.write_text(content)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
