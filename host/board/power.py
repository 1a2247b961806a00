# SPDX-License-Identifier: MIT
"""Power as the board's own sensors tell it: Linux hwmon. Not run on a board yet; a PYNQ-Z2 has no such sensor."""

from pathlib import Path
from typing import TypedDict

SENSORS = ("ina226", "irps5401")
"""Drivers of power monitors on the ZCU104; sensors are found by name, for their numbers change from boot to boot."""

BOARD = b"zcu104"
"""In the device tree's `compatible`."""

RAILS = {
    "ina226-0040": {1: "12V"},
    "irps5401-0043": {1: "INT", 2: "1V8", 3: "1V2", 5: "MGTA"},
    "irps5401-0044": {1: "3V3", 2: "1V13", 3: "5V0", 4: "FMC", 5: "MGTRA"},
}
"""What the outputs of a ZCU104's monitors feed, by driver, I2C address and output; 12V is the whole board."""


class Rail(TypedDict):
    """A reading of a rail."""

    sensor: str
    rail: str
    v: float
    a: float
    mw: float


def reading(sensor: str, rail: str, volts: float, amperes: float) -> Rail:
    """Return a reading. Power is voltage times current: the power registers of these monitors are coarser."""
    return {"sensor": sensor, "rail": rail, "v": volts, "a": amperes, "mw": round(1000 * volts * amperes, 3)}


def read_power(root: Path = Path("/")) -> list[Rail]:
    """Return a reading of every rail that answers now; empty where there is no sensor. root : of the file system."""
    known = BOARD in _octets(root / "proc/device-tree/compatible")
    rails = []
    for entry in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        sensor = _text(entry / "name")
        if sensor not in SENSORS:
            continue
        place = f"{sensor}-{_address(entry)}"
        names = RAILS.get(place, {}) if known else {}
        for output, (current, voltage) in sorted(_outputs(entry, sensor).items()):
            volts, amperes = _text(voltage), _text(current)
            if _is_number(volts) and _is_number(amperes):
                rails.append(
                    reading(sensor, names.get(output, f"{place}/{output}"), int(volts) / 1000, int(amperes) / 1000)
                )
    return rails


def _outputs(entry: Path, sensor: str) -> dict[int, tuple[Path, Path]]:
    """Return the files of current and voltage of each output, in milliamperes and millivolts."""
    if sensor == "ina226":  # in0 is its shunt, in1 the rail
        return {1: (entry / "curr1_input", entry / "in1_input")}
    # a PMBus device counts its inputs in as well, differently from kernel to kernel: only the labels tell
    found: dict[str, Path] = {}
    for label in entry.glob("*_label"):
        found[_text(label)] = label.with_name(label.name.replace("_label", "_input"))
    return {
        int(name.removeprefix("iout")): (path, found[voltage])
        for name, path in found.items()
        if name.startswith("iout") and (voltage := name.replace("iout", "vout")) in found
    }


def _address(entry: Path) -> str:
    """Return the I2C address as the kernel writes it: 0040."""
    return (entry / "device").resolve().name.rpartition("-")[2] if (entry / "device").exists() else entry.name


def _octets(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _text(path: Path) -> str:
    return _octets(path).decode(errors="replace").strip()


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()
