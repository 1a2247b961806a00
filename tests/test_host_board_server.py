# SPDX-License-Identifier: MIT
"""The board server over real sockets: what clients and broken connections get."""

import contextlib
import dataclasses
import socket
import threading
import time

import numpy as np
import pytest

from host.accelerator import Accelerator, AcceleratorError
from host.board import remote as remote_module
from host.board import service as service_module
from host.board.messages import REQUEST, ProtocolError
from host.golden_device import GoldenBus
from model.deployed.artifact import ArtifactError
from model.deployed.golden import GoldenNetwork
from model.deployed.presets import ODD, TINY
from model.deployed.random_policy import random_policy, random_tokens
from tests.served import (
    Board,
    client,
    closing_what_is_left_open,
    decides_as_golden,
    listen,
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


def test_a_server_s_circuit_takes_policies_of_its_network(board):
    policy = random_policy(dataclasses.replace(TINY, rows_per_cycle=4, group=4), 1)
    remote = client(board)
    remote.load(policy)
    decides_as_golden(remote, policy.on(TINY), GoldenNetwork(policy.on(TINY)), random_tokens(policy, 5, 0))


def test_what_the_device_refuses_arrives_as_a_sentence(board):
    remote = client(board)
    with pytest.raises(AcceleratorError, match="no policy is loaded"):
        remote.decide(np.zeros(11, int))
    with pytest.raises(ArtifactError, match=r"another geometry than the circuit.*d_model"):
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
