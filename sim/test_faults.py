# SPDX-License-Identifier: MIT
"""The fault campaign: it reaches every class of register and memory, and what must be noticed is."""

from hw.generate import verilog
from model.deployed.presets import TINY
from sim.build import kept_text
from sim.fault_targets import MEMORIES, REGISTERS, targets
from sim.faults import POLICY, STUCK, counts, run, table


def test_targets_are_every_class_and_all_of_the_policy():
    found = list(targets(kept_text(f"accelerator|{TINY.to_json()}", lambda: verilog(TINY))))
    assert {target.kind for target in found} == {*MEMORIES, *REGISTERS}
    bits = {kind: sum(target.total_bits for target in found if target.kind == kind) for kind in MEMORIES}
    assert bits["weights"] == TINY.weight_rows * TINY.d_model * TINY.weight_bits
    assert bits["membranes"] == TINY.d_model * TINY.steps * TINY.membrane_bits
    accumulators = sum(target.total_bits for target in found if target.name.startswith(("lane", "shadow")))
    assert accumulators >= 2 * TINY.d_model * TINY.steps * TINY.accumulator_bits
    assert len(set(found)) == len(found) > 300


def test_what_must_be_noticed_is():
    faults = run(TINY, 3, 1)
    assert len(faults) == 3 * (len(MEMORIES) + len(REGISTERS) + 1)
    assert all(fault["read_back"] == (fault["kind"] in POLICY) for fault in faults)
    of_kind = {fault["kind"]: [other for other in faults if other["kind"] == fault["kind"]] for fault in faults}
    assert counts(of_kind[STUCK])["watchdog"] > 0
    assert counts(of_kind["membranes"])["signature"] > 0
    # what changes a residual membrane cannot stay unseen: a wrong action without a signature comes from the head
    silent = [fault for fault in faults if fault["wrong"] and not fault["signature"] and not fault["watchdog"]]
    assert all("head" in fault["path"] or fault["kind"] in POLICY for fault in silent), silent
    assert table(faults).count("\n") == 2 + len(of_kind)
