# SPDX-License-Identifier: MIT
"""Which of a board's own power sensors are read, and why. Not run on a board yet."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from host.board.power import Rail, read_power
from host.board.pynq_rails import pynq_rails, read_pynq
from host.bus import BusError

RAIL_SOURCES = ("auto", "hwmon", "pynq", "none")


class MeterError(BusError):
    """A power sensor that is not there, or gives no readings; the message says which and what to do."""


@dataclass(frozen=True)
class Rails:
    """A board's power sensors."""

    source: str  # "hwmon", "pynq" or "none"
    reason: str  # why these, for people
    read: Callable[[], list[Rail]]  # a reading of each rail that answers now


def open_rails(source: str, root: Path = Path("/")) -> Rails:
    """Return the sensors of this machine.

    source : one of `RAIL_SOURCES`; "auto" takes hwmon where it has a known sensor, else pynq where that has rails, else
    none. root : of the file system. Raises `MeterError` where the sensors asked for are not there.
    """
    if source == "none":
        return Rails("none", "as --meter says", list)
    if source in ("auto", "hwmon") and (found := read_power(root)):
        reason = "as --meter says" if source == "hwmon" else "the kernel shows sensors"
        return Rails("hwmon", f"{reason}: {_names([rail['rail'] for rail in found])}", partial(read_power, root))
    if source == "hwmon":
        raise MeterError(
            f"no power monitor in {root / 'sys/class/hwmon'} answers; a PYNQ-Z2 has none: put a meter in its supply "
            "and read it on the PC with --meter serial:DEVICE or csv:FILE"
        )
    rails, why = {}, "it has none"
    try:
        rails = pynq_rails()
    except Exception as error:  # pynq raises whatever its layers do
        why = " ".join(str(error).split())
    if rails:
        reason = "as --meter says" if source == "pynq" else "hwmon shows no known sensor, pynq does"
        return Rails("pynq", f"{reason}: {_names(list(rails))}", partial(read_pynq, rails))
    if source == "pynq":
        raise MeterError(f"pynq shows no power rails ({why}); use --meter hwmon, serial:DEVICE, csv:FILE or none")
    return Rails("none", "no power sensor is found here", list)


def _names(rails: list[str]) -> str:
    return ", ".join(rails)
