# SPDX-License-Identifier: MIT
"""The circuit on this machine: this board's, the simulated one, or the integers. Imports only what it is asked for."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host.accelerator import Accelerator
from host.board.bitstream import Bitstream, BitstreamError
from host.board.circuit import BoardAccelerator
from host.board.zynq import BUSES, open_board
from host.bus import Bus
from hw.registers import offsets
from model.deployed.geometry import Geometry, GeometryError
from model.deployed.presets import PRESETS, TINY, preset


class LocalError(RuntimeError):
    """A device that cannot be opened here; the message says why."""


@dataclass(frozen=True)
class Local:
    """An accelerator on this machine."""

    accelerator: Accelerator
    reason: str  # what it is and why, for people
    facts: dict[str, Any]  # what a client across the network is told, and a run's summary holds


def add_board_options(parser: argparse.ArgumentParser) -> None:
    """Add how a board's own circuit is reached."""
    add = parser.add_argument
    add("--bus", choices=BUSES, default="auto", help="how this board's circuit is reached (default: what there is)")
    add("--bitstream", type=Path, help="load this .bit first; its .json manifest, and .hwh if any, lie beside it")


def add_local_options(parser: argparse.ArgumentParser) -> None:
    """Add which circuit of this machine is meant."""
    parser.add_argument(
        "--device",
        choices=("board", "verilated", "golden"),
        default="board",
        help="this board's circuit, the simulated one, or the integers (default: %(default)s)",
    )
    parser.add_argument(
        "--geometry", help="preset or .json file: of a device without a board, or where a bitstream's is no preset"
    )
    add_board_options(parser)


def read_geometry(name: str) -> Geometry:
    """Return a preset by name, or a geometry from a JSON file. Raises `GeometryError`."""
    path = Path(name)
    if path.suffix != ".json":
        return preset(name)
    try:
        return Geometry.from_json(path.read_text())
    except OSError as error:
        raise GeometryError(f"the geometry file {name} cannot be read ({error.strerror})") from None


def open_local(options: argparse.Namespace, note: Callable[[str], None], policy: Geometry | None = None) -> Local:
    """Open the circuit that the options of `add_local_options` name.

    policy : geometry of the policy to come, if one does. The circuit's is the one that --geometry names, else what a
    board's register shows, else the policy's.
    Raises `LocalError`, `BusError`, `AcceleratorError` or `GeometryError`.
    """
    named = read_geometry(options.geometry) if options.geometry else None
    if options.device == "board":
        return _open_board(options, note, named, policy)
    geometry = named or policy
    if geometry is None:
        raise LocalError(f"--device {options.device} needs a --geometry, such as HOPPER_Z2")
    bus = open_simulated(options.device, geometry, note)
    accelerator = Accelerator(bus, geometry)
    what = "the simulated circuit" if options.device == "verilated" else "the golden network"
    return Local(accelerator, what, {"device": options.device, "geometry": geometry.to_json()})


def open_simulated(device: str, geometry: Geometry, note: Callable[[str], None]) -> Bus:
    """Return the bus of a device that needs no board, built first if need be. Raises `LocalError`."""
    try:
        if device == "golden":
            from host.golden_device import GoldenBus

            return GoldenBus(geometry)
        from host.verilated import BuildError, VerilatedBus, library
    except ModuleNotFoundError as missing:
        raise LocalError(
            f"the Python package {missing.name} is missing; a board needs none, --device {device} does"
        ) from None
    try:
        return VerilatedBus(library(geometry, note))
    except BuildError as error:
        raise LocalError(str(error)) from None


def _open_board(
    options: argparse.Namespace, note: Callable[[str], None], named: Geometry | None, policy: Geometry | None
) -> Local:
    bitstream = Bitstream.read(options.bitstream) if options.bitstream else None
    opened = open_board(options.bus, bitstream, note)
    try:
        # these registers lie at the same place in every geometry
        shown = opened.bus.read32(offsets(TINY)["GEOMETRY_ID"])
        if bitstream and shown != bitstream.geometry.identifier:
            raise BitstreamError(
                f"the circuit shows geometry 0x{shown:08x}, the manifest of {bitstream.path} "
                f"0x{bitstream.geometry.identifier:08x}; another bitstream is loaded"
            )
        known = [g for g in (bitstream and bitstream.geometry, policy, *PRESETS.values()) if g]
        geometry = named or next((g for g in known if g.identifier == shown), policy or TINY)
        accelerator = BoardAccelerator(opened.bus, geometry, bitstream)
    except BaseException:
        opened.bus.close()
        raise
    facts = {
        "device": "board",
        "geometry": geometry.to_json(),
        "bus": opened.reason,
        "clock_mhz": opened.clock_mhz,
        "bitstream": bitstream.path.name if bitstream else None,
        "bitstream_sha256": bitstream.sha256 if bitstream else None,
    }
    return Local(accelerator, opened.reason, facts)
