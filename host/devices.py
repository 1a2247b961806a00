# SPDX-License-Identifier: MIT
"""The circuit that a command's options name: simulated, the integers, this board's, or a board's across the network."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host.accelerator import Driver
from host.board.messages import parse_address, read_token
from host.board.rails import Rails, open_rails
from host.board.remote import RemoteAccelerator
from host.board.temperature import read_temperature
from host.local import LocalError, add_board_options, open_local, read_geometry
from model.deployed.geometry import Geometry

DEFAULT_GEOMETRY = "HOPPER_Z2"
"""Of a circuit without a board, where no policy says another."""

POLICY_S = "the policy's, or what a board shows"
BOARD_S = f"what a board shows; without a board {DEFAULT_GEOMETRY}"
"""For people: whose geometry a device has where a command loads a given policy, and where it draws its own."""

HERE = "here"
"""What --board without a host stands for."""


@dataclass(frozen=True)
class Device:
    """What decides, and how results name it."""

    driver: Driver
    name: str  # "verilated", "golden" or "board"
    reason: str  # what it is and why, for people
    facts: dict[str, Any]  # bus, clock and bitstream of a board, as far as known
    rails: Rails  # the board's own power sensors
    temperature: Callable[[], float | None]  # of its die, in degrees Celsius
    remote: bool = False  # whether a server stands in between

    @property
    def simulated(self) -> bool:
        """Whether a processor plays the circuit, here or at the server."""
        return self.facts.get("device") != "board"

    def board_facts(self, clock_mhz: float | None) -> dict[str, Any] | None:
        """Return what results say of a board; None where there is none. clock_mhz : as measured."""
        if self.simulated:
            return None
        facts = self.facts
        return {
            "bus": facts.get("bus"),
            "clock_mhz": clock_mhz,
            "clock_set_mhz": facts.get("clock_mhz"),
            "bitstream": facts.get("bitstream"),
            "bitstream_sha256": facts.get("bitstream_sha256"),
        }


def add_device_options(parser: argparse.ArgumentParser, geometry: str) -> None:
    """Add which circuit decides. geometry : for people, which geometry it has unless --geometry says so."""
    add = parser.add_argument
    add(
        "--device",
        choices=("verilated", "golden"),
        default="verilated",
        help="without a board: the simulated circuit, or the integers (default: %(default)s)",
    )
    add(
        "--board",
        nargs="?",
        const=HERE,
        metavar="HOST[:PORT]",
        help="the circuit of the board this runs on, or of the board server at HOST",
    )
    add("--geometry", help=f"preset or .json file: the circuit's (default: {geometry})")
    add("--token-file", type=Path, help="shared token of the board server, mode 600 (default: SPIKELOOP_TOKEN)")
    add_board_options(parser)


def device_name(options: argparse.Namespace) -> str:
    """Return what results call the chosen device."""
    return "board" if options.board else str(options.device)


def open_device(options: argparse.Namespace, policy: Geometry | None, note: Callable[[str], None]) -> Device:
    """Open the circuit that the options of `add_device_options` name.

    policy : geometry of the policy to come, which a circuit without a board has unless --geometry names another.
    Raises `LocalError`, `BusError`, `AcceleratorError` or `GeometryError`, each with a sentence for the user.
    """
    name = device_name(options)
    if options.board and options.board != HERE:
        address = parse_address(options.board)
        remote = RemoteAccelerator(address, read_token(options.token_file), note)
        if options.geometry and (different := read_geometry(options.geometry).differences(remote.geometry)):
            remote.close()
            raise LocalError(
                f"the board server's circuit is not the one that --geometry names (named, there): "
                f"{'; '.join(different)}; leave --geometry out"
            )
        where, source = f"the board server at {address[0]}:{address[1]}", str(remote.facts.get("rails", "none"))
        rails = Rails(source, f"as {where} reads them" if source != "none" else f"{where} has no sensor", remote.power)
        return Device(remote, name, where, remote.facts, rails, remote.temperature, True)
    local = open_local(argparse.Namespace(**{**vars(options), "device": name}), note, policy)
    if name == "board":
        return Device(local.accelerator, name, local.reason, local.facts, open_rails("auto"), read_temperature)
    none = Rails("none", f"the {name} device is no board; what draws power is this machine", list)
    return Device(local.accelerator, name, local.reason, local.facts, none, lambda: None)
