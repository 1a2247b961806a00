# SPDX-License-Identifier: MIT
"""Power meters with one interface: a board's rails, a meter in the supply that this machine reads, and none."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

from host.board.power import Rail
from host.board.rails import MeterError, Rails, open_rails


class Reading(NamedTuple):
    """What a meter said of a rail."""

    rail: str
    mw: float
    volts: float | None = None
    amperes: float | None = None


class PowerMeter(ABC):
    """Something that measures power.

    source : what it is, for results; reason : why this one, for people. `measures` is false where there is nothing to
    read: no figure may be called measured then.
    """

    measures: ClassVar[bool] = True
    skipped = 0  # lines that held no reading

    def __init__(self, source: str, reason: str) -> None:
        self.source = source
        self.reason = reason

    @abstractmethod
    def read(self) -> list[Reading]:
        """Return what is new: a reading per rail, or all that arrived since the last call. Raises `MeterError`."""

    def close(self) -> None:  # noqa: B027 (most have nothing to let go of)
        """Let go of the meter."""


class RailsMeter(PowerMeter):
    """A board's own sensors: hwmon or pynq here, or what a board server reads."""

    def __init__(self, source: str, reason: str, read: Callable[[], list[Rail]]) -> None:
        super().__init__(source, reason)
        self._read = read

    def read(self) -> list[Reading]:
        """Return a reading of each rail that answers."""
        return [Reading(rail["rail"], rail["mw"], rail["v"], rail["a"]) for rail in self._read()]


class NoMeter(PowerMeter):
    """No meter: windows are run, and nothing is measured."""

    measures = False

    def read(self) -> list[Reading]:
        """Return nothing."""
        return []


def open_meter(choice: str, board: Rails | None, remote: bool = False) -> PowerMeter:
    """Open the meter that --meter names.

    board : the sensors of the device, where it brings its own; None takes those of this machine. remote : whether a
    server reads them. Raises `MeterError`.
    """
    kind, _, place = choice.partition(":")
    if kind in ("serial", "csv"):
        from host.power.external import open_csv, open_serial

        if not place:
            raise MeterError(f"--meter {kind}: needs a place, such as serial:/dev/ttyUSB0 or csv:power.csv")
        return open_serial(place) if kind == "serial" else open_csv(place)
    if choice not in ("auto", "hwmon", "pynq", "none"):
        raise MeterError(f"there is no meter {choice!r}; name hwmon, pynq, serial:DEVICE, csv:FILE, none or auto")
    if choice == "none":
        return NoMeter("none", "as --meter says")
    rails = board if board and (remote or choice == "auto") else open_rails(choice)
    if choice not in ("auto", rails.source):
        raise MeterError(
            f"the board server reads {rails.source}, not {choice}; start it with --meter {choice}, or leave --meter out"
        )
    if rails.source == "none":
        return NoMeter("none", rails.reason)
    return RailsMeter(rails.source, rails.reason, rails.read)
