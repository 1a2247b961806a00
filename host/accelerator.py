# SPDX-License-Identifier: MIT
"""The driver: named registers, policy loading, decisions and counters. The same code on every bus."""

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from host.bus import Bus, BusTimeout, Places, Words
from host.dendrite_rows import unpack_state
from host.policy_image import PolicyImage, pack, unpack_rows
from hw.memory_map import Section, memory_map
from hw.registers import (
    INTERFACE_VERSION,
    MAGIC,
    PAGE_OFFSET,
    PAGE_WORDS,
    ROW_UNITS,
    UNITS,
    field_mask,
    offsets,
    register_table,
)
from model.deployed.geometry import Geometry
from model.deployed.presets import PRESETS

if TYPE_CHECKING:  # reading artifacts takes a package that a board server does not need
    from model.deployed.artifact import Policy

REPEATS = 0xFFFF_FFFF
"""Decisions that a circuit makes by itself after the first, where nobody stops it: hours."""

WATCHDOG_CYCLES = 1 << 20
"""A decision takes thousands of cycles; one of a million hangs."""

STUCK = ("START", "DONE", "CYCLES", "TOKENS", "WATCHDOG", "STALLS")
"""Registers that say where a circuit stands."""


class AcceleratorError(RuntimeError):
    """A circuit that is not the one expected, or did not do what it was told; the message says what to do."""


class Decision(NamedTuple):
    """One decision as the circuit reports it."""

    number: int  # its START number
    cycles: int  # START to DONE; 0 where the device has no cycles
    words: NDArray[np.int16]  # [actions]; over 2**15 an action in -1..1


@dataclass(frozen=True)
class Counters:
    """What the circuit counted in its last decision."""

    saturations: int
    stalls: int
    layer_rows: list[int]  # active weight rows per layer
    unit_cycles: dict[str, int]
    unit_rows: dict[str, int]

    @classmethod
    def of(cls, words: list[int]) -> "Counters":
        """Take apart what `Accelerator.counter_words` returned."""
        units, row_units = len(UNITS), len(ROW_UNITS)
        layers = len(words) - 2 - units - row_units
        return cls(
            words[0],
            words[1],
            words[2 : 2 + layers],
            dict(zip(UNITS, words[2 + layers : 2 + layers + units], strict=True)),
            dict(zip(ROW_UNITS, words[2 + layers + units :], strict=True)),
        )


class Driver(Protocol):
    """What flies episodes: an `Accelerator`, here or behind a network."""

    geometry: Geometry

    @property
    def clock_mhz(self) -> float | None:
        """The circuit's clock as measured; None where it has none."""

    def load(self, policy: "Policy") -> None:
        """Put a policy into the circuit and begin an episode."""

    def new_episode(self) -> None:
        """Forget the tokens seen so far."""

    def decide(self, token: NDArray[Any]) -> "Decision":
        """Advance by one quantised token [inputs]."""

    def decide_all(self, tokens: NDArray[Any]) -> "list[Record]":
        """Advance by quantised tokens [decisions, inputs], one after the other."""

    def repeat(self, token: NDArray[Any]) -> None:
        """Let the circuit decide on a quantised token [inputs] over and over by itself, and return at once."""

    def stop(self) -> None:
        """Stop whatever runs; the policy stays loaded, the episode is forgotten."""

    def signatures(self) -> list[int]:
        """Return the last decision's residual signatures."""

    def counters(self) -> Counters:
        """Return what was counted in the last decision."""

    def totals(self) -> tuple[int, int]:
        """Return decisions and busy cycles since the last reset."""

    def status(self) -> set[str]:
        """Return the names of the STATUS bits that are set."""

    def close(self) -> None:
        """Let go of the circuit."""


class Record(NamedTuple):
    """A decision with all that the circuit says of it."""

    decision: Decision
    signatures: list[int]
    counters: Counters


class Accelerator:
    """A circuit of a known geometry behind a bus.

    Raises `AcceleratorError` if the bus shows no such circuit.
    """

    clock_mhz: float | None = None

    def __init__(self, bus: Bus, geometry: Geometry) -> None:
        self.bus = bus
        self.geometry = geometry
        self._at = at = offsets(geometry)
        self._places = Places(at["INPUT"], at["START"], at["DONE"])
        self._counter_blocks = [
            (at["SATURATIONS"], 2),
            (at["LAYER_ROWS"], geometry.layers),
            (at[f"CYCLES_{UNITS[0]}"], len(UNITS)),
            (at[f"ROWS_{ROW_UNITS[0]}"], len(ROW_UNITS)),
        ]
        self._sections = memory_map(geometry)
        self._identify()
        self._inputs = 0
        self._actions = 0
        self._repeating = False
        self.soft_reset()
        self._number = bus.read32(self._at["START"])
        bus.write32(self._at["WATCHDOG"], WATCHDOG_CYCLES)
        bus.write32(self._at["REPEAT"], 0)

    def _identify(self) -> None:
        magic, version, identifier = (self.bus.read32(self._at[name]) for name in ("MAGIC", "VERSION", "GEOMETRY_ID"))
        if magic != MAGIC:
            raise AcceleratorError(
                f"no spikeloop circuit answers: MAGIC reads 0x{magic:08x}, not 0x{MAGIC:08x}; "
                "load its bitstream and check the address"
            )
        if version != INTERFACE_VERSION:
            raise AcceleratorError(
                f"the circuit's register table has version {version}, this driver needs {INTERFACE_VERSION}; "
                "use the driver or the bitstream of the same release"
            )
        if identifier != self.geometry.identifier:
            for name, preset in PRESETS.items():
                if preset.identifier == identifier:
                    raise AcceleratorError(
                        f"the circuit has geometry {name}, not the one asked for; they differ in "
                        f"{'; '.join(preset.differences(self.geometry))}; load the bitstream of that geometry"
                    )
            raise AcceleratorError(
                f"the circuit's geometry 0x{identifier:08x} is not the one asked for, "
                f"0x{self.geometry.identifier:08x}, nor a preset; load the bitstream of that geometry"
            )

    # Policy

    def load(self, policy: "Policy") -> None:
        """Write a policy into the circuit, read all of it back and begin an episode.

        Raises `ArtifactError` if it is no policy for this geometry (`Policy.on`), `AcceleratorError` if a memory does
        not hold what was written.
        """
        self.load_image(pack(policy.on(self.geometry)))

    def load_image(self, image: PolicyImage) -> None:
        """Write a packed policy of this geometry, read all of it back and begin an episode.

        Raises `AcceleratorError` if a memory does not hold what was written.
        """
        self._require_idle()
        self._inputs = self._actions = 0  # what is half loaded decides nothing
        self._clear_status()
        for name, words in image.sections.items():
            self._write_section(self._sections[name], words)
        for name, value in image.registers.items():
            self.bus.write32(self._at[name], value)
        for name, words in image.sections.items():
            section = self._sections[name]
            expected, found = _crc(words, section), _crc(self._read_section(section), section)
            if found != expected:
                raise AcceleratorError(
                    f"the circuit's {name} memory reads back with CRC 0x{found:08x} instead of 0x{expected:08x}; "
                    "load again, and if it persists check the clock and the bitstream"
                )
        for name, value in image.registers.items():
            if (found := self.bus.read32(self._at[name])) != value:
                raise AcceleratorError(f"register {name} reads {found} after {value} was written to it")
        if flags := self.status() - {"BUSY"}:
            raise AcceleratorError(f"the circuit reports {', '.join(sorted(flags))} after loading; reset it and retry")
        self._inputs, self._actions = image.registers["INPUT_COUNT"], image.registers["ACTION_COUNT"]
        self.new_episode()

    def _page_slices(self, section: Section) -> list[tuple[int, slice]]:
        """Return (page, words of the section it shows) for every page of a section."""
        total = section.rows * section.stride
        return [
            (section.page + page, slice(page * PAGE_WORDS, min(total, (page + 1) * PAGE_WORDS)))
            for page in range(section.pages)
        ]

    def _write_section(self, section: Section, words: Words) -> None:
        for page, part in self._page_slices(section):
            self.bus.write32(self._at["PAGE"], page)
            self.bus.write_block(PAGE_OFFSET, words[part])

    def _read_section(self, section: Section) -> Words:
        parts = []
        for page, part in self._page_slices(section):
            self.bus.write32(self._at["PAGE"], page)
            parts.append(self.bus.read_block(PAGE_OFFSET, part.stop - part.start))
        return np.concatenate(parts)

    # Decisions

    def new_episode(self) -> None:
        """Forget the tokens seen so far."""
        self._require_idle()
        self._control("NEW_EPISODE")

    def decide(self, token: NDArray[Any]) -> Decision:
        """Advance by one quantised token [inputs] and return the decision.

        Raises `AcceleratorError` if no policy is loaded, the token has another size, or no decision comes.
        """
        words = self._next(token)
        try:
            words = self.bus.exchange(self._places, words, self._number, 2 + (self._actions + 1) // 2)
        except BusTimeout as error:
            raise AcceleratorError(
                f"decision {self._number} did not end: {error}; {self._state()}; reset the circuit"
            ) from None
        number, cycles, *_ = words
        return Decision(int(number), int(cycles), words[2:].view("<i2")[: self._actions])

    def decide_all(self, tokens: NDArray[Any]) -> list[Record]:
        """Advance by quantised tokens [decisions, inputs], one after the other. Raises as `decide` does."""
        return [Record(self.decide(token), self.signatures(), self.counters()) for token in tokens]

    def _next(self, token: NDArray[Any]) -> Words:
        """Number the next decision and return its token as words."""
        self._require_idle()
        if len(token) != self._inputs:
            raise AcceleratorError(
                f"a token of {len(token)} components does not fit the loaded policy's {self._inputs}"
                if self._inputs
                else "no policy is loaded; call load() first"
            )
        octets = np.zeros(-(-self._inputs // 4) * 4, np.int8)
        octets[: self._inputs] = token
        # 0 is what DONE shows after a reset, so it numbers no decision
        self._number = self._number % 0xFFFF_FFFF + 1
        return octets.view("<u4")

    # Power

    def repeat(self, token: NDArray[Any]) -> None:
        """Let the circuit decide on a quantised token [inputs] over and over by itself, and return at once.

        Meanwhile there are totals, status and `stop`. A simulated circuit goes on only while it is looked at.
        Raises `AcceleratorError` as `decide` does.
        """
        words = self._next(token)
        self._repeating = True
        self.bus.write_block(self._at["INPUT"], words)
        self.bus.write32(self._at["REPEAT"], REPEATS)
        self.bus.write32(self._at["START"], self._number)

    def stop(self) -> None:
        """Stop whatever runs; the policy stays loaded, the episode is forgotten. Raises `AcceleratorError`."""
        self.soft_reset()
        if "BUSY" in self.status():
            raise AcceleratorError(f"the circuit runs on after a reset: {self._state()}; load its bitstream again")

    def _require_idle(self) -> None:
        if self._repeating:
            raise AcceleratorError("the circuit repeats a decision; stop() it first")

    # State

    def _state(self) -> str:
        """Return what the circuit shows, for the message about one that is stuck."""
        flags = ", ".join(sorted(self.status())) or "no flag"
        shown = ", ".join(f"{name} {self.bus.read32(self._at[name])}" for name in STUCK)
        return f"STATUS shows {flags}; {shown}"

    def status(self) -> set[str]:
        """Return the names of the STATUS bits that are set."""
        word = self.bus.read32(self._at["STATUS"])
        fields = next(register.fields for register in register_table(self.geometry) if register.name == "STATUS")
        return {name for name, bit, _ in fields if word >> bit & 1}

    def counters(self) -> Counters:
        """Return what was counted in the last decision."""
        return Counters.of(self.counter_words())

    def counter_words(self) -> list[int]:
        """Return the counters of the last decision as they lie in the register table."""
        return [word for at, count in self._counter_blocks for word in self.bus.read_block(at, count).tolist()]

    def totals(self) -> tuple[int, int]:
        """Return decisions and busy cycles since the last reset."""
        self._control("SNAPSHOT")
        decisions, low, high = self.bus.read_block(self._at["TOTAL_DECISIONS"], 3).tolist()
        return decisions, high << 32 | low

    def signatures(self) -> list[int]:
        """Return the last decision's residual signatures: after the embedding, then after each sub-block."""
        words: list[int] = self.bus.read_block(self._at["SIGNATURE"], self.geometry.signatures).tolist()
        return words

    def probe_residual(self) -> NDArray[np.int64]:
        """Return the residual membranes as they are now, int64 [steps, d_model]."""
        g, section = self.geometry, self._sections["residual"]
        fields = unpack_rows(self._read_section(section), g.membrane_bits, section, signed=True)
        return fields.reshape(g.d_model, g.steps).T

    def probe_ring(self) -> NDArray[np.bool_]:
        """Return the spikes that every slot of the rings keeps, bool [layers, window, kept, steps, d_model].

        PSSA keeps one word of a token, `k AND v`; SSSA and TSSA keep two, key and value. The n-th token of an episode,
        counted from 0, is in slot n modulo window.
        """
        g, section = self.geometry, self._sections["ring"]
        fields = unpack_rows(self._read_section(section), 1, section, signed=False)
        spikes = fields.reshape(g.layers, g.window, g.groups, -1, g.group, g.steps).transpose(0, 1, 3, 5, 2, 4)
        return spikes.reshape(*spikes.shape[:4], g.d_model).astype(np.bool_)

    def probe_state(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return what LRF-Dyn keeps, as the last token left it.

        Dendrites, int64 [layers, steps, d_model, dendrites]; value spikes of that token and those before, the newest
        first, bool [layers, reach, steps, d_model].
        """
        section = self._sections["state"]
        return unpack_state(self.geometry, unpack_rows(self._read_section(section), 1, section, signed=False))

    def peek(self, name: str, first: int, count: int) -> Words:
        """Return words of a section, `count` from the word `first` on; what pads a row reads as zero."""
        section, parts = self._sections[name], []
        while count > 0:
            page, at = divmod(first, PAGE_WORDS)
            here = min(count, PAGE_WORDS - at)
            self.bus.write32(self._at["PAGE"], section.page + page)
            parts.append(self.bus.read_block(PAGE_OFFSET + 4 * at, here))
            first, count = first + here, count - here
        return np.concatenate(parts)

    def soft_reset(self) -> None:
        """Stop whatever runs; the policy stays loaded, the episode is forgotten."""
        self._control("SOFT_RESET")
        if self._repeating:
            self.bus.write32(self._at["REPEAT"], 0)
            self._repeating = False

    def close(self) -> None:
        """Let go of the circuit."""
        self.bus.close()

    def _control(self, action: str) -> None:
        self.bus.write32(self._at["CONTROL"], field_mask(self.geometry, "CONTROL", action))

    def _clear_status(self) -> None:
        self.bus.write32(self._at["STATUS"], 0xFFFF_FFFF)


def _crc(words: Words, section: Section) -> int:
    """Return the CRC-32 of a section's words; what pads a row to its stride does not count."""
    rows = words.reshape(section.rows, section.stride)[:, : section.words]
    return zlib.crc32(np.ascontiguousarray(rows, "<u4").tobytes())
