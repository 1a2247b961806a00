# SPDX-License-Identifier: MIT
"""The Zynq-7000's programmable logic without a vendor's block design, from the processor's port to the registers."""

import re
from pathlib import Path

from bitstreams import ps7
from bitstreams.boards import BOARDS
from model.deployed.presets import TINY
from sim.build import kept_text, run_bench, simulation

STANDIN = Path(__file__).with_name("ps7.v")


def programmable_logic():
    base = BOARDS["pynq-z2"].base
    text = kept_text(f"ps7|{base}|{TINY.to_json()}", lambda: ps7.verilog(TINY, base)) + STANDIN.read_text()
    visible = {"PS7": "*", f"{ps7.PS7_TOP}.top.accelerator.core": "busy"}
    return simulation("Zynq-7000 TINY", text, ps7.PS7_TOP, visible=visible)


def run(name, **parameters):
    log = run_bench(
        *(programmable_logic(), ps7.PS7_TOP, "sim.bench_ps7", rf"\.{name}$", 1), geometry=TINY.to_json(), **parameters
    )
    compared = re.search(r"compared (\d+)", log)
    assert compared, log
    return int(compared[1])


def test_decides_as_pytorch_behind_the_processor():
    assert run("episodes", policies="2", lengths="16,4", deep="1") == 2 * (16 + 4)


def test_bursts_of_every_kind_are_answered():
    assert run("bursts") > 2000
