# SPDX-License-Identifier: MIT
"""A meter in a board's supply, read by this machine: lines of text from a serial device, or from a file that grows.

A line is a reading, its columns parted by commas, semicolons, tabs or blanks. One column is watts, two are volts and
amperes. Other tables begin with a line of names: voltage, current, power (or v, a, w, volts, amperes, ...) with a unit
where it is another (`current_ma`, `Voltage (mV)`); columns of other names are ignored. Power is voltage times current
where there are both. Empty lines and those that begin with # do not count. A reading's time is that of its arrival.
"""

import math
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from host.board.rails import MeterError
from host.power.meters import PowerMeter, Reading

RAIL = "supply"
"""What results call the rail of an external meter."""

BAUD = 115200

BAD_LINES = 10
"""So many lines in a row without a reading are no noise but something else."""

LONGEST_LINE = 1000

WORDS = {
    **dict.fromkeys(("v", "volt", "volts", "voltage"), "v"),
    **dict.fromkeys(("a", "i", "amp", "amps", "ampere", "amperes", "current"), "a"),
    **dict.fromkeys(("w", "p", "watt", "watts", "power"), "w"),
}
FACTORS = {"": 1.0, "m": 1e-3, "u": 1e-6, "µ": 1e-6}

NAME = re.compile(r"(?:bus[ _]?)?([a-z]+)[ _(\[]*(?:([muµ]?)([vaw]))?[)\]]*")


Columns = dict[int, tuple[str, float]]
"""Column -> (v, a or w; factor to volts, amperes or watts)."""


def split_cells(line: str) -> list[str]:
    """Return the columns of a line."""
    return re.split(r"\s*[,;\t]\s*" if re.search(r"[,;\t]", line) else r"\s+", line.strip())


def parse_header(cells: list[str]) -> Columns | None:
    """Return the columns that a line of names tells; None where it names neither power nor both others."""
    found: Columns = {}
    for column, cell in enumerate(cells):
        text = cell.strip().strip('"').lower()
        if text in ("mv", "ma", "mw", "uv", "ua", "uw"):
            found[column] = (text[1], FACTORS[text[0]])
        elif (match := NAME.fullmatch(text)) and (quantity := WORDS.get(match[1])) and match[3] in (None, quantity):
            found[column] = (quantity, FACTORS[match[2] or ""])
    quantities = [quantity for quantity, _ in found.values()]
    whole = "w" in quantities or {"v", "a"} <= set(quantities)
    return found if whole and len(quantities) == len(set(quantities)) else None


class LineMeter(PowerMeter):
    """Readings from lines of text.

    fetch : returns the octets that came since the last call. close : lets go of what it reads. joined : whether the
    first line may be half of one, as where somebody listens in on a device that talks already. columns : what
    `parse_header` made of a line of names that was read before.
    """

    def __init__(
        self,
        source: str,
        reason: str,
        fetch: Callable[[], bytes],
        close: Callable[[], object],
        joined: bool,
        columns: Columns | None = None,
    ) -> None:
        super().__init__(source, reason)
        self._fetch = fetch
        self._close = close
        self._joined = joined
        self._columns = columns
        self._rest = b""
        self._bad = 0
        self.skipped = 0

    def read(self) -> list[Reading]:
        """Return the readings of the lines that arrived since the last call. Raises `MeterError`."""
        *lines, self._rest = (self._rest + self._fetch()).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            raise MeterError(f"{self.source} sends no line ends; is it the right device, and its speed {BAUD} baud?")
        readings = []
        for octets in lines:
            line = octets.decode(errors="replace").strip()
            joined, self._joined = self._joined, False
            if not line or line.startswith("#"):
                continue
            reading = self._parse(line, joined)
            if reading:
                readings.append(reading)
        return readings

    def _parse(self, line: str, joined: bool) -> Reading | None:
        cells = split_cells(line)
        if header := parse_header(cells):
            self._columns, self._bad = header, 0
            return None
        reading = None if joined else self._reading(cells)
        if reading is None and not joined:
            self.skipped += 1
            self._bad += 1
            if self._bad >= BAD_LINES:
                raise MeterError(
                    f"{self.source} gives no readings: {self._bad} lines in a row are like {line[:40]!r}; a line is "
                    "watts, volts and amperes, or a line of names such as voltage,current; is the speed right?"
                )
        elif reading:
            self._bad = 0
        return reading

    def _reading(self, cells: list[str]) -> Reading | None:
        columns = self._columns
        if columns is None:
            columns = {1: {0: ("w", 1.0)}, 2: {0: ("v", 1.0), 1: ("a", 1.0)}}.get(len(cells))
        if columns is None or max(columns) >= len(cells):
            return None
        try:
            values = {quantity: factor * float(cells[column]) for column, (quantity, factor) in columns.items()}
        except ValueError:
            return None
        if not all(map(math.isfinite, values.values())):
            return None
        volts, amperes = values.get("v"), values.get("a")
        watts = values["w"] if volts is None or amperes is None else volts * amperes
        return Reading(RAIL, 1000 * watts, volts, amperes)

    def close(self) -> None:
        """Let go of the device or file."""
        self._close()


def open_serial(place: str) -> LineMeter:
    """Open a meter on a serial device, DEVICE or DEVICE@BAUD. Raises `MeterError`."""
    try:
        import serial  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise MeterError("a serial meter needs the Python package pyserial: pip install 'pyserial>=3.5'") from None
    device, _, speed = place.partition("@")
    if speed and not speed.isdecimal():
        raise MeterError(f"{speed!r} is no speed; write serial:{device}@{BAUD}")
    try:
        port = serial.Serial(device, int(speed or BAUD), timeout=0)
    except (OSError, ValueError) as error:  # SerialException is an OSError
        raise MeterError(
            f"the meter at {device} cannot be opened ({error}); is it plugged in, and open to you?"
        ) from None

    def fetch() -> bytes:
        try:
            return bytes(port.read(port.in_waiting))
        except OSError as error:
            raise MeterError(f"the meter at {device} is gone ({error}); plug it in again and start anew") from None

    return LineMeter(f"serial:{place}", "as --meter says", fetch, port.close, True)


def open_csv(place: str) -> LineMeter:
    """Open a file that another program lets grow, or a named pipe. What a file holds already is past.

    The other program must write each line at once: a gap of seconds ends the measurement. Raises `MeterError`.
    """
    path = Path(place)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        head = b""
        if regular:
            with path.open("rb") as file:
                head = file.readline(LONGEST_LINE)
        size = os.lseek(descriptor, 0, os.SEEK_END) if regular else 0
        joined = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
    except OSError as error:
        raise MeterError(
            f"the meter's file {place} cannot be read ({error.strerror}); start its program first"
        ) from None

    def fetch() -> bytes:
        nonlocal size
        parts = []
        try:
            if regular and os.fstat(descriptor).st_size < size:
                raise MeterError(f"{place} became shorter; let its program append, and start anew")
            while part := os.read(descriptor, 1 << 16):
                parts.append(part)
                size += len(part)
        except BlockingIOError:  # a pipe with nothing more in it
            pass
        except OSError as error:
            raise MeterError(f"{place} cannot be read any more ({error.strerror})") from None
        return b"".join(parts)

    columns = parse_header(split_cells(head.decode(errors="replace")))
    return LineMeter(f"csv:{place}", "as --meter says", fetch, lambda: os.close(descriptor), joined, columns)
