# SPDX-License-Identifier: MIT
"""Files that look like a board's: its kernel's, and a published bitstream."""

from bitstreams.boards import BOARDS
from bitstreams.publish import Outcome, publish
from bitstreams.reports import Timing
from hw.registers import WINDOW_BYTES
from model.deployed.presets import TINY

ZYNQ = b"tul,pynq-z2\0xlnx,zynq-7000\0"
ZYNQMP = b"xlnx,zynqmp-zcu104-revC\0xlnx,zynqmp\0"
PAYLOAD = bytes.fromhex("ffffffff 000000bb 11220044 aa995566 20000000 01020304")


def system(root, compatible=ZYNQ, state="operating", **uio):
    """Make the files of a board's kernel; uio : name -> (called, address, size)."""
    (root / "proc/device-tree").mkdir(parents=True)
    (root / "proc/device-tree/compatible").write_bytes(compatible)
    (root / "sys/class/fpga_manager/fpga0").mkdir(parents=True)
    (root / "sys/class/fpga_manager/fpga0/state").write_text(state + "\n")
    (root / "dev").mkdir()
    (root / "dev/mem").write_bytes(b"")
    for name, (called, address, size) in uio.items():
        maps = root / "sys/class/uio" / name / "maps/map0"
        maps.mkdir(parents=True)
        (maps.parents[1] / "name").write_text(called + "\n")
        (maps / "addr").write_text(f"0x{address:08x}\n")
        (maps / "size").write_text(f"0x{size:08x}\n")
        (root / "dev" / name).write_bytes(bytes(WINDOW_BYTES))
    return root


def bit_file(payload=PAYLOAD):
    """Return a .bit file as the tools write it: fields of the header, then the configuration."""
    fields = ((b"a", b"e;top"), (b"b", b"7z020clg400"), (b"c", b"2026/11/22"), (b"d", b"01:02:03"))
    head = bytes.fromhex("00090ff00ff00ff00ff0000001")
    head += b"".join(key + (len(text) + 1).to_bytes(2, "big") + text + b"\0" for key, text in fields)
    return head + b"e" + len(payload).to_bytes(4, "big") + payload


def published(folder, board="pynq-z2", payload=PAYLOAD):
    """Publish a .bit file as a build does; return its path."""
    bit, handoff, out = folder / "made.bit", folder / "made.hwh", folder / "out"
    bit.write_bytes(bit_file(payload))
    handoff.write_text("<EDKSYSTEM/>")
    outcome = Outcome(bit, handoff, "vivado", {}, None, Timing(120.0, True, (), 0.1, 0.1), {})
    clock = BOARDS[board].clock(100)
    return publish(outcome, "TINY", BOARDS[board], clock, TINY, "module m; endmodule", out).with_suffix(".bit")
