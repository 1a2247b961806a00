# SPDX-License-Identifier: MIT
"""The Vivado flow, run in a Tcl interpreter with recording stand-ins for Vivado's commands (tests/toolchains/)."""

import functools
import hashlib
import json
import re
import subprocess

import pytest

from bitstreams import build
from bitstreams.hwh import MODULE
from hw.generate import TOP, verilog
from hw.synthesis import yosys
from model.deployed.presets import TINY
from tests.toolchains import standins


@functools.cache
def tiny(geometry):
    return verilog(geometry)


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "WORK", tmp_path / "work")
    monkeypatch.setattr(build, "verilog", tiny)  # one conversion for all
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path


def run(folder, *arguments, board="pynq-z2"):
    return build.main(["--board", board, "--geometry", "TINY", "--out", str(folder / "out"), *arguments])


def made(folder):
    return sorted(path.name for path in (folder / "out").rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("board", "clock", "base", "port", "divisors"),
    [
        ("pynq-z2", "125", "0x40000000", "M_AXI_GP0", [8, 1]),
        ("zcu104", "187.5", "0xA0000000", "M_AXI_HPM0_FPD", [8, 1]),
    ],
)
def test_a_build_ends_in_bitstream_handoff_file_and_manifest(work, capsys, board, clock, base, port, divisors):
    standins.vivado(work / "bin")
    assert run(work, "--clock", clock, "--json", str(work / "m.json"), board=board) == 0, capsys.readouterr().err
    folder = work / "work" / f"{board}-tiny-{clock}-vivado"
    assert json.loads((folder / "arguments.json").read_text())[:3] == ["-mode", "batch", "-nojournal"]

    # what was asked of Vivado
    calls = (folder / "calls.txt").read_text()
    names = [line.split()[0] for line in calls.splitlines()]
    order = ["create_project", "add_files", "create_bd_design", "assign_bd_address", "validate_bd_design"]
    order += ["generate_target", "make_wrapper", "open_run", "report_timing", "report_utilization"]
    assert [name for name in dict.fromkeys(names) if name in order] == order
    assert f"assign_bd_address -offset {base} -range 64K" in calls
    assert f"interface:ps/{port} interface:bus/S00_AXI" in calls
    assert float(calls.split("FREQMHZ {")[-1].split("}")[0]) == float(clock)

    # what came out
    manifest = json.loads((work / "m.json").read_text())
    digest = hashlib.sha256((folder / "spikeloop.bit").read_bytes()).hexdigest()
    assert made(work) == [f"tiny-{digest[:12]}.{end}" for end in ("bit", "bit.xz", "hwh", "json")]
    assert manifest == json.loads((work / "out" / board / f"tiny-{digest[:12]}.json").read_text())
    assert manifest["bit"] == {"file": f"tiny-{digest[:12]}.bit", "sha256": digest}
    hwh = (work / "out" / board / manifest["hwh"]["file"]).read_bytes()
    assert hashlib.sha256(hwh).hexdigest() == manifest["hwh"]["sha256"]
    assert manifest["geometry_digest"] == TINY.digest
    assert manifest["base"] == base.lower()
    assert (manifest["clock_mhz"], manifest["clock_divisors"]) == (float(clock), divisors)
    assert (manifest["tools"], manifest["seed"]) == ({"vivado": "2024.1"}, None)
    assert manifest["utilisation"]["dsp"] == {"used": 48, "available": 220}
    assert [path["end_unit"] for path in manifest["worst_paths"]] == ["bank", "lanes", "axi"]
    assert manifest["verified_on_board"] is False
    assert "not verified on a board" in capsys.readouterr().out


def test_without_board_files_the_build_goes_on(work):
    standins.vivado(work / "bin", fail="no board files")
    assert run(work) == 0


@pytest.mark.parametrize(
    ("fail", "says"),
    [
        ("synth_1", "synth_1 ended with: route_design ERROR"),
        ("impl_1", "impl_1 ended with: route_design ERROR"),
        ("wrong clock", "the processor makes 90.909 MHz, not 100"),
        ("no clock", "built without a timing constraint"),
        ("wrong period", "a period of 20.0 ns"),
        ("no handoff", "wrote no hardware handoff file"),
    ],
)
def test_a_failed_build_says_why_and_leaves_nothing(work, capsys, fail, says):
    standins.vivado(work / "bin", fail=fail)
    assert run(work) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "vivado failed with exit status 1" in error
    assert not (work / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("      0.412 ", "     -0.412 ", "reaches 96.04 MHz, setup slack -0.412 ns"),
        ("      0.021 ", "     -0.021 ", "hold slack -0.021 ns"),
        ("Design Timing Summary", "", "cannot be read: there is no Design Timing Summary"),
    ],
)
def test_a_build_that_misses_its_clock_leaves_nothing(work, capsys, old, new, says):
    reports = work / "reports"
    reports.mkdir()
    for path in (standins.HERE / "vivado-reports").iterdir():
        text = path.read_text()
        (reports / path.name).write_text(text.replace(old, new, 1))
    standins.vivado(work / "bin", reports)
    assert run(work) == 2
    assert says in capsys.readouterr().err
    assert not (work / "out").exists()


def test_stale_results_are_not_taken_for_new_ones(work, capsys):
    standins.vivado(work / "bin")
    assert run(work) == 0
    folder = work / "work" / "pynq-z2-tiny-100-vivado"
    standins.program(work / "bin", "vivado", ["if '-version' in sys.argv: print('vivado v2024.1')"])
    assert run(work) == 2
    assert "without an error and without spikeloop.bit" in capsys.readouterr().err
    assert not (folder / "spikeloop.bit").exists()


def test_without_vivado_one_sentence_says_what_to_do(work, capsys):
    assert run(work) == 2
    assert "no vivado on the PATH; source its settings64.sh" in capsys.readouterr().err.splitlines()[-1]
    assert run(work, "--scripts-only") == 0
    standins.vivado(work / "elsewhere")
    assert run(work, "--toolchain-root", str(work / "elsewhere")) == 0


def test_a_vivado_without_a_version_is_refused(work, capsys):
    standins.program(work / "bin", "vivado", ["print('hello')"])
    assert run(work) == 2
    assert "does not say its version; it answers: hello" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--clock", "120"], "the nearest are 100, 111.111, 125, 142.857"),
        (["--geometry", "HUGE"], "the presets are"),
    ],
)
def test_bad_input_is_one_sentence(work, capsys, arguments, says):
    assert run(work, *arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["--seed", "3"], ["--scripts-only", "--json", "x"]])
def test_options_that_would_do_nothing_are_refused(work, arguments):
    with pytest.raises(SystemExit) as stopped:
        run(work, *arguments)
    assert stopped.value.code == 2


def test_the_wrapper_fits_the_circuit(work):
    assert run(work, "--scripts-only") == 0
    folder = work / "work" / "pynq-z2-tiny-100-vivado"
    script = f"read_verilog {TOP}.v {MODULE}.v; hierarchy -check -top {MODULE}"
    done = subprocess.run([yosys(), "-q", "-p", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    circuit = (folder / f"{TOP}.v").read_text().split(f"module {TOP}(")[1].split(");")[0]
    connected = re.findall(r"^        \.(\w+)\(", (folder / f"{MODULE}.v").read_text(), re.MULTILINE)
    assert sorted(connected) == sorted(name.strip() for name in circuit.split(","))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("get_bd_pins bus/aclk]", "get_bd_pins bus/clk]", "no pin bus/clk"),
        ("validate_bd_design\n", "validate_bd_designs\n", "invalid command name"),
        ("get_bd_intf_pins bus/M00_AXI", "get_bd_intf_pins bus/M01_AXI", "no interface bus/M01_AXI"),
        (" [get_bd_pins spikeloop/s_axi_aclk]", "", "spikeloop/s_axi_aclk is not connected"),
        ("set_property -dict $ps_settings $ps\n", "", "ps/FCLK_CLK0 needs CONFIG.PCW_EN_CLK0_PORT 1"),
        ("-offset $base", "-offset 0x40008000", "no multiple of the range"),
        ("spikeloop.v spikeloop_axi.v]", "spikeloop.v]", "module spikeloop_axi is in no source file"),
        ("save_bd_design\n", "", "too early: saved comes first"),
        ("finish synth_1\n", "", "too early: synth_1 comes first"),
        ("open_run impl_1\n", "", "too early: opened comes first"),
        ("-to_step write_bitstream", "-to_step route_design", "no bitstream is asked for"),
        ("set_property top system_wrapper [current_fileset]\n", "", "the top is not the wrapper"),
    ],
)
def test_the_stand_ins_find_a_planted_defect(work, monkeypatch, capsys, old, new, says):
    text = build.vivado.SCRIPT.read_text()
    assert text.count(old) == 1
    planted = work / "planted.tcl"
    planted.write_text(text.replace(old, new))
    monkeypatch.setattr(build.vivado, "SCRIPT", planted)
    standins.vivado(work / "bin")
    assert run(work) == 2
    assert says in capsys.readouterr().err
