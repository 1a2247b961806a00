# SPDX-License-Identifier: MIT
"""What a decision costs around the circuit: host, bus, network and device time. `python -m host.bench --help`."""

import argparse
import contextlib
import json
import mmap
import multiprocessing
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from host.accelerator import Accelerator, AcceleratorError, Driver
from host.board.mapped import MappedBus, word_functions
from host.board.messages import REPLY, REQUEST, TOKEN_VARIABLE, ProtocolError
from host.board.payloads import record_words
from host.board.remote import RemoteAccelerator
from host.board.server import BoardServer
from host.board.service import BoardService
from host.bus import Bus, BusError, Places, Words
from host.devices import BOARD_S, DEFAULT_GEOMETRY, add_device_options, open_device
from host.golden_device import GoldenBus
from host.local import LocalError, open_simulated, read_geometry
from hw.registers import PAGE_OFFSET, WINDOW_BYTES, offsets
from model.deployed.artifact import Policy, quantise_token
from model.deployed.geometry import Geometry, GeometryError
from model.deployed.presets import TINY
from model.deployed.random_policy import random_policy

ROOT = Path(__file__).resolve().parent.parent
SERVER = ROOT / "host" / "board_server.py"

MOST_ECHOES = 3.0
"""What a decision's way through the network may take, in bare echoes of the same sizes and of as long a wait."""

WARM_UP = 20

PARTS = ("total", "host", "bus", "network", "device")

ECHOES = ("echo", "held echo")

SIGNATURE = offsets(TINY)["SIGNATURE"]
"""From here on lie the results of a decision, in every geometry."""


class TimedBus(Bus):
    """Another bus, and how long its last exchange took."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.seconds = 0.0

    def read32(self, address: int) -> int:
        """Return the word at `address`."""
        return self._bus.read32(address)

    def write32(self, address: int, word: int) -> None:
        """Store a word at `address`."""
        self._bus.write32(address, word)

    def read_block(self, address: int, count: int) -> Words:
        """Return successive words."""
        return self._bus.read_block(address, count)

    def write_block(self, address: int, words: Words) -> None:
        """Store successive words."""
        self._bus.write_block(address, words)

    def exchange(self, at: Places, words: Words, number: int, count: int) -> Words:
        """Run a whole decision."""
        start = time.perf_counter()
        answer = self._bus.exchange(at, words, number, count)
        self.seconds = time.perf_counter() - start
        return answer

    def close(self) -> None:
        """Close the other bus."""
        self._bus.close()


class Echo:
    """A bare TCP server on this machine that answers `asked` bytes with `answered` bytes, and a connection to it.

    It computes as long as it is told before it answers: whoever waits through a decision sleeps, and is woken later
    than who waits for an answer that comes at once.
    """

    def __init__(self, asked: int, answered: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._asked, self._answered = asked, answered
        program = (
            "import socket, sys, time\n"
            "port, asked, answered = map(int, sys.argv[1:])\n"
            "s = socket.create_connection(('127.0.0.1', port))\n"
            "s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)\n"
            "held, rest = b'', bytes(answered - 8)\n"
            "while part := s.recv(65536):\n"
            "    held += part\n"
            "    if len(held) < asked: continue\n"
            "    start, wait = time.perf_counter_ns(), int.from_bytes(held[:8], 'big')\n"
            "    while (spent := time.perf_counter_ns() - start) < wait: pass\n"
            "    s.sendall((spent if wait else 0).to_bytes(8, 'big') + rest)\n"
            "    held = b''\n"
        )
        arguments = [str(self._listener.getsockname()[1]), str(asked), str(answered)]
        self._process = subprocess.Popen([sys.executable, "-c", program, *arguments])
        self._listener.settimeout(30)
        self._socket, _ = self._listener.accept()
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def seconds(self, computing_ns: int = 0) -> float:
        """Return how long one echo takes, less what its server computed, at least `computing_ns`."""
        question = computing_ns.to_bytes(8, "big") + bytes(self._asked - 8)
        start = time.perf_counter()
        self._socket.sendall(question)
        answer = b""
        while len(answer) < self._answered:
            answer += self._socket.recv(1 << 16)
        return time.perf_counter() - start - int.from_bytes(answer[:8], "big") / 1e9

    def close(self) -> None:
        """End both sides."""
        self._socket.close()
        self._listener.close()
        self._process.wait(30)


def spread(seconds: list[float]) -> dict[str, float]:
    """Return p50, p99 and maximum in microseconds."""
    us = 1e6 * np.array(seconds)
    return {"p50": float(np.percentile(us, 50)), "p99": float(np.percentile(us, 99)), "max": float(us.max())}


def measure(
    driver: Driver, bus: TimedBus | None, policy: Policy, decisions: int, clock_mhz: float, echo: Echo | None = None
) -> dict[str, dict[str, float]]:
    """Time decisions, normalised observation to action words; echoes in between, so that all meet the same load.

    They take turns in going first: who comes second finds a processor that has just been awake.

    Returns part -> spread: total; host (this process's own); bus (words moved and awaited, or a server's time over
    one); network (the way there and back); device (cycles over the clock); echo, which answers at once; held echo,
    which computes as long as the last decision's server first.
    """
    rng = np.random.default_rng(0)
    driver.load(policy)
    times: dict[str, list[float]] = {name: [] for name in (*PARTS, *ECHOES)}
    served_ns = 0
    for number in range(decisions + WARM_UP):
        components = rng.normal(size=policy.input_size)
        echoed = [echo.seconds(), echo.seconds(served_ns)] if echo and number % 2 else []
        start = time.perf_counter()
        token = quantise_token(policy, components)
        ready = time.perf_counter()
        decision = driver.decide(token)
        end = time.perf_counter()
        if isinstance(driver, RemoteAccelerator):
            served_ns = driver.server_ns
        if echo and not echoed:
            echoed = [echo.seconds(served_ns), echo.seconds()][::-1]
        if number < WARM_UP:
            continue
        times["total"].append(end - start)
        if isinstance(driver, RemoteAccelerator):
            served = served_ns / 1e9
            times["bus"].append(served)
            times["network"].append(end - ready - served)  # with taking the messages apart
            times["host"].append(ready - start)
        elif bus:
            times["bus"].append(bus.seconds)
            times["host"].append(end - start - bus.seconds)
        if decision.cycles:
            times["device"].append(decision.cycles / clock_mhz / 1e6)
        for name, seconds in zip(ECHOES, echoed, strict=False):
            times[name].append(seconds)
    return {name: spread(values) for name, values in times.items() if values}


def memory_accesses(geometry: Geometry, compiled: bool, decisions: int) -> dict[str, dict[str, float]]:
    """Time the word accesses of a decision on plain memory, where every decision has ended before it begins."""
    memory = mmap.mmap(-1, WINDOW_BYTES)
    bus = MappedBus(memory, word_functions() if compiled else None, memory.close)
    at = offsets(geometry)
    places = Places(at["INPUT"], at["START"], at["DONE"])
    token: NDArray[np.uint32] = np.zeros(-(-geometry.input_size // 4), np.uint32)
    seconds = []
    for number in range(1, decisions + WARM_UP + 1):
        bus.write32(at["DONE"], number)
        start = time.perf_counter()
        bus.exchange(places, token, number, 2 + (geometry.action_size + 1) // 2)
        seconds.append(time.perf_counter() - start)
    bus.close()
    return {name: spread(seconds[WARM_UP:]) for name in ("total", "bus")}


class AtOnce(GoldenBus):
    """A circuit whose decisions have ended before they begin, all their results zero: what is left is the way to it."""

    def read_block(self, address: int, count: int) -> Words:
        """Return the results of a decision at once, everything else as a circuit does."""
        if SIGNATURE <= address < PAGE_OFFSET:
            return np.zeros(count, np.uint32)
        return super().read_block(address, count)

    def exchange(self, at: Places, words: Words, number: int, count: int) -> Words:
        """Return at once."""
        answer = np.zeros(count, np.uint32)
        answer[0] = number
        return answer


def _serve_at_once(geometry: Geometry, token: bytes, told: Connection) -> None:
    service = BoardService(Accelerator(AtOnce(geometry), geometry), {"geometry": geometry.to_json()}, list)
    board = BoardServer(service, token, ("127.0.0.1", 0))
    told.send(board.address)
    board.serve()


@contextlib.contextmanager
def server_at_once(geometry: Geometry) -> Iterator[RemoteAccelerator]:
    """Run a server of `AtOnce` on loopback in a process of its own; yield a client of it."""
    context, token = multiprocessing.get_context("spawn"), secrets.token_hex(16).encode()
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve_at_once, args=(geometry, token, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        with contextlib.closing(RemoteAccelerator(ours.recv(), token)) as remote:
            yield remote
    finally:
        process.terminate()
        process.join(30)


@contextlib.contextmanager
def server(device: str, geometry: str) -> Iterator[RemoteAccelerator]:
    """Run a board server on loopback in a process of its own; yield a client of it."""
    token = secrets.token_hex(16)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, str(SERVER), "--device", device, "--geometry", geometry, "--listen", f"127.0.0.1:{port}"],
        env={**os.environ, TOKEN_VARIABLE: token},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    reader = threading.Thread(target=process.stderr.read, daemon=True)  # it must not fill its pipe
    try:
        said = ""
        for said in process.stderr:
            if said.startswith("serving"):
                break
        else:
            raise ProtocolError(f"the server did not start: {said.strip()}")
        reader.start()
        with contextlib.closing(RemoteAccelerator(("127.0.0.1", port), token.encode())) as remote:
            yield remote
    finally:
        process.terminate()
        process.wait(30)
        if reader.ident:
            reader.join(30)
        process.stderr.close()


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="python -m host.bench",
        description="Time decisions on a random policy over every bus there is here: plain memory, the golden network, "
        "the simulated circuit, and on loopback a server of a circuit that answers at once and one of the simulated; "
        "with --board, that board alone.",
        epilog="host: quantising and the driver. bus: words moved and awaited; a simulation computes meanwhile. "
        "network: the way to a server and back. device: cycles over --clock-mhz.",
    )
    add_device_options(parser, BOARD_S)
    add = parser.add_argument
    add("--decisions", type=int, default=300, help="to time on each (default: %(default)s)")
    add("--clock-mhz", type=float, default=100.0, help="the circuit's clock (default: %(default)g)")
    add("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    if options.decisions < 2 or not options.clock_mhz > 0:
        parser.error("at least two decisions and a clock above 0 are needed")
    if not options.board and options.geometry is None:
        options.geometry = DEFAULT_GEOMETRY
    return options


def say(line: str) -> None:
    """Print progress."""
    print(line, file=sys.stderr, flush=True)


def run(options: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """Return bus -> part -> spread. Raises what opening a device raises."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    decisions, clock_mhz = options.decisions, options.clock_mhz
    if options.board:
        device = open_device(options, None, say)
        driver, timed = device.driver, None
        if isinstance(driver, Accelerator):
            driver.bus = timed = TimedBus(driver.bus)
        with contextlib.closing(driver):
            rows[device.reason] = measure(driver, timed, random_policy(driver.geometry, 0), decisions, clock_mhz)
        return rows
    geometry = read_geometry(options.geometry)
    policy = random_policy(geometry, 0)
    if word_functions(say):
        rows["memory, compiled"] = memory_accesses(geometry, True, decisions)
    rows["memory, Python"] = memory_accesses(geometry, False, decisions)
    for name in ("golden", "verilated"):
        timed = TimedBus(open_simulated(name, geometry, say))
        with contextlib.closing(Accelerator(timed, geometry)) as accelerator:
            rows[name] = measure(accelerator, timed, policy, decisions, clock_mhz)
    asked = REQUEST.size + policy.input_size
    echo = Echo(asked, REPLY.size + 4 * record_words(geometry, policy.action_size))
    with contextlib.closing(echo):
        with server_at_once(geometry) as remote:
            rows["at once, loopback"] = measure(remote, None, policy, decisions, clock_mhz, echo)
        with server("verilated", options.geometry) as remote:
            rows["verilated, loopback"] = measure(remote, None, policy, decisions, clock_mhz, echo)
    return rows


def show(rows: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print the table."""
    width = max(map(len, rows))
    print(f"{'microseconds: p50 / p99 / max':{width}}  " + "  ".join(f"{part:>22}" for part in PARTS))
    for name, parts in rows.items():
        cells = [parts.get(part) for part in PARTS]
        texts = ["-" if c is None else f"{c['p50']:.1f} / {c['p99']:.1f} / {c['max']:.0f}" for c in cells]
        print(f"{name:{width}}  " + "  ".join(f"{text:>22}" for text in texts))
    for name, parts in rows.items():
        if "echo" in parts:
            network, *echoes = (parts[part]["p50"] for part in ("network", *ECHOES))
            at_once, held = (f"{echo:.0f} µs ({network / echo:.1f} times)" for echo in echoes)
            which = 0 if name.startswith("at once") else 1  # the echo that is like this server
            verdict = "within" if network <= MOST_ECHOES * echoes[which] else "MORE THAN"
            print(
                f"{name}: the network takes {network:.0f} µs; a bare TCP echo of the same sizes {at_once}, and {held} "
                f"where its server computes as long first: {verdict} the {MOST_ECHOES:g} times allowed of "
                f"the {('first', 'second')[which]}"
            )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = parse(arguments)
    try:
        rows = run(options)
        show(rows)
        if options.json:
            options.json.write_text(json.dumps({"decisions": options.decisions, "us": rows}, indent=2) + "\n")
    except (AcceleratorError, BusError, GeometryError, LocalError, OSError) as error:
        say(f"bench: {error}")
        return 1
    except KeyboardInterrupt:
        say("bench: stopped")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
