# SPDX-License-Identifier: MIT
"""A board server on the golden device over real sockets, and what tests speak to it with."""

import contextlib
import socket
import threading

import numpy as np

from host.accelerator import Accelerator
from host.board import messages
from host.board.messages import GREETING, REPLY, mac
from host.board.remote import RemoteAccelerator
from host.board.server import BoardServer
from host.board.service import BoardService
from host.golden_device import GoldenBus
from model.deployed.presets import TINY

TOKEN = b"0123456789abcdef"


class Counting(GoldenBus):
    """Counts decisions, so that one carried out twice shows even where its result would not."""

    def __init__(self, geometry):
        super().__init__(geometry)
        self.starts = 0
        self.gate = threading.Event()
        self.gate.set()

    def _start(self, number):
        self.gate.wait(20)
        self.starts += 1
        super()._start(number)


class Board:
    """A server on the golden device in a thread of its own."""

    def __init__(self, geometry=TINY, port=0, bus=Counting, facts=None, **options):
        self.bus = bus(geometry)
        accelerator = Accelerator(self.bus, geometry)
        self.power = [{"sensor": "ina226", "rail": "12V", "v": 12.0, "a": 0.5, "mw": 6000.0}]
        self.asked = 0  # for power
        service = BoardService(
            accelerator, {"geometry": geometry.to_json(), **(facts or {})}, self._measure, lambda: 41.5
        )
        self.notes = []
        self.server = BoardServer(service, TOKEN, ("127.0.0.1", port), self.notes.append, **options)
        self.thread = threading.Thread(target=self.server.serve, daemon=True)
        self.thread.start()

    def _measure(self):
        self.asked += 1
        return self.power

    @property
    def address(self):
        return self.server.address

    def close(self):
        self.bus.gate.set()
        self.server.close()
        self.thread.join(20)
        assert not self.thread.is_alive()


@contextlib.contextmanager
def serving(**options):
    board = Board(**options)
    try:
        yield board
    finally:
        board.close()


class Opened:
    stack = None


@contextlib.contextmanager
def closing_what_is_left_open():
    """Close what a test leaves open."""
    with contextlib.ExitStack() as stack:
        Opened.stack = stack
        yield


def client(board, token=TOKEN, **options):
    remote = RemoteAccelerator(getattr(board, "address", board), token, **{"patience_s": 5.0, **options})
    Opened.stack.callback(remote._disconnect)
    return remote


def connect(board):
    return Opened.stack.enter_context(socket.create_connection(board.address, 10))


def listen():
    return Opened.stack.enter_context(socket.create_server(("127.0.0.1", 0)))


def greeted(board):
    """Return a connection that has read the server's greeting, and its nonce."""
    connection = connect(board)
    greeting = connection.recv(1024)
    assert greeting.startswith(GREETING)
    return connection, greeting[len(GREETING) :]


def admitted(board, session=b"s" * 16):
    """Return a connection that passed the challenge."""
    connection, nonce = greeted(board)
    mine = b"n" * 32
    connection.sendall(session + mine + mac(TOKEN, b"client", nonce, mine, session))
    assert reply(connection)[0] == messages.OK
    return connection


def reply(connection):
    """Return outcome and payload of the next reply; None where the connection was closed instead."""
    octets = b""
    while len(octets) < REPLY.size or len(octets) < REPLY.size + REPLY.unpack_from(octets)[0]:
        try:
            part = connection.recv(1 << 16)
        except ConnectionError:
            part = b""
        if not part:
            return None
        octets += part
    return REPLY.unpack_from(octets)[1], octets[REPLY.size :]


def decides_as_golden(remote, policy, network, tokens):
    for token in tokens:
        trace = network.decide(token)
        np.testing.assert_array_equal(remote.decide(token).words, trace.action)
        assert remote.signatures() == trace.signatures
