# SPDX-License-Identifier: MIT
"""A circuit that repeats a decision by itself: on the simulated circuit, on the golden device, through a server."""

import contextlib
import time

import numpy as np
import pytest

from host.accelerator import REPEATS, Accelerator, AcceleratorError
from host.board import messages
from host.board.messages import REQUEST
from host.golden_device import GoldenBus
from host.verilated import VerilatedBus, library
from hw.registers import PAGE_OFFSET, field_mask, offsets
from model.deployed.golden import GoldenNetwork
from model.deployed.presets import TINY
from model.deployed.random_policy import random_policy, random_tokens
from tests.served import admitted, client, closing_what_is_left_open, decides_as_golden, reply, serving


@pytest.fixture
def board():
    with serving() as board, closing_what_is_left_open():
        yield board


@contextlib.contextmanager
def here(kind):
    bus = GoldenBus(TINY) if kind == "golden" else VerilatedBus(library(TINY))
    accelerator = Accelerator(bus, TINY)
    yield accelerator
    accelerator.close()


@pytest.mark.parametrize("kind", ["golden", "verilated"])
def test_decisions_go_on_until_they_are_stopped(kind):
    policy = random_policy(TINY, 1)
    token, *tokens = random_tokens(policy, 6, 0)
    with here(kind) as accelerator:
        accelerator.load(policy)
        accelerator.decide(token)
        accelerator.repeat(token)
        before, _ = accelerator.totals()
        for _ in range(400):
            assert accelerator.status() == {"BUSY"}
        after, cycles = accelerator.totals()
        assert after - before > 3
        assert (cycles > 0) == (kind == "verilated")
        for refused in (
            lambda: accelerator.decide(token),
            accelerator.new_episode,
            lambda: accelerator.load(policy),
            lambda: accelerator.repeat(token),
        ):
            with pytest.raises(AcceleratorError, match="repeats a decision"):
                refused()
        accelerator.stop()
        assert accelerator.status() == set()
        assert accelerator.totals() == (0, 0)
        assert accelerator.bus.read32(offsets(TINY)["REPEAT"]) == 0
        network = GoldenNetwork(policy)  # the episode is forgotten, the policy is there
        for token in tokens:
            np.testing.assert_array_equal(accelerator.decide(token).words, network.decide(token).action)
        assert accelerator.totals()[0] == len(tokens)


@pytest.mark.parametrize("kind", ["golden", "verilated"])
def test_the_window_keeps_its_rules_meanwhile(kind):
    """What registers.md says of a circuit that runs holds for the circuit and for its model."""
    policy, at = random_policy(TINY, 1), offsets(TINY)
    refused = field_mask(TINY, "STATUS", "REFUSED")
    with here(kind) as accelerator:
        accelerator.load(policy)
        bus = accelerator.bus
        bus.write32(at["PAGE"], 0)
        words = bus.read_block(PAGE_OFFSET, 4).tolist()
        assert any(words)
        accelerator.repeat(random_tokens(policy, 1, 0)[0])
        number = bus.read32(at["START"])
        for access in (
            lambda: bus.write32(at["START"], number + 1),
            lambda: bus.write32(at["INPUT_COUNT"], 1),
            lambda: bus.write32(at["CONTROL"], field_mask(TINY, "CONTROL", "NEW_EPISODE")),
            lambda: bus.read32(PAGE_OFFSET),
            lambda: bus.write32(PAGE_OFFSET, 0),
        ):
            bus.write32(at["STATUS"], 0xFFFF_FFFF)
            assert accelerator.status() == {"BUSY"}  # which cannot be cleared
            access()
            assert accelerator.status() == {"BUSY", "REFUSED"}
        bus.write32(at["STATUS"], refused)
        assert bus.read32(at["START"]) == number
        assert bus.read32(at["DONE"]) != number
        accelerator.stop()
        assert bus.read_block(PAGE_OFFSET, 4).tolist() == words
        assert bus.read32(at["INPUT_COUNT"]) == policy.input_size


def test_repeats_end_by_themselves_after_the_last():
    assert REPEATS == (1 << 32) - 1
    policy = random_policy(TINY, 1)
    token = random_tokens(policy, 1, 0)[0]
    with here("golden") as accelerator:
        accelerator.load(policy)
        accelerator.bus.write32(offsets(TINY)["REPEAT"], 4)
        network = GoldenNetwork(policy)
        for _ in range(5):
            trace = network.decide(token)
        np.testing.assert_array_equal(accelerator.decide(token).words, trace.action)
        assert accelerator.totals()[0] == 5
        assert accelerator.status() == set()


def test_a_circuit_that_runs_on_after_a_reset_is_reported(monkeypatch):
    policy = random_policy(TINY, 1)
    with here("golden") as accelerator:
        accelerator.load(policy)
        accelerator.repeat(random_tokens(policy, 1, 0)[0])
        monkeypatch.setattr(accelerator, "_control", lambda action: None)
        with pytest.raises(AcceleratorError, match=r"runs on after a reset: STATUS shows BUSY; START 1, DONE 0"):
            accelerator.stop()


# Through a server


def test_a_server_s_circuit_repeats_and_stops(board):
    policy = random_policy(TINY, 1)
    token, *tokens = random_tokens(policy, 5, 0)
    remote = client(board)
    remote.load(policy)
    remote.repeat(token)
    before, _ = remote.totals()
    assert "BUSY" in remote.status()
    assert remote.totals()[0] > before
    assert remote.power()[0]["rail"] == "12V"
    assert remote.temperature() == 41.5
    assert remote.clock_mhz is None
    for refused in (lambda: remote.decide(token), remote.new_episode, lambda: remote.repeat(token)):
        with pytest.raises(AcceleratorError, match="the board says: the circuit repeats a decision"):
            refused()
    remote.stop()
    assert remote.status() == set()
    decides_as_golden(remote, policy, GoldenNetwork(policy), tokens)
    with pytest.raises(AcceleratorError, match="components does not fit"):
        remote.repeat(token[:-1])


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        (b"", "0 bytes are no tokens"),
        (bytes(7), "7 bytes are no tokens of 15"),
        (bytes(30), "2 tokens came at once; 1 are allowed"),
    ],
)
def test_a_request_to_repeat_holds_one_token(board, payload, sentence):
    policy = random_policy(TINY, 1)
    client(board).load(policy)
    board.server._owner = None
    connection = admitted(board)
    connection.sendall(REQUEST.pack(len(payload), messages.REPEAT, 1) + payload)
    outcome, text = reply(connection)
    assert (outcome, text) == (messages.FAILED, b"no policy is loaded")
    board.server._service._inputs = policy.input_size
    connection.sendall(REQUEST.pack(len(payload), messages.REPEAT, 2) + payload)
    outcome, text = reply(connection)
    assert outcome == messages.FAILED
    assert sentence in text.decode()
    assert board.bus.starts == 0
    connection.close()


def test_kinds_end_with_stop(board):
    connection = admitted(board)
    connection.sendall(REQUEST.pack(0, messages.STOP, 1))
    assert reply(connection)[0] == messages.OK
    connection.sendall(REQUEST.pack(0, messages.STOP + 1, 2))
    assert reply(connection) == (messages.FAILED, b"there is no request of kind 9")
    connection.close()
    assert board.server._service.most_bytes(messages.STOP + 1) == 0
    assert board.server._service.most_bytes(messages.REPEAT) == messages.SMALL_BYTES


@pytest.mark.parametrize("way", ["end", "next owner"])
def test_nothing_runs_on_when_the_owner_goes(way):
    with closing_what_is_left_open(), serving(keep_s=0.2) as board:
        policy = random_policy(TINY, 1)
        remote = client(board)
        remote.load(policy)
        remote.repeat(random_tokens(policy, 1, 0)[0])
        if way == "end":
            remote.close()
            accelerator = board.server._service.accelerator
            assert accelerator.status() == set()
        else:
            remote._disconnect()
            time.sleep(0.3)
            second = client(board)
            assert second.status() == set()
            second.load(policy)
            decides_as_golden(second, policy, GoldenNetwork(policy), random_tokens(policy, 3, 0))
