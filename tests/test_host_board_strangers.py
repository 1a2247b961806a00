# SPDX-License-Identifier: MIT
"""The board server over real sockets: what strangers and owners that talk nonsense get."""

import contextlib
import os
import struct
import threading
import time

import numpy as np
import pytest

from host.board import messages
from host.board.messages import GREETING, LOAD, REPLY, REQUEST, ProtocolError, mac
from host.board.payloads import encode_image
from host.board.server import MOST_CONNECTIONS
from host.policy_image import pack
from model.deployed.golden import GoldenNetwork
from model.deployed.presets import ODD, TINY
from model.deployed.random_policy import random_policy, random_tokens
from tests.served import (
    TOKEN,
    Opened,
    admitted,
    client,
    closing_what_is_left_open,
    connect,
    decides_as_golden,
    greeted,
    listen,
    reply,
    serving,
)


@pytest.fixture
def board():
    with serving() as board:
        yield board


@pytest.fixture(autouse=True)
def _opened():
    with closing_what_is_left_open():
        yield


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
