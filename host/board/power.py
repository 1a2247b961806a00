# SPDX-License-Identifier: MIT
"""Power as the board's own sensors tell it (Linux hwmon). Not run on a board yet; a PYNQ-Z2 has no such sensor."""

from pathlib import Path
from typing import Any

SENSORS = ("ina226", "irps5401")
"""Drivers of power monitors on the ZCU104; sensors are found by name, for their numbers change from boot to boot."""


def read_power(root: Path = Path("/")) -> list[dict[str, Any]]:
    """Return a reading per rail: sensor, rail, volts, amperes and milliwatts; empty where there is no sensor.

    Power is computed from voltage and current: the power registers of these monitors are coarser.
    """
    rails = []
    for entry in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        name = _text(entry / "name")
        if name not in SENSORS:
            continue
        for current in sorted(entry.glob("curr*_input")):
            channel = current.name.removeprefix("curr").removesuffix("_input")
            # an INA226 measures its shunt as in0 and the rail as in1; the other numbers them alike
            voltage = _text(entry / f"in{channel}_input")
            milliamperes = _text(current)
            if not _is_number(voltage) or not _is_number(milliamperes):
                continue
            volts, amperes = int(voltage) / 1000, int(milliamperes) / 1000
            label = _text(entry / f"curr{channel}_label") or f"{entry.name}/{channel}"
            rails.append(
                {"sensor": name, "rail": label, "v": volts, "a": amperes, "mw": round(1000 * volts * amperes, 3)}
            )
    return rails


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()
