# SPDX-License-Identifier: MIT
"""Programs that stand in for those of the toolchains: they record how they are called and hand out written examples.

They show that the flow calls what is documented, in order, and judges what comes back. They place and route nothing.
"""

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

VIVADO = HERE / "vivado.tcl"

TCL = "import sys, tkinter; tkinter.Tcl().evalfile(sys.argv[1])"


def tcl_command() -> list[str]:
    """Return a Tcl interpreter's command: tclsh, or the one inside Python's tkinter."""
    found = shutil.which("tclsh")
    return [found] if found else [sys.executable, "-c", TCL]


def program(folder: Path, name: str, lines: list[str]) -> Path:
    """Write an executable Python program."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("\n".join([f"#!{sys.executable}", "import json, os, pathlib, subprocess, sys", *lines, ""]))
    path.chmod(0o755)
    return path


def vivado(folder: Path, reports: Path = HERE / "vivado-reports", fail: str = "") -> Path:
    """Write a vivado that runs its script with the stand-in commands; return its folder.

    fail : what is to go wrong, by the names in vivado.tcl.
    """
    lines = [
        "if sys.argv[1:] == ['-version']:",
        "    sys.exit(print('vivado v2024.1 (64-bit)\\nTool Version Limit: 2024.05'))",
        "pathlib.Path('arguments.json').write_text(json.dumps(sys.argv[1:]))",
        "script = sys.argv[sys.argv.index('-source') + 1]",
        f"standin = {{'STANDIN_REPORTS': {str(reports)!r}, 'STANDIN_FAIL': {fail!r}, 'STANDIN_SCRIPT': script}}",
        f"run = subprocess.run([*{tcl_command()!r}, {str(VIVADO)!r}], env=os.environ | standin)",
        "sys.exit(run.returncode)",
    ]
    program(folder, "vivado", lines)
    return folder


def openxc7(
    root: Path,
    part: str,
    log: Path = HERE / "openxc7" / "nextpnr.log",
    fail: str = "",
    bits: tuple[str, ...] = ("000_00", "000_02", "001_31"),
) -> Path:
    """Write a toolchain's root with programs and data; return it.

    fail : the program that is to fail. bits : what is read back, by word and bit.
    """
    device = part.rpartition("-")[0]
    for data in (root / "prjxray-db" / "zynq7" / part / "part.yaml", root / "chipdb" / f"{device}.bin"):
        data.parent.mkdir(parents=True, exist_ok=True)
        data.write_text("an example, not the data\n")
    record = [
        "me, given = pathlib.Path(sys.argv[0]).name, sys.argv[1:]",
        "if given == ['--version']:",
        "    print('nextpnr-xilinx -- Next Generation Place and Route (Version 0.8.2-1-gabc)', file=sys.stderr)",
        "    sys.exit()",
        "with open('calls.jsonl', 'a') as calls: calls.write(json.dumps([me, *given]) + '\\n')",
        f"if me == {fail!r}: sys.exit(print('ERROR: no such wire', file=sys.stderr) or 1)",
        "def after(option): return pathlib.Path(given[given.index(option) + 1])",
        "def there(*paths):",
        "    for path in paths: assert path.is_file(), path",
    ]
    nextpnr = [
        "there(after('--chipdb'), after('--xdc'), after('--json'))",
        "assert json.loads(after('--json').read_text())['modules']",
        f"print(open({str(log)!r}).read(), file=sys.stderr)",
        "after('--fasm').write_text('CLBLL_L_X2Y1.SLICEL_X0.AFF.ZINI\\n')",
        f"sys.exit('FAIL at' in open({str(log)!r}).read().splitlines()[-2])",
    ]
    frames = [
        f"there(after('--db-root') / {part!r} / 'part.yaml', pathlib.Path(given[-1]))",
        "print('0x00400000 0x00000005,0x80000000')",
    ]
    bit = [
        "there(after('--part_file'), after('--frm_file'))",
        "assert after('--frm_file').stat().st_size",
        "after('--output_file').write_bytes(b'header' + bytes.fromhex('ffffffffaa995566') + b'not a bitstream')",
    ]
    read = [
        "there(after('-part_file'), pathlib.Path(given[-1]))",
        f"after('-o').write_text(''.join(f'bit_00400000_{{place}}\\n' for place in {bits!r}))",
    ]
    programs = {"nextpnr-xilinx": nextpnr, "fasm2frames": frames, "xc7frames2bit": bit, "bitread": read}
    for name, lines in programs.items():
        program(root / "bin", name, record + lines)
    return root
