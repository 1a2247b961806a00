# SPDX-License-Identifier: MIT
"""The board server over real sockets: what clients, strangers and broken connections get."""

import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from host.accelerator import Accelerator, AcceleratorError
from host.board import messages
from host.board import remote as remote_module
from host.board import service as service_module
from host.board.messages import GREETING, LOAD, REPLY, REQUEST, ProtocolError, mac
from host.board.payloads import encode_image
from host.board.remote import RemoteAccelerator
from host.board.server import MOST_CONNECTIONS, BoardServer
from host.board.service import BoardService
from host.golden_device import GoldenBus
from host.policy_image import pack
from model.deployed.geometry import ODD, TINY
from model.deployed.golden import GoldenNetwork
from model.deployed.random_policy import random_policy, random_tokens

ROOT = Path(__file__).resolve().parent.parent
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

    def __init__(self, geometry=TINY, port=0, **options):
        self.bus = Counting(geometry)
        accelerator = Accelerator(self.bus, geometry)
        self.power = [{"sensor": "ina226", "rail": "12V", "v": 12.0, "a": 0.5, "mw": 6000.0}]
        self.asked = 0  # for power
        service = BoardService(accelerator, {"geometry": geometry.to_json()}, self._measure)
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


@pytest.fixture
def board():
    with serving() as board:
        yield board


class Opened:
    stack = None


@pytest.fixture(autouse=True)
def _opened():
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


# What a client gets


def test_a_client_gets_what_an_accelerator_gives(board):
    policy = random_policy(TINY, 1, 7, 3)
    local = Accelerator(GoldenBus(TINY), TINY)
    local.load(policy)
    remote = client(board)
    assert remote.geometry == TINY
    remote.load(policy)
    tokens = random_tokens(policy, 12, 0)
    for token in tokens[:5]:
        found, expected = remote.decide(token), local.decide(token)
        np.testing.assert_array_equal(found.words, expected.words)
        assert found.words.dtype == np.int16
        assert remote.signatures() == local.signatures()
        assert remote.counters() == local.counters()
        assert remote.server_ns > 0
    for found, expected in zip(remote.decide_all(tokens[5:]), local.decide_all(tokens[5:]), strict=True):
        np.testing.assert_array_equal(found.decision.words, expected.decision.words)
        assert (found.signatures, found.counters) == (expected.signatures, expected.counters)
    assert remote.totals() == (12, 0)
    assert remote.status() == set()
    assert remote.power()[0]["mw"] == 6000.0
    remote.new_episode()
    decides_as_golden(remote, policy, GoldenNetwork(policy), tokens)
    remote.close()
    remote.close()


def test_more_tokens_than_a_message_takes(board, monkeypatch):
    for module in (remote_module, service_module):
        monkeypatch.setattr(module, "MOST_TOKENS", 8)
    policy = random_policy(TINY, 1, 3, 1)
    remote = client(board)
    remote.load(policy)
    tokens = random_tokens(policy, 19, 0)
    records, network = remote.decide_all(tokens), GoldenNetwork(policy)
    assert len(records) == len(tokens)
    for record, token in zip(records, tokens, strict=True):
        np.testing.assert_array_equal(record.decision.words, network.decide(token).action)
    monkeypatch.setattr(remote_module, "MOST_TOKENS", 9)
    with pytest.raises(AcceleratorError, match="9 tokens came at once; 8 are allowed"):
        remote.decide_all(tokens)


def test_what_the_device_refuses_arrives_as_a_sentence(board):
    remote = client(board)
    with pytest.raises(AcceleratorError, match="no policy is loaded"):
        remote.decide(np.zeros(11, int))
    with pytest.raises(AcceleratorError, match=r"another geometry than the board's circuit.*d_model"):
        remote.load(random_policy(ODD, 1))
    remote.load(random_policy(TINY, 1, 7, 3))
    with pytest.raises(AcceleratorError, match="14 components does not fit the loaded policy's 11"):
        remote.decide(np.zeros(14, int))


def test_a_memory_that_fails_is_reported_and_the_session_goes_on(board, monkeypatch):
    policy = random_policy(TINY, 1)
    remote = client(board)
    with monkeypatch.context() as patch:
        patch.setattr(GoldenBus, "read_block", lambda self, address, count: np.zeros(count, np.uint32))
        with pytest.raises(AcceleratorError, match="the board says: the circuit's weights memory reads back with CRC"):
            remote.load(policy)
    remote._inputs = 15
    with pytest.raises(AcceleratorError, match="the board says: no policy is loaded"):
        remote.decide(np.zeros(15, int))
    remote.load(policy)
    decides_as_golden(remote, policy, GoldenNetwork(policy), random_tokens(policy, 3, 0))


# Strangers


def test_a_wrong_token_gets_nothing_in_either_direction(board):
    with pytest.raises(ProtocolError, match="the token is not this server's"):
        client(board, b"0123456789abcdeF")
    assert board.bus.starts == 0
    assert client(board).geometry == TINY  # and is not in the way


def test_an_overheard_proof_is_worth_nothing_later(board):
    session, mine = b"s" * 16, b"n" * 32
    first, nonce = greeted(board)
    proof = mac(TOKEN, b"client", nonce, mine, session)
    second, other = greeted(board)
    assert nonce != other
    second.sendall(session + mine + proof)
    outcome, text = reply(second)
    assert outcome == messages.REFUSED
    assert b"token" in text
    first.close()
    second.close()


def test_a_server_without_the_token_is_found_out():
    def pretend(listener):
        connection = Opened.stack.enter_context(listener.accept()[0])
        connection.sendall(GREETING + b"n" * 32)
        connection.recv(1024)
        text = b"m" * 32 + b"{}"
        connection.sendall(REPLY.pack(len(text), messages.OK, 0, 0) + text)
        connection.recv(1024)

    listener = listen()
    thread = threading.Thread(target=pretend, args=(listener,), daemon=True)
    thread.start()
    with pytest.raises(ProtocolError, match="does not know the token"):
        client(listener.getsockname()[:2])
    thread.join(10)
    listener.close()


@pytest.mark.parametrize("octets", [b"GET / HTTP/1.1\r\n\r\n" + 80 * b"x", os.urandom(4096), bytes(200)])
def test_garbage_is_refused_before_anything_else(board, octets):
    connection, _ = greeted(board)
    connection.sendall(octets)
    answer = reply(connection)
    assert answer is None or answer[0] == messages.REFUSED
    connection.close()
    assert client(board).geometry == TINY


def test_what_is_no_board_server_is_named():
    listener = listen()

    def greet():
        Opened.stack.enter_context(listener.accept()[0]).sendall(b"SSH-2.0-OpenSSH" + 60 * b" ")

    threading.Thread(target=greet, daemon=True).start()
    with pytest.raises(ProtocolError, match="no board server of this release"):
        client(listener.getsockname()[:2])
    listener.close()


def test_strangers_cannot_crowd_the_owner_out(board):
    policy = random_policy(TINY, 1)
    remote = client(board)
    remote.load(policy)
    crowd = [connect(board) for _ in range(4 * MOST_CONNECTIONS)]
    greetings = [connection.recv(1024) for connection in crowd]
    assert len([greeting for greeting in greetings if greeting]) == MOST_CONNECTIONS - 1
    decides_as_golden(remote, policy, GoldenNetwork(policy), random_tokens(policy, 3, 0))


def test_strangers_that_say_nothing_are_gone_soon():
    with serving(message_s=0.3) as board:
        policy = random_policy(TINY, 1)
        remote = client(board)
        remote.load(policy)
        crowd = [connect(board) for _ in range(2 * MOST_CONNECTIONS)]
        network, tokens = GoldenNetwork(policy), random_tokens(policy, 6, 0)
        decides_as_golden(remote, policy, network, tokens[:3])
        remote._channel.close()
        decides_as_golden(remote, policy, network, tokens[3:])
        assert {len(connection.recv(1024)) for connection in crowd} <= {0, len(GREETING) + 32}


# One owner at a time


def test_a_second_client_is_told_of_the_first_and_may_come_when_it_ends(board):
    policy = random_policy(TINY, 1)
    first = client(board)
    first.load(policy)
    with pytest.raises(ProtocolError, match="has another owner"):
        client(board)
    decides_as_golden(first, policy, GoldenNetwork(policy), random_tokens(policy, 3, 0))
    first.close()
    second = client(board)
    second._inputs = policy.input_size
    with pytest.raises(AcceleratorError, match="no policy is loaded"):  # and sees nothing of the first one's
        second.decide(np.zeros(policy.input_size, int))


def test_a_silent_owner_is_outlasted_but_not_before():
    with serving(keep_s=0.5) as board:
        policy = random_policy(TINY, 1)
        first = client(board, patience_s=0.2)
        first.load(policy)
        with pytest.raises(ProtocolError, match="another owner"):
            client(board)
        time.sleep(0.6)
        second = client(board)
        second.load(policy)
        with pytest.raises(ProtocolError, match="has another owner"):
            first.decide(np.zeros(policy.input_size, int))
        decides_as_golden(second, policy, GoldenNetwork(policy), random_tokens(policy, 3, 0))


# Broken connections


class Wire:
    """A link between client and server that can be cut, delayed and made to lose what comes back."""

    def __init__(self, board):
        self.board = board
        self.listener = listen()
        self.address = self.listener.getsockname()[:2]
        self.lose_replies = 0  # this many are swallowed, and the connection cut
        self.cut_after = None  # bytes towards the server that still go through
        self.delay_s = 0.0
        self.pairs = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
                far = socket.create_connection(self.board.address, 10)
            except OSError:
                return
            self.pairs.append((near, far))
            for source, sink, up in ((near, far, True), (far, near, False)):
                threading.Thread(target=self._pump, args=(source, sink, up), daemon=True).start()

    def _pump(self, source, sink, up):
        with contextlib.suppress(OSError):
            while octets := source.recv(1 << 16):
                if self.delay_s and not up:
                    time.sleep(self.delay_s)
                if not up and self.lose_replies:
                    self.lose_replies -= 1
                    break
                if up and self.cut_after is not None:
                    sink.sendall(octets[: self.cut_after])
                    self.cut_after = None
                    break
                sink.sendall(octets)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.listener.close()
        for pair in self.pairs:
            for end in pair:
                end.close()


@pytest.fixture
def wire(board):
    wire = Wire(board)
    yield wire
    wire.close()


def flying(board, wire):
    policy = random_policy(TINY, 1)
    remote = client(wire)
    remote.load(policy)
    network, tokens = GoldenNetwork(policy), random_tokens(policy, 12, 0)
    decides_as_golden(remote, policy, network, tokens[:4])
    return remote, policy, network, tokens[4:]


def test_a_lost_reply_is_sent_again_and_its_decision_not_repeated(board, wire):
    remote, policy, network, tokens = flying(board, wire)
    for token in tokens:
        wire.lose_replies = 1
        decides_as_golden(remote, policy, network, [token])
        assert wire.lose_replies == 0
    assert board.bus.starts == 12
    assert remote.totals() == (12, 0)


@pytest.mark.parametrize("octets", [0, 5, REQUEST.size, REQUEST.size + 7])
def test_a_request_cut_in_two_is_sent_again(board, wire, octets):
    remote, policy, network, tokens = flying(board, wire)
    wire.cut_after = octets
    decides_as_golden(remote, policy, network, tokens)
    assert wire.cut_after is None
    assert board.bus.starts == 12


def test_a_reply_that_comes_too_late_is_asked_for_again(board, wire):
    remote, policy, network, tokens = flying(board, wire)
    remote._answer_s = 0.2
    board.bus.gate.clear()
    threading.Timer(0.6, board.bus.gate.set).start()
    decides_as_golden(remote, policy, network, tokens)
    assert board.bus.starts == 12
    assert len(wire.pairs) > 1


def test_a_slow_wire_changes_nothing(board, wire):
    wire.delay_s = 0.02
    remote, policy, network, tokens = flying(board, wire)
    decides_as_golden(remote, policy, network, tokens)
    assert board.bus.starts == 12
    assert len(wire.pairs) == 1


def test_a_server_that_was_restarted_has_forgotten_the_episode():
    first = Board()
    policy = random_policy(TINY, 1)
    remote = client(first)
    remote.load(policy)
    port = first.address[1]
    first.close()
    with serving(port=port):
        with pytest.raises(ProtocolError, match="has forgotten this episode"):
            remote.decide(random_tokens(policy, 1, 0)[0])


def test_a_server_that_stays_away_ends_the_client_s_patience():
    board = Board()
    notes = []
    remote = client(board, patience_s=0.5, note=notes.append)
    board.close()
    with pytest.raises(ProtocolError, match=r"does not answer.*is it running there"):
        remote.new_episode()
    assert "calling again" in notes[0]


# Bad owners


@pytest.mark.parametrize(
    "frame",
    [
        REQUEST.pack(1 << 31, LOAD, 1),
        REQUEST.pack((1 << 16) + 1, messages.DECIDE, 1),
        REQUEST.pack(1, 77, 1) + b"x",
        REQUEST.pack(0, messages.STATE, 5),
        os.urandom(1000),
    ],
    ids=["length", "too many tokens", "kind", "number", "random"],
)
def test_an_owner_that_talks_nonsense_is_cut_off(board, frame):
    connection = admitted(board)
    connection.sendall(frame)
    answer = reply(connection)
    assert answer is None or answer[0] == messages.REFUSED
    connection.close()
    assert client_of_same_session(board)


def client_of_same_session(board):
    """Return whether the board still serves the session of `admitted`."""
    connection = admitted(board)
    connection.sendall(REQUEST.pack(0, messages.STATE, 1))
    answer = reply(connection)
    connection.close()
    return answer[0] == messages.OK


def policy_payload(change=lambda head: None, cut=0):
    import json

    payload = encode_image(TINY, pack(random_policy(TINY, 1)))
    (length,) = struct.unpack_from("!I", payload)
    head = json.loads(payload[4 : 4 + length])
    change(head)
    text = json.dumps(head).encode()
    rest = payload[4 + length :]
    return struct.pack("!I", len(text)) + text + rest[: len(rest) - cut]


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        (b"", "no packed policy"),
        (b"\xff\xff\xff\xff{}", "no packed policy"),
        (struct.pack("!I", 4000) + 4000 * b"[", "no packed policy"),
        (policy_payload(cut=4), "bytes, its geometry"),
        (policy_payload(cut=3), "bytes, its geometry"),
        (policy_payload(lambda head: head["sections"].pop()), "not the memories"),
        (policy_payload(lambda head: head["sections"].append("ring")), "not the memories"),
        (policy_payload(lambda head: head["sections"].append("weights")), "not the memories"),
        (policy_payload(lambda head: head["registers"].update(CONTROL=2)), "not the memories and registers"),
        (policy_payload(lambda head: head["registers"].update(INPUT_COUNT=-1)), "INPUT_COUNT is -1"),
        (policy_payload(lambda head: head["registers"].update(INPUT_COUNT=True)), "INPUT_COUNT is True"),
        (policy_payload(lambda head: head["registers"].update(ACTION_COUNT=0)), "no circuit takes"),
        (policy_payload(lambda head: head.update(geometry=ODD.to_json())), "another geometry"),
        (policy_payload(lambda head: head.update(geometry=7)), "no packed policy"),
        (policy_payload(lambda head: head.update(geometry="[]")), "no packed policy"),
    ],
)
def test_a_policy_that_is_none_is_refused_and_nothing_loaded(board, payload, sentence):
    connection = admitted(board)
    before = board.bus._memory["weights"].copy()
    connection.sendall(REQUEST.pack(len(payload), LOAD, 1) + payload)
    outcome, text = reply(connection)
    assert outcome == messages.FAILED
    assert sentence in text.decode()
    np.testing.assert_array_equal(board.bus._memory["weights"], before)
    connection.sendall(REQUEST.pack(0, messages.STATE, 2))
    assert reply(connection)[0] == messages.OK
    connection.close()


def drip(connection):
    for _ in range(100):
        connection.sendall(b"\0")
        time.sleep(0.05)


def test_half_a_message_and_an_owner_that_vanishes_cost_nobody_else_anything():
    with serving(message_s=0.2, keep_s=0.2) as board:
        connection = admitted(board)
        connection.sendall(REQUEST.pack(100, messages.DECIDE, 1)[:4])
        assert reply(connection) is None  # cut off for dawdling
        drop = admitted(board)
        with pytest.raises(ConnectionError):  # a byte now and then does not keep it
            drip(drop)
        connection.close()
        time.sleep(0.3)
        assert client(board).geometry == TINY


def test_an_owner_that_reads_nothing_is_cut_off_and_a_flood_is_not_executed_ahead():
    with serving(message_s=0.3, keep_s=0.2) as board:
        board.power = [{"rail": 100_000 * "x"}]  # an answer that fills the buffers in between soon
        connection = admitted(board)
        flood = b"".join(REQUEST.pack(0, messages.POWER, 1 + n) for n in range(100_000))
        with contextlib.suppress(ConnectionError):
            connection.sendall(flood)
        while any("takes no message" in note for note in board.notes) is False:
            time.sleep(0.02)
        assert board.asked < 1000
        time.sleep(0.3)
        policy = random_policy(TINY, 1)
        remote = client(board)
        remote.load(policy)
        decides_as_golden(remote, policy, GoldenNetwork(policy), random_tokens(policy, 3, 0))


# Tokens and addresses


def test_no_token_no_service(tmp_path, monkeypatch):
    monkeypatch.delenv(messages.TOKEN_VARIABLE, raising=False)
    with pytest.raises(ProtocolError, match="a shared token is needed"):
        messages.read_token(None)
    monkeypatch.setenv(messages.TOKEN_VARIABLE, "short")
    with pytest.raises(ProtocolError, match="has 5 characters"):
        messages.read_token(None)
    monkeypatch.setenv(messages.TOKEN_VARIABLE, TOKEN.decode())
    assert messages.read_token(None) == TOKEN
    file = tmp_path / "token"
    with pytest.raises(ProtocolError, match="cannot be read"):
        messages.read_token(file)
    file.write_text(f"{TOKEN.decode()}\n")
    file.chmod(0o644)
    with pytest.raises(ProtocolError, match="chmod 600"):
        messages.read_token(file)
    file.chmod(0o600)
    assert messages.read_token(file) == TOKEN
    with pytest.raises(ProtocolError, match="at least 16"):
        BoardServer(None, b"", ("127.0.0.1", 0))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("pynq-z2.local", ("pynq-z2.local", messages.PORT)),
        ("10.0.0.2:99", ("10.0.0.2", 99)),
        ("[fe80::1]:99", ("fe80::1", 99)),
        ("fe80::1", ("fe80::1", messages.PORT)),
    ],
)
def test_addresses(text, address):
    assert messages.parse_address(text) == address


@pytest.mark.parametrize("text", ["", ":99", "board:", "board:http", "board:0", "board:70000", "[fe80::1]99"])
def test_what_is_no_address(text):
    with pytest.raises(ProtocolError, match="is no address"):
        messages.parse_address(text)


# The command


def test_the_server_needs_numpy_and_nothing_else(tmp_path):
    """With every other installed package out of reach: PYNQ-Z2's Python has hardly any."""
    program = (
        "import sys, importlib.abc\n"
        "class Only(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        top = name.split('.')[0]\n"
        "        if top not in {*sys.stdlib_module_names, 'numpy', 'host', 'hw', 'model'}:\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Only())\n"
        "import host.board_server, host.board.pynq_bus\n"
        "sys.exit(host.board_server.main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", program, "--listen", "127.0.0.1:1"]
    environment = {k: v for k, v in os.environ.items() if k != messages.TOKEN_VARIABLE}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("board_server: a shared token is needed")
    environment[messages.TOKEN_VARIABLE] = TOKEN.decode()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=60)
    assert done.stderr == (
        "board_server: this machine is no Zynq, so it has no circuit of its own; name the board with --board HOST, or "
        "use --device verilated\n"
    )
