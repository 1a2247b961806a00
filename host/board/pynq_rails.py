# SPDX-License-Identifier: MIT
"""Power as pynq tells it, through libsensors. Not run on a board yet.

pynq drops libsensors' errors: a sensor that fails shows its last value for ever. Where there is hwmon, it is better.
"""

import importlib
from typing import Any

from host.board.power import Rail, reading


def pynq_rails() -> dict[str, Any]:
    """Return pynq's rails that have both voltage and current, by name; empty where there is no sensor.

    Raises `ImportError` where there is no pynq, and whatever else its layers raise.
    """
    rails: dict[str, Any] = importlib.import_module("pynq").get_rails()
    return {name: rail for name, rail in rails.items() if rail.voltage is not None and rail.current is not None}


def read_pynq(rails: dict[str, Any]) -> list[Rail]:
    """Return a reading of each of these rails."""
    return [reading("pynq", name, float(rail.voltage.value), float(rail.current.value)) for name, rail in rails.items()]
