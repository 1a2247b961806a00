# SPDX-License-Identifier: MIT
"""Bitstreams: what the manifest beside one says of it, and loading one without pynq.

The manifest of `top.bit` is `top.json`, as `bitstreams.build` writes it. `top.bit.xz` is the same compressed.
"""

import hashlib
import json
import lzma
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from host.bus import BusError
from model.deployed.geometry import Geometry, GeometryError

SYNC_WORD = bytes.fromhex("aa995566")
"""Begins the configuration in a .bit file; the kernel looks for it with the bytes of each word reversed."""

CLOCK_TOLERANCE = 1.001
"""Boards' oscillators are good to some 50 ppm; a wrong divider is off by several per cent."""


class BitstreamError(BusError):
    """A bitstream that cannot be used or loaded; the message says why."""


@dataclass(frozen=True)
class Bitstream:
    """A .bit file and what its manifest says of it."""

    path: Path
    sha256: str
    geometry: Geometry
    base: int  # physical address of the window
    clock_mhz: float  # the fastest the circuit was signed off for

    @classmethod
    def read(cls, path: Path) -> "Bitstream":
        """Read a bitstream's manifest and compare the digests, that of the .hwh too if there is one.

        A compressed one, NAME.bit.xz, is expanded to NAME.bit beside it first: pynq and the kernel want it so. Raises
        `BitstreamError`.
        """
        path = _expanded(path)
        beside, handoff = path.with_suffix(".json"), path.with_suffix(".hwh")
        try:
            content, manifest = path.read_bytes(), json.loads(beside.read_text())
            described = hashlib.sha256(handoff.read_bytes()).hexdigest() if handoff.exists() else None
        except OSError as error:
            raise BitstreamError(
                f"{error.filename} cannot be read ({error.strerror}); copy the .bit and its .json"
            ) from None
        except ValueError:
            raise BitstreamError(f"{beside} is no manifest; copy it again") from None
        try:
            made = cls(
                path,
                hashlib.sha256(content).hexdigest(),
                Geometry.from_json(json.dumps(manifest["geometry"])),
                int(manifest["base"], 16),
                float(manifest["clock_mhz"]),
            )
            expected, expected_handoff = (str(manifest[kind]["sha256"]) for kind in ("bit", "hwh"))
        except KeyError as missing:
            raise BitstreamError(
                f"the manifest {beside} lacks {missing}; copy the one that came with the .bit"
            ) from None
        except (GeometryError, TypeError, ValueError) as error:
            raise BitstreamError(f"the manifest {beside} cannot be used: {error}; copy it again") from None
        if made.sha256 != expected:
            raise BitstreamError(
                f"{path} is not the file its manifest describes: SHA-256 {made.sha256[:16]}..., manifest "
                f"{expected[:16]}...; copy both again"
            )
        if described not in (None, expected_handoff):
            raise BitstreamError(f"{handoff} is not the one that {beside} names; copy .bit, .hwh and .json together")
        return made

    def check_clock(self, mhz: float) -> None:
        """Refuse a clock faster than the circuit was signed off for. Raises `BitstreamError`."""
        if mhz > self.clock_mhz * CLOCK_TOLERANCE:
            raise BitstreamError(
                f"the circuit's clock is {mhz:.2f} MHz, its bitstream is good for {self.clock_mhz:g} MHz; set it slower"
            )


def _expanded(path: Path) -> Path:
    if path.suffix == ".bit" and not path.exists():
        packed = path.with_name(f"{path.name}.xz")
        if not packed.exists():
            return path
    elif path.suffix == ".xz":
        packed, path = path, path.with_suffix("")
    else:
        return path
    try:
        content = lzma.decompress(packed.read_bytes())
        if not path.is_file() or path.read_bytes() != content:
            path.write_bytes(content)
    except OSError as error:
        raise BitstreamError(
            f"{error.filename} cannot be read or written ({error.strerror}); copy the bitstream to a folder of yours"
        ) from None
    except (lzma.LZMAError, EOFError):
        raise BitstreamError(f"{packed} is damaged; copy it again") from None
    return path


def kernel_image(content: bytes) -> bytes:
    """Return a .bit file as the kernel's FPGA manager takes it: no header, the bytes of each word reversed.

    Raises `BitstreamError`.
    """
    sync = content.find(SYNC_WORD)
    if sync < 0:
        raise BitstreamError("the bitstream holds no sync word; it is damaged, or no .bit of a Xilinx 7 or UltraScale+")
    # the header ends with the letter e and the length of what follows
    start = next((at + 5 for at in range(sync) if _length_fits(content, at)), None)
    if start is None:
        raise BitstreamError("the bitstream is cut off or has no header: its length is not the one it names")
    return np.frombuffer(content[start:], ">u4").astype("<u4").tobytes()


def _length_fits(content: bytes, at: int) -> bool:
    remaining = len(content) - at - 5
    return (
        content[at : at + 1] == b"e"
        and int.from_bytes(content[at + 1 : at + 5], "big") == remaining
        and remaining % 4 == 0
    )


def load_by_kernel(bitstream: Bitstream, root: Path = Path("/")) -> None:
    """Configure the programmable logic through the kernel's FPGA manager; needs root. Raises `BitstreamError`.

    The file in /lib/firmware carries the digest in its name: a stale one of the same name is never taken for it.
    """
    manager = root / "sys/class/fpga_manager/fpga0"
    name = f"spikeloop-{bitstream.sha256[:16]}.bin"
    image = kernel_image(bitstream.path.read_bytes())
    try:
        firmware = root / "lib/firmware"
        firmware.mkdir(parents=True, exist_ok=True)
        (firmware / name).write_bytes(image)
        (manager / "flags").write_text("0")
        (manager / "firmware").write_text(name)
    except OSError as error:
        raise BitstreamError(
            f"{error.filename} cannot be written ({error.strerror}); run as root, on a kernel whose FPGA manager takes "
            "firmware by name, or load the bitstream with --bus pynq"
        ) from None
    require_configured(root)


def require_configured(root: Path = Path("/")) -> None:
    """Refuse to touch logic that is not configured: an access there stops the whole system. Raises `BitstreamError`."""
    state = root / "sys/class/fpga_manager/fpga0/state"
    try:
        found = state.read_text().strip()
    except OSError as error:
        raise BitstreamError(
            f"{state} cannot be read ({error.strerror}), so nobody knows whether the logic is configured; an access to "
            "logic that is not would stop the board"
        ) from None
    if found != "operating":
        raise BitstreamError(
            f"the programmable logic is in state {found!r}, not 'operating'; load a bitstream first (--bitstream)"
        )
