# SPDX-License-Identifier: MIT
"""A circuit whose register window lies in this process's memory. Every access is one aligned 32-bit load or store.

That leaves out most of what Python offers: slices of numpy and of mmap copy several words or bytes at once, and a
ctypes array reads before it writes. Only words.c and single elements of a memoryview do as a register needs.
"""

import ctypes
import mmap
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from host.bus import Bus, BusError, BusTimeout, Places, Words
from hw.registers import WINDOW_BYTES
from model.compiled import call, compiled

SOURCE = Path(__file__).with_name("words.c")
CACHE = Path(__file__).resolve().parents[2] / "build" / "words"
COMPILER = ("cc", "-O2", "-std=c99", "-D_POSIX_C_SOURCE=200809L", "-shared", "-fPIC")
NOT_YET = 1
POLLS = 16
"""Loads between looks at the clock."""

EXCHANGED = 64
"""Words of a token or an answer: more than any geometry has."""


def word_functions(note: Callable[[str], None] = lambda line: None, cache: Path = CACHE) -> ctypes.CDLL | None:
    """Return the compiled functions, or None where they cannot be compiled; `note` is told then what it costs."""
    pointer, word, long = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
    try:
        # its version and target: a checkout may move to another board
        loaded = ctypes.CDLL(str(compiled(SOURCE, COMPILER, cache, call("cc", "-v"))))
    except (OSError, subprocess.CalledProcessError) as error:
        note(f"no compiled word access ({error}); decisions take tens of microseconds longer in plain Python")
        return None
    for name, result, arguments in (
        ("write", None, (pointer, word, pointer, word)),
        ("read", None, (pointer, word, pointer, word)),
        ("poll", ctypes.c_int32, (pointer, word, word, word, long, pointer)),
        ("exchange", ctypes.c_int32, (pointer, word, pointer, word, word, word, word, pointer, word, long)),
    ):
        function = getattr(loaded, f"words_{name}")
        function.restype, function.argtypes = result, arguments
    return loaded


class MappedBus(Bus):
    """The register window in mapped memory.

    memory : writable, `WINDOW_BYTES` long: a mmap, or a numpy array over one. The bus keeps it alive, `close` lets it
    go. functions : what `word_functions` returned; None for plain Python. release : called by `close` at the end.
    """

    decision_timeout_s = 1.0
    """A thousand times what a decision takes; the circuit's own WATCHDOG ends it after 2**20 cycles."""

    def __init__(
        self, memory: Any, functions: ctypes.CDLL | None, release: Callable[[], object] = lambda: None
    ) -> None:
        octets = memoryview(memory).cast("B")
        if len(octets) != WINDOW_BYTES:
            raise BusError(f"the mapped window has {len(octets)} bytes, the register window {WINDOW_BYTES}")
        self._words: Any = octets.cast("I")
        self._anchor: Any = ctypes.c_char.from_buffer(octets)
        self._window = ctypes.addressof(self._anchor)
        self._functions = functions
        self._release = release
        self._word = ctypes.c_uint32()
        self._word_at = ctypes.addressof(self._word)
        # of a decision, allocated once: asking numpy for an address takes longer than all the accesses
        self._token, self._answer = np.zeros(EXCHANGED, np.uint32), np.zeros(EXCHANGED, np.uint32)
        self._token_at, self._answer_at = self._token.ctypes.data, self._answer.ctypes.data

    def read32(self, address: int) -> int:
        """Return the word at `address`."""
        self._check(address, 1)
        return int(self._words[address >> 2])

    def write32(self, address: int, word: int) -> None:
        """Store a word at `address`."""
        self._check(address, 1)
        self._words[address >> 2] = int(word)

    def read_block(self, address: int, count: int) -> Words:
        """Return `count` successive words, uint32 [count]."""
        self._check(address, count)
        words = np.empty(count, np.uint32)
        if self._functions:
            self._functions.words_read(self._window, address, words.ctypes.data, count)
        else:
            first = address >> 2
            words[:] = [self._words[at] for at in range(first, first + count)]
        return words

    def write_block(self, address: int, words: Words) -> None:
        """Store successive words."""
        self._check(address, len(words))
        words = np.ascontiguousarray(words, np.uint32)
        if self._functions:
            self._functions.words_write(self._window, address, words.ctypes.data, len(words))
        else:
            for at, word in enumerate(words.tolist(), address >> 2):
                self._words[at] = word

    def poll(self, address: int, mask: int, value: int, timeout_s: float) -> None:
        """Read until the word under `mask` equals `value`. Raises `BusTimeout`."""
        self._check(address, 1)
        if self._functions:
            timeout_ns, at = int(timeout_s * 1e9), self._word_at
            if self._functions.words_poll(self._window, address, mask, value, timeout_ns, at) == NOT_YET:
                raise BusTimeout(address, mask, value, self._word.value, timeout_s)
            return
        deadline, index = time.monotonic() + timeout_s, address >> 2
        while True:
            for _ in range(POLLS):
                if (last := self._words[index]) & mask == value:
                    return
            if time.monotonic() > deadline:
                raise BusTimeout(address, mask, value, last, timeout_s)

    def exchange(self, at: Places, words: Words, number: int, count: int) -> Words:
        """Run a whole decision, in one call where the functions are compiled."""
        size = len(words)
        if not self._functions or max(size, count) > EXCHANGED:
            return super().exchange(at, words, number, count)
        self._check(at.input, size)
        self._check(at.start, 1)
        self._check(at.done, count)
        self._token[:size] = words
        outcome = self._functions.words_exchange(
            *(self._window, at.input, self._token_at, size, at.start, number, at.done),
            *(self._answer_at, count, int(self.decision_timeout_s * 1e9)),
        )
        if outcome == NOT_YET:
            raise BusTimeout(at.done, 0xFFFF_FFFF, number, int(self._answer[0]), self.decision_timeout_s)
        return self._answer[:count].copy()

    def close(self) -> None:
        """Let go of the memory."""
        if self._words is not None:
            self._words = self._anchor = None
            self._window = 0
            self._functions = None
            self._release()

    def _check(self, address: int, count: int) -> None:
        if self._words is None:
            raise BusError("the bus was closed")
        if address % 4 or address < 0 or count < 0 or address + 4 * count > WINDOW_BYTES:
            raise BusError(f"{count} words at 0x{address:x} do not lie in the register window of {WINDOW_BYTES} bytes")


def map_window(path: Path, offset: int, size: int = WINDOW_BYTES) -> tuple[Any, Callable[[], None]]:
    """Map the registers that a device file shows at `offset`; return the memory and what unmaps it.

    Raises `BusError`.
    """
    try:
        # O_SYNC: /dev/mem then maps without caches
        descriptor = os.open(path, os.O_RDWR | os.O_SYNC)
    except PermissionError:
        raise BusError(f"{path} may not be opened; run as root, or let a udev rule open it to you") from None
    except OSError as error:
        raise BusError(
            f"{path} cannot be opened ({error.strerror}); is this a board with its kernel modules?"
        ) from None
    try:
        memory = mmap.mmap(descriptor, size, offset=offset)
    except (OSError, ValueError, OverflowError) as error:
        raise BusError(f"{path} cannot be mapped at 0x{offset:x} ({error}); look at the address") from None
    finally:
        os.close(descriptor)
    return memory, memory.close
