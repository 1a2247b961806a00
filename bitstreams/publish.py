# SPDX-License-Identifier: MIT
"""A finished bitstream, its handoff file and its manifest, under a name that says what is in it."""

import dataclasses
import hashlib
import json
import lzma
import shutil
from dataclasses import dataclass
from pathlib import Path

from bitstreams.boards import Board, Clock
from bitstreams.reports import Timing
from bitstreams.tools import BuildError
from hw.generate import manifest
from hw.registers import WINDOW_BYTES
from model.deployed.geometry import Geometry

SYNC_WORD = bytes.fromhex("aa995566")
"""What the device waits for (UG470, UG570); it follows the header and padding."""

SYNC_WITHIN = 4096

DIGEST_DIGITS = 12

PACKED = ".xz"
"""Added to the name of a compressed .bit."""


@dataclass(frozen=True)
class Outcome:
    """What a toolchain made. seed is None where it has none, read_back where nobody read the bits of the .bit."""

    bit: Path
    handoff: Path
    toolchain: str
    tools: dict[str, str]
    seed: int | None
    timing: Timing
    utilisation: dict[str, dict[str, float]]
    read_back: int | None = None


def require_met(timing: Timing, clock: Clock) -> None:
    """Raise `BuildError` if the circuit does not reach its clock."""
    if not timing.met:
        hold = "" if timing.hold_slack_ns is None else f", hold slack {timing.hold_slack_ns:g} ns"
        worst = timing.paths[0]
        raise BuildError(
            f"timing is not met at {clock} MHz: the circuit reaches {timing.fmax_mhz:g} MHz, setup slack "
            f"{timing.setup_slack_ns:g} ns{hold}, worst path from {worst.start_unit} to {worst.end_unit}; "
            "take a slower clock, or another seed where the toolchain has one"
        )


def publish(outcome: Outcome, name: str, board: Board, clock: Clock, geometry: Geometry, text: str, out: Path) -> Path:
    """Copy bit and handoff file to OUT/BOARD under one stem and write the manifest beside them; return the manifest.

    name : of the geometry. text : the circuit's Verilog. The stem ends with a digest of the bitstream: PYNQ keeps
    bitstreams by their names. Beside the .bit lies the same as .bit.xz, a tenth of its size, which the repository can
    hold and the driver takes too. Raises `BuildError`.
    """
    content = outcome.bit.read_bytes()
    if SYNC_WORD not in content[:SYNC_WITHIN]:
        raise BuildError(f"{outcome.bit} is no bitstream: it has no sync word")
    digest = hashlib.sha256(content).hexdigest()
    folder = out / board.name
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{name.lower()}-{digest[:DIGEST_DIGITS]}"
    bit, handoff = folder / f"{stem}.bit", folder / f"{stem}.hwh"
    shutil.copyfile(outcome.bit, bit)
    packed = bit.with_name(f"{bit.name}{PACKED}")
    packed.write_bytes(lzma.compress(content, preset=9))
    shutil.copyfile(outcome.handoff, handoff)
    facts = {
        "board": board.name,
        "part": board.part,
        "name": name,
        **manifest(geometry, text),
        "base": f"0x{board.base:08x}",
        "window_bytes": WINDOW_BYTES,
        "clock_mhz": float(clock.mhz),
        "clock_divisors": [clock.divisor0, clock.divisor1],
        "toolchain": outcome.toolchain,
        "tools": outcome.tools,
        "seed": outcome.seed,
        "fmax_mhz": outcome.timing.fmax_mhz,
        "setup_slack_ns": outcome.timing.setup_slack_ns,
        "hold_slack_ns": outcome.timing.hold_slack_ns,
        "utilisation": outcome.utilisation,
        "worst_paths": [dataclasses.asdict(path) for path in outcome.timing.paths],
        "bit": {"file": bit.name, "sha256": digest},
        "packed": {"file": packed.name, "sha256": hashlib.sha256(packed.read_bytes()).hexdigest()},
        "hwh": {"file": handoff.name, "sha256": hashlib.sha256(handoff.read_bytes()).hexdigest()},
        "read_back_bits": outcome.read_back,
        "verified_on_board": False,
    }
    path = folder / f"{stem}.json"
    path.write_text(json.dumps(facts, indent=2) + "\n")
    return path
