# SPDX-License-Identifier: MIT
"""What board server and client say to each other: frames over TCP, a challenge, requests and their numbers.

A frame is a header and a payload. A request's header holds payload length, kind and number; a reply's holds payload
length, outcome, number and the nanoseconds the server spent on it. All of it in network byte order; payloads of words
are little-endian. Raw registers are not among the kinds, and must not be.

The server opens with GREETING and a nonce. The client answers with its session, a nonce of its own and an HMAC of all
three under the shared token; the server proves in the same way that it knows the token, and tells what it serves.
"""

import contextlib
import hmac
import os
import socket
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path

from host.bus import BusError

PORT = 5350
GREETING = b"spikeloop board 1"
NONCE_BYTES = 32
SESSION_BYTES = 16
MAC_BYTES = 32
HELLO_BYTES = SESSION_BYTES + NONCE_BYTES + MAC_BYTES

REQUEST = struct.Struct("!IBI")  # payload bytes, kind, number
REPLY = struct.Struct("!IBIQ")  # payload bytes, outcome, number, nanoseconds in the server

LOAD, NEW_EPISODE, DECIDE, STATE, POWER, END, REPEAT, STOP = range(1, 9)
"""Kinds of requests."""

OK, REFUSED, FAILED = range(3)
"""Outcomes: done; not allowed (the connection ends); the device or the request was at fault. The last two carry a
sentence."""

MOST_TOKENS = 1024
"""In one DECIDE."""

SMALL_BYTES = 1 << 16
"""What any request but LOAD may hold: 1024 tokens of 64 components."""

TOKEN_VARIABLE = "SPIKELOOP_TOKEN"
LEAST_TOKEN = 16
"""Characters of a shared token."""

MESSAGE_S = 5.0
"""Longest from a frame's first byte to its last, and longest to take a reply."""

BYTES_PER_S = 100_000
"""What a long frame may take on top: slower than any network these boards are on."""


class ProtocolError(BusError):
    """The other side says what this protocol does not; the connection is of no use any more."""


class Disconnected(ProtocolError):
    """The other side is gone, or takes too long over a message."""


def mac(token: bytes, role: bytes, *parts: bytes) -> bytes:
    """Return the proof that one side (`role`) knows the token; parts have fixed sizes, so nothing can be shifted."""
    return hmac.digest(token, b"|".join((GREETING, role)) + b"".join(parts), "sha256")


def read_token(path: Path | None) -> bytes:
    """Return the shared token: from a file that only its owner may read, else from SPIKELOOP_TOKEN.

    Never from the command line, which every user of a machine can see. Raises `ProtocolError`: there is no default.
    """
    if path is None:
        text, where = os.environ.get(TOKEN_VARIABLE, ""), TOKEN_VARIABLE
        if not text:
            raise ProtocolError(
                f"a shared token is needed: name its file with --token-file, or set {TOKEN_VARIABLE}; make one with "
                "`python3 -c 'import secrets; print(secrets.token_hex(16))'`"
            )
    else:
        where = str(path)
        try:
            if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ProtocolError(f"{path} is open to other users; `chmod 600` it")
            text = path.read_text()
        except OSError as error:
            raise ProtocolError(f"the token file {path} cannot be read ({error.strerror})") from None
        except UnicodeDecodeError:
            raise ProtocolError(f"the token file {path} holds no text; make another") from None
    token = text.strip().encode()
    if len(token) < LEAST_TOKEN:
        raise ProtocolError(f"the token in {where} has {len(token)} characters; at least {LEAST_TOKEN} are needed")
    return token


def parse_address(text: str) -> tuple[str, int]:
    """Split HOST, HOST:PORT or [IPv6]:PORT. Raises `ProtocolError`."""
    host, port = text, str(PORT)
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest[1:] if rest.startswith(":") else port if not rest else "?"
    elif text.count(":") == 1:
        host, port = text.split(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ProtocolError(f"{text!r} is no address; write HOST or HOST:PORT, such as pynq-z2.local:{PORT}")
    return host, int(port)


class Channel:
    """A TCP connection as frames, with a deadline on each of them.

    Every method raises `Disconnected` if the other side is gone or too slow.
    """

    def __init__(self, connection: socket.socket, message_s: float = MESSAGE_S) -> None:
        self._socket = connection
        self._buffer = bytearray()
        self._message_s = message_s
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.settimeout(message_s)

    def send(self, frame: bytes) -> None:
        """Send a whole frame."""
        try:
            self._socket.sendall(frame)
        except OSError as error:
            raise Disconnected(f"the other side takes no message ({_reason(error)})") from None

    def take(self, size: int, deadline: float) -> bytes:
        """Return the next `size` bytes, there by `deadline` (of `time.monotonic`)."""
        buffer = self._buffer
        while len(buffer) < size:
            if time.monotonic() >= deadline:
                raise Disconnected("a message took too long")
            self._receive(deadline)
        taken = bytes(buffer[:size])
        del buffer[:size]
        return taken

    def frame(self, header: struct.Struct, most: Callable[[int], int], wait_s: float) -> tuple[tuple[int, ...], bytes]:
        """Return the fields of the next frame's header, and its payload.

        most : how many bytes a kind's payload may have; known before any is read. wait_s : until the first byte.
        Raises `ProtocolError` for a payload that is longer.
        """
        first = time.monotonic() + wait_s
        while not self._buffer:
            self._receive(first)
        deadline = time.monotonic() + self._message_s
        fields = header.unpack(self.take(header.size, deadline))
        length, kind = fields[:2]
        if length > (limit := most(kind)):
            raise ProtocolError(f"a message of kind {kind} and {length} bytes came; {limit} are allowed")
        return fields, self.take(length, deadline + length / BYTES_PER_S)

    def _receive(self, deadline: float) -> None:
        """Take in what comes next, or return after a while without anything."""
        short = (remaining := deadline - time.monotonic()) < self._message_s
        try:
            if short:
                self._socket.settimeout(max(remaining, 0.001))
            octets = self._socket.recv(1 << 16)
            if short:
                self._socket.settimeout(self._message_s)
        except TimeoutError:
            if time.monotonic() >= deadline:
                raise Disconnected("no message came in time") from None
            return
        except OSError as error:
            raise Disconnected(f"the connection broke ({_reason(error)})") from None
        if not octets:
            raise Disconnected("the connection was closed")
        self._buffer += octets

    def close(self) -> None:
        """End the connection; a thread that waits on it is woken."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
