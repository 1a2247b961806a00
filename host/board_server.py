#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Serve this board's circuit over the network: `python3 host/board_server.py --help`. Needs Python 3.10 and numpy."""

import argparse
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the script runs in place; see pyproject.toml

try:
    import numpy  # noqa: F401 (only to say so if it is missing)
except ModuleNotFoundError:
    sys.exit("board_server: the Python package numpy is missing; use the Python of the board's image")

from host.accelerator import AcceleratorError
from host.board.messages import PORT, ProtocolError, parse_address, read_token
from host.board.rails import RAIL_SOURCES, open_rails
from host.board.server import KEEP_S, BoardServer
from host.board.service import BoardService
from host.board.temperature import read_temperature
from host.bus import BusError
from host.local import LocalError, add_local_options, open_local
from model.deployed.geometry import VERSION, GeometryError


def say(line: str) -> None:
    """Print a line at once."""
    print(line, file=sys.stderr, flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description="Serve this board's circuit to one client at a time, which knows the shared token. Raw registers "
        "are never served.",
        epilog="Messages are not encrypted: on a network that others use, leave it on 127.0.0.1 and come through an "
        "SSH tunnel (docs/boards.md).",
    )
    add = parser.add_argument
    add(
        "--listen",
        default=f"127.0.0.1:{PORT}",
        metavar="ADDRESS[:PORT]",
        help="the one interface to serve, by its address (default: %(default)s)",
    )
    add("--token-file", type=Path, help="file with the shared token, mode 600 (default: the variable SPIKELOOP_TOKEN)")
    add("--keep-s", type=float, default=KEEP_S, help="a silent owner keeps the board this long (default: %(default)g)")
    add(
        "--meter",
        choices=RAIL_SOURCES,
        default="auto",
        help="which of this board's power sensors are served (default: what there is)",
    )
    add_local_options(parser)
    options = parser.parse_args(arguments)
    if not options.keep_s > 0:
        parser.error("--keep-s must be above 0")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = parse(arguments)
    try:
        token = read_token(options.token_file)
        address = parse_address(options.listen)
        if address[0] in ("0.0.0.0", "::"):
            raise ProtocolError("one interface is served, not all of them; give its own address with --listen")
        rails = open_rails(options.meter)
        opened = open_local(options, say)
        facts = {**opened.facts, "spikeloop": VERSION, "rails": rails.source}
        try:
            server = BoardServer(
                BoardService(opened.accelerator, facts, rails.read, read_temperature),
                *(token, address, say, options.keep_s),
            )
        except OSError as error:
            raise ProtocolError(
                f"cannot listen on {options.listen} ({error.strerror}); choose another with --listen"
            ) from None
    except (AcceleratorError, BusError, GeometryError, LocalError) as error:
        say(f"board_server: {error}")
        return 1
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: server.close())
    say(f"serving {opened.reason} on {server.address[0]}:{server.address[1]}; Ctrl-C ends")
    say(f"power sensors: {rails.source} ({rails.reason})")
    server.serve()
    opened.accelerator.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
