# SPDX-License-Identifier: MIT
"""Word accesses of the boards' buses, counted one by one: each is caught and answered by the simulated circuit."""

import ctypes
import mmap

import numpy as np
import pytest

from host.accelerator import Accelerator, AcceleratorError
from host.board.mapped import MappedBus, map_window, word_functions
from host.board.zynq import DevMemBus, UioBus
from host.bus import BusError, BusTimeout
from host.golden_device import GoldenBus
from host.verilated import library
from hw.registers import WINDOW_BYTES, offsets
from model.deployed.presets import TINY
from model.deployed.random_policy import random_policy, random_tokens
from tests.trapped_window import TrappedWindow, on_x86

AT = offsets(TINY)

both_paths = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "python"])


def functions(compiled):
    found = word_functions() if compiled else None
    assert (found is not None) == compiled
    return found


@pytest.fixture
def device(tmp_path):
    path = tmp_path / "uio0"
    path.write_bytes(bytes(WINDOW_BYTES))
    return path


@on_x86
@both_paths
@pytest.mark.parametrize("kind", [UioBus, DevMemBus])
def test_the_driver_on_a_mapped_circuit_decides_with_single_word_accesses(device, compiled, kind):
    policy = random_policy(TINY, 1, 7, 3)
    bus = UioBus(device, functions(compiled)) if kind is UioBus else DevMemBus(0, functions(compiled), device)
    golden = Accelerator(GoldenBus(TINY), TINY)
    golden.load(policy)
    with TrappedWindow(bus._window, library(TINY)) as window:
        accelerator = Accelerator(bus, TINY)
        accelerator.load(policy)
        events, odd = window.take()
        assert odd == 0
        assert {kind for kind, _ in events} == {"load", "store"}
        assert len(events) > 2000
        seen = set()
        for token in random_tokens(policy, 9, 0):
            found, expected = accelerator.decide(token), golden.decide(token)
            events, odd = window.take()
            assert odd == 0
            # three words of token, START, then DONE until it ends, then the answer: DONE, CYCLES and two ACTION words
            inputs, done = [("store", AT["INPUT"] + 4 * i) for i in range(3)], ("load", AT["DONE"])
            answer = [done, ("load", AT["CYCLES"]), ("load", AT["ACTION"]), ("load", AT["ACTION"] + 4)]
            polls = len(events) - 8
            assert events == [*inputs, ("store", AT["START"]), *polls * [done], *answer]
            assert polls >= 1
            np.testing.assert_array_equal(found.words, expected.words)
            assert found.cycles > 50
            assert accelerator.signatures() == golden.signatures()
            assert accelerator.counters().layer_rows == golden.counters().layer_rows
            seen.add(tuple(found.words))
            assert window.take()[1] == 0
        np.testing.assert_array_equal(accelerator.probe_ring(), golden.probe_ring())
        assert accelerator.status() == set()
        window.take()
    bus.close()
    assert len(seen) > 4


@on_x86
def test_what_python_must_not_do_is_seen(device):
    """The trap tells idioms apart that look alike: it would not miss a careless bus."""
    memory, _ = map_window(device, 0)
    bus = MappedBus(memory, None)
    array, scratch = np.frombuffer(memory, np.uint32), AT["SCRATCH"]
    words = (ctypes.c_uint32 * (WINDOW_BYTES // 4)).from_buffer(memory)
    inputs = slice(AT["INPUT"] // 4, AT["INPUT"] // 4 + 3)
    token = np.arange(3, dtype=np.uint32)

    def element():
        bus.write32(scratch, 5)

    def ctypes_element():
        words[scratch // 4] = 5

    def octets():
        memory[scratch : scratch + 4] = b"\5\0\0\0"

    def several_at_once():
        array[inputs] = token

    def read_and_write():
        array[scratch // 4] |= 1

    found = {}
    with TrappedWindow(bus._window, library(TINY)) as window:
        for act in (element, ctypes_element, octets, several_at_once, read_and_write):
            act()
            events, odd = window.take()
            found[act.__name__] = ([kind for kind, _ in events], odd)
    assert found["element"] == (["store"], 0)
    assert found["ctypes_element"][0] == ["load", "store"]
    assert found["octets"] != (["store"], 0)
    assert found["several_at_once"] != (3 * ["store"], 0)
    assert found["several_at_once"][1] > 0
    assert found["read_and_write"][0] == ["load", "store"]


# Ordinary memory: what the two paths do there is the same


@both_paths
def test_blocks_and_words(compiled):
    memory = mmap.mmap(-1, WINDOW_BYTES)
    bus = MappedBus(memory, functions(compiled), memory.close)
    words = np.random.default_rng(0).integers(0, 1 << 32, 37, dtype=np.uint32)
    bus.write_block(0x8004, words)
    np.testing.assert_array_equal(bus.read_block(0x8004, 37), words)
    assert memory[0x8004 : 0x8004 + 4 * 37] == words.tobytes()
    assert (bus.read32(0x8000), bus.read32(0x8004 + 4 * 37)) == (0, 0)
    bus.write32(0x8008, 0xFFFF_FFFE)
    assert bus.read32(0x8008) == 0xFFFF_FFFE
    bus.poll(0x8008, 0xFF, 0xFE, 0.0)
    with pytest.raises(BusTimeout, match=r"0x8008 stayed 0xfffffffe for 0\.01 s"):
        bus.poll(0x8008, 0xFF, 0xFF, 0.01)
    for address, count in ((2, 1), (-4, 1), (0xFFFC, 2)):
        with pytest.raises(BusError, match="register window"):
            bus.read_block(address, count)
        with pytest.raises(BusError, match="register window"):
            bus.write_block(address, words[:count])
    bus.close()
    bus.close()
    assert memory.closed
    with pytest.raises(BusError, match="closed"):
        bus.read32(0)


def test_a_window_of_another_size_is_refused():
    with pytest.raises(BusError, match="has 4096 bytes"):
        MappedBus(bytearray(4096), None)


@both_paths
def test_a_circuit_that_hangs_ends_in_a_dump(compiled, monkeypatch):
    """Memory that holds what is written and does nothing else: a circuit whose clock stands still."""
    memory = mmap.mmap(-1, WINDOW_BYTES)
    bus = MappedBus(memory, functions(compiled))
    monkeypatch.setattr(MappedBus, "decision_timeout_s", 0.02)
    for name, word in (("MAGIC", 0x5350_4B4C), ("VERSION", 1), ("GEOMETRY_ID", TINY.identifier), ("CYCLES", 77)):
        bus.write32(AT[name], word)
    accelerator = Accelerator(bus, TINY)
    accelerator._inputs, accelerator._actions = 11, 3
    bus.write32(AT["STATUS"], 1)
    stuck = (
        r"decision 1 did not end: the word at 0x0200 stayed 0x00000000 for 0\.02 s.*BUSY; START 1, DONE 0, CYCLES 77"
    )
    with pytest.raises(AcceleratorError, match=stuck):
        accelerator.decide(np.zeros(11, int))


def test_without_a_compiler_plain_python_does_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    notes = []
    assert word_functions(notes.append, tmp_path / "cache") is None
    assert "plain Python" in notes[0]
