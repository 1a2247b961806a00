# SPDX-License-Identifier: MIT
"""32-bit words at byte addresses: all that the driver asks of a verilated model, a golden model or a board."""

import time
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]


class BusError(RuntimeError):
    """A transfer that failed; the message says which and what to do."""


class BusTimeout(BusError):
    """A poll that did not see its value in time."""

    def __init__(self, address: int, mask: int, value: int, last: int, timeout_s: float) -> None:
        super().__init__(
            f"the word at 0x{address:04x} stayed 0x{last:08x} for {timeout_s:g} s while "
            f"0x{value:08x} under mask 0x{mask:08x} was awaited"
        )


class Places(NamedTuple):
    """Where a decision's words go and come from."""

    input: int  # address of the token's first word
    start: int  # what is written there starts a decision of that number
    done: int  # shows the number once it ended; the answer begins here


class Bus(ABC):
    """Access to one circuit's register window. Addresses are byte offsets into it, multiples of four."""

    decision_timeout_s: ClassVar[float] = 30.0
    """Far more than a decision takes, on a circuit or on a simulation of one."""

    @abstractmethod
    def read32(self, address: int) -> int:
        """Return the word at `address`."""

    @abstractmethod
    def write32(self, address: int, word: int) -> None:
        """Store a word at `address`."""

    @abstractmethod
    def read_block(self, address: int, count: int) -> Words:
        """Return `count` successive words from `address` on, uint32 [count]."""

    @abstractmethod
    def write_block(self, address: int, words: Words) -> None:
        """Store successive words from `address` on."""

    def poll(self, address: int, mask: int, value: int, timeout_s: float) -> None:
        """Read until the word under `mask` equals `value`. Raises `BusTimeout` after `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        while (last := self.read32(address)) & mask != value:
            if time.monotonic() > deadline:
                raise BusTimeout(address, mask, value, last, timeout_s)

    def exchange(self, at: Places, words: Words, number: int, count: int) -> Words:
        """Run a whole decision: write its input, start it, await it, return `count` words from `at.done` on.

        Raises `BusTimeout` after `decision_timeout_s`.
        """
        self.write_block(at.input, words)
        self.write32(at.start, number)
        self.poll(at.done, 0xFFFF_FFFF, number, self.decision_timeout_s)
        return self.read_block(at.done, count)

    def close(self) -> None:  # noqa: B027 (most have nothing to let go of)
        """Let go of the circuit. A closed bus must not be used."""
