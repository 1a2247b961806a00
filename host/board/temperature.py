# SPDX-License-Identifier: MIT
"""The die's temperature: XADC on a Zynq-7000, AMS on a ZynqMP, by Linux iio or hwmon. Not run on a board yet."""

from pathlib import Path

CONVERTERS = ("xadc", "ams", "xilinx-ams")
"""Names of the converter in iio."""


def read_temperature(root: Path = Path("/")) -> float | None:
    """Return the die's temperature in degrees Celsius, the hottest of several places; None where nothing tells.

    root : of the file system.
    """
    places = []
    for device in (root / "sys/bus/iio/devices").glob("iio:device*"):
        if _text(device / "name") in CONVERTERS:
            # milli degrees are (raw + offset) * scale
            for raw in device.glob("in_temp*_raw"):
                stem = raw.name.removesuffix("_raw")
                parts = [_number(raw), *(_number(device / f"{stem}_{part}") for part in ("offset", "scale"))]
                if None not in parts:
                    value, offset, scale = (part or 0.0 for part in parts)
                    places.append((value + offset) * scale / 1000)
    for device in (root / "sys/class/hwmon").glob("hwmon*"):
        if _text(device / "name") in (*CONVERTERS, "iio_hwmon"):
            found = [_number(path) for path in device.glob("temp*_input")]
            places += [value / 1000 for value in found if value is not None]
    return round(max(places), 2) if places else None


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
