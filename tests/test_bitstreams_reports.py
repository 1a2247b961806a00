# SPDX-License-Identifier: MIT
"""Reports of the toolchains, read from examples that were written by hand after the documented formats."""

import json
from pathlib import Path

import pytest

from bitstreams import report
from bitstreams.reports import (
    ReportError,
    fasm_utilisation,
    nextpnr_timing,
    nextpnr_utilisation,
    register_names,
    unit,
    vivado_timing,
    vivado_utilisation,
)
from model.deployed.presets import TINY

EXAMPLES = Path(__file__).resolve().parent / "toolchains"


def example(name):
    return (EXAMPLES / name).read_text()


def vivado(summary=lambda text: text, paths=lambda text: text):
    texts = (example(f"vivado-reports/timing_{name}.rpt") for name in ("summary", "paths"))
    return vivado_timing(*(change(text) for change, text in zip((summary, paths), texts, strict=True)), 10.0)


def test_vivado_timing():
    timing = vivado()
    assert (timing.met, timing.setup_slack_ns, timing.hold_slack_ns) == (True, 0.412, 0.021)
    assert timing.fmax_mhz == pytest.approx(1000 / 9.588, abs=0.01)
    # worst first
    assert [path.slack_ns for path in timing.paths] == [0.412, 0.977, 1.25]
    assert [path.delay_ns for path in timing.paths] == [9.101, 8.873, 8.5]
    assert [(path.start_unit, path.end_unit) for path in timing.paths] == [
        *(("other", "bank"), ("walker", "lanes"), ("other", "axi")),
    ]
    assert timing.paths[1].end.endswith("lanes/sum_reg[511]/D")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.412        0.000                      0", "-0.412       -1.500                     12"),
        ("0.021        0.000                      0", "-0.021       -0.100                      3"),
        ("3.750        0.000                       0", "3.750        0.000                       1"),
    ],
    ids=["setup", "hold", "pulse-width"],
)
def test_a_violation_of_any_kind_is_not_met(old, new):
    assert old in example("vivado-reports/timing_summary.rpt")
    assert not vivado(lambda text: text.replace(old, new)).met


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"summary": lambda text: text.replace("Design Timing Summary", "")}, "no Design Timing Summary"),
        ({"summary": lambda text: text.replace("0.412  ", "NA     ")}, "no clock constraint"),
        ({"paths": lambda text: text.replace("Slack (", "Slick (")}, "no path"),
        ({"paths": lambda text: text.replace("Destination:", "To:")}, "no destination"),
        ({"paths": lambda text: text.replace("Data Path Delay:", "Delay:")}, "no delay of a path"),
    ],
)
def test_a_report_that_cannot_be_read_is_refused(change, says):
    with pytest.raises(ReportError, match=says):
        vivado(**change)


def test_vivado_utilisation():
    text = example("vivado-reports/utilization.rpt")
    used = {
        **{"lut": {"used": 31022, "available": 53200}, "ff": {"used": 24871, "available": 106400}},
        **{"bram36": {"used": 93.5, "available": 140}, "dsp": {"used": 48, "available": 220}},
    }
    assert vivado_utilisation(text) == used
    # UltraScale+ devices have other names and a kind of memory more; older versions a column less
    newer = text.replace("Slice ", "CLB ") + "| URAM | 15 | 0 | 0 | 96 | 15.63 |\n"
    assert vivado_utilisation(newer) == used | {"uram": {"used": 15, "available": 96}}
    with pytest.raises(ReportError, match="no dsp"):
        vivado_utilisation(text.replace("| DSPs ", "| D "))
    with pytest.raises(ReportError, match="no table"):
        vivado_utilisation("")


def test_nextpnr_timing():
    log = example("openxc7/nextpnr.log")
    timing = nextpnr_timing(log, 100)
    # the clock after routing, not the one after placing
    assert (timing.fmax_mhz, timing.met, timing.hold_slack_ns) == (119.05, True, None)
    assert timing.setup_slack_ns == pytest.approx(10 - 1000 / 119.05, abs=0.001)
    assert [(path.start_unit, path.end_unit, path.delay_ns) for path in timing.paths] == [
        *(("walker", "lanes", 8.4), ("other", "other", 3.9)),
    ]
    assert timing.paths[1].end == "adapter.state_LUT4_I1.A2"
    assert not nextpnr_timing(log, 125).met
    assert not nextpnr_timing(log.replace("119.05 MHz (PASS", "99.05 MHz (FAIL"), 100).met
    slower = "Info: Max frequency for clock 'slow': 50.00 MHz (FAIL at 100.00 MHz)\n"
    assert nextpnr_timing(log + slower, 100).fmax_mhz == 50
    for old, says in (("Max frequency", "Max frequency for clock"), ("Source", "no critical path")):
        with pytest.raises(ReportError, match=says):
            nextpnr_timing(log.replace(old, "?"), 100)


def test_registers_that_yosys_numbered_are_named_by_what_they_hold():
    netlist = {
        "netnames": {
            "$0": {"bits": [7]},
            "top.accelerator.core.lanes.shadow": {"bits": ["0", 7]},
            "top.accelerator.core.walker.row": {"bits": [9]},
        },
        "cells": {
            "$auto$ff.cc:337:slice$1": {"type": "FDRE", "connections": {"Q": [7]}},
            "$auto$ff.cc:337:slice$2": {"type": "FDSE", "connections": {"Q": [9]}},
            "$abc$1": {"type": "LUT2", "connections": {"O": [3]}},
        },
    }
    names = register_names(json.dumps({"modules": {"spikeloop_ps7": netlist}}))
    assert names == {
        "$auto$ff.cc:337:slice$1": "top.accelerator.core.lanes.shadow[1]",
        "$auto$ff.cc:337:slice$2": "top.accelerator.core.walker.row",
    }
    log = example("openxc7/nextpnr.log").replace(
        "top.accelerator.core.lanes.shadow[7]_FDRE_Q", "$auto$ff.cc:337:slice$1"
    )
    assert nextpnr_timing(log, 100).paths[0].end_unit == "other"
    path = nextpnr_timing(log, 100, names).paths[0]
    assert (path.end, path.end_unit) == ("top.accelerator.core.lanes.shadow[1].D", "lanes")


def test_nextpnr_utilisation():
    found = nextpnr_utilisation(example("openxc7/nextpnr.log"))
    assert found["SLICE_LUTX"] == {"used": 1201, "available": 106400}
    assert found["RAMB18E1_RAMB18E1"] == {"used": 1, "available": 280}
    assert "PAD" not in found
    with pytest.raises(ReportError, match="Device utilisation"):
        nextpnr_utilisation("")


def test_places_for_luts_are_counted_in_the_fasm():
    """Both halves of a LUT's place come as one line, flip-flops alone touch a slice and take no LUT."""
    slices = (
        "CLBLM_R_X19Y111.SLICEM_X0.ALUT.INIT[63:0] = 64'b1\nCLBLM_R_X19Y111.SLICEM_X0.ALUT.RAM\n"
        "CLBLM_R_X19Y111.SLICEM_X0.BLUT.INIT[63:0] = 64'b1\nCLBLM_R_X19Y111.SLICEL_X1.ALUT.INIT[63:0] = 64'b1\n"
        "CLBLL_L_X2Y1.SLICEL_X0.AFF.ZINI\nINT_L_X2Y1.NL1BEG_N3.FAN_BOUNCE6\n"
    )
    found = fasm_utilisation(slices)
    assert found == {"lut6": {"used": 3, "available": 53_200}, "slices": {"used": 3, "available": 13_300}}


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ("system_i/spikeloop/inst/circuit/accelerator/core/window/sums_reg[3]/C", "window"),
        ("top.accelerator.core.head.table.memory.0.0.DOADO[3]", "head"),
        (r"\accelerator.registers.SCRATCH_FDRE_Q.D", "registers"),
        ("top.accelerator.core.busy.Q", "other"),
        ("$abc$1234$auto$5678.O6", "other"),
    ],
)
def test_cells_belong_to_the_units_of_the_resource_table(cell, name):
    assert unit(cell) == name


MANIFEST = {
    **{"name": "TINY", "board": "pynq-z2", "part": "xc7z020clg400-1", "tools": {"nextpnr-xilinx": "0.8.2"}, "seed": 3},
    **{"clock_mhz": 111.111, "fmax_mhz": 119.05, "verified_on_board": False, "geometry": json.loads(TINY.to_json())},
    "utilisation": {
        **{"lut6": {"used": 1064, "available": 53200}, "SLICE_LUTX": {"used": 1201, "available": 106400}},
        **{"SLICE_FFX": {"used": 900, "available": 106400}, "RAMB18E1": {"used": 1, "available": 280}},
    },
    "worst_paths": [{"delay_ns": 8.4, "start_unit": "walker", "end_unit": "lanes"}],
}


def test_the_table_of_routed_circuits(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "verilog", lambda geometry: geometry.digest)
    monkeypatch.setattr(report, "synthesise", lambda text, family: {"text": text, "family": family})
    monkeypatch.setattr(report, "per_unit", lambda modules: {"total": {"lut": 1000.0, "ff": 880.0, "bram36": 0.5}})
    (tmp_path / "pynq-z2").mkdir()
    (tmp_path / "pynq-z2" / "tiny-1.json").write_text(json.dumps(MANIFEST))
    assert report.main(["--folder", str(tmp_path), "--json", str(tmp_path / "table.json")]) == 0
    said = capsys.readouterr().out
    assert "TINY on pynq-z2 (xc7z020clg400-1), nextpnr-xilinx 0.8.2, seed 3" in said
    rows = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.startswith("  ")}
    assert rows["lut"] == ["1000", "1064", "53200", "2.0%"]
    assert rows["ff"] == ["880", "900", "106400", "0.8%"]
    assert rows["bram18"] == ["1", "280", "0.4%"]
    assert "dsp" not in rows
    assert "clock 111.111 MHz, reaches 119.05 MHz, verified on a board: no" in said
    assert "8.4 ns from walker to lanes" in said
    (table,) = json.loads((tmp_path / "table.json").read_text())
    assert table["routed"]["lut"] == {"used": 1064, "available": 53200}


def test_a_table_of_nothing_says_what_to_do(tmp_path, capsys):
    assert report.main(["--folder", str(tmp_path)]) == 2
    assert "build a bitstream first" in capsys.readouterr().err
    (tmp_path / "pynq-z2").mkdir()
    (tmp_path / "pynq-z2" / "bad.json").write_text("{}")
    assert report.main(["--folder", str(tmp_path)]) == 2
    assert "bad.json is no manifest of a bitstream" in capsys.readouterr().err
