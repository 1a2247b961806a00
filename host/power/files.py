# SPDX-License-Identifier: MIT
"""What a measurement leaves behind: a line per reading while it runs, and the result when it ends."""

import csv
import json
from pathlib import Path
from typing import Any

from host.power.meters import Reading
from host.power.windows import Place
from model import files

COLUMNS = ("t_s", "round", "window", "state", "settled", "rail", "mw", "volts", "amperes")


class PowerFileError(RuntimeError):
    """A file that holds no power result, or that of something else; the message says which."""


class ReadingTable:
    """The .csv, written line by line so that whatever ends the measurement loses nothing. Raises `WriteError`."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("w", newline="", buffering=1)
        except OSError as error:
            raise files.refusal(path, error) from None
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(COLUMNS)

    def add(self, place: Place, reading: Reading) -> None:
        """Add a reading."""
        head = [f"{place.t_s:.4f}", place.round, place.window, place.state, int(place.settled), reading.rail]
        values = (reading.volts, reading.amperes)
        self._writer.writerow([*head, f"{reading.mw:.3f}", *("" if value is None else value for value in values)])

    def close(self) -> None:
        """Complete the file."""
        self._file.close()


def read_power_result(path: Path, policy_digest: str) -> dict[str, Any]:
    """Read what `python -m host.power --json` wrote. Raises `PowerFileError`, also where it is of another policy."""
    try:
        result = json.loads(path.read_text())
        rails, digest = dict(result["rails"]), str(result["policy_digest"])
        if bool(rails) > bool(result["measured"]) or not isinstance(result["windows"], list):
            raise ValueError
    except OSError as error:
        raise PowerFileError(f"the power result {path} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise PowerFileError(f"{path} is no power result; make one with python -m host.power --json FILE") from None
    if digest != policy_digest:
        raise PowerFileError(
            f"the power result {path} is of policy {digest[:16]}, this one is {policy_digest[:16]}; measure it anew"
        )
    return dict(result)


def in_short(result: dict[str, Any]) -> dict[str, Any]:
    """Return what an episode's summary keeps of a power result."""
    energies = ("total_uj", "incremental_uj")
    return {
        **{name: result[name] for name in ("measured", "meter", "device", "board", "complete")},
        "decisions_per_s": result["decisions_per_s"] and result["decisions_per_s"]["mean"],
        "rails": {
            rail: {name: {part: figures[name][part] for part in ("mean", "ci95")} for name in energies}
            for rail, figures in result["rails"].items()
        },
    }
