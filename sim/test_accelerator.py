# SPDX-License-Identifier: MIT
"""The accelerator, verilated, driven through AXI4-Lite by the shipped driver: integer for integer PyTorch's."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
import pytest

from host.accelerator import Accelerator
from host.plastic_head import PlasticHead
from host.verilated import VerilatedBus, library
from hw.generate import TOP, verilog
from model.deployed.geometry import Geometry
from model.deployed.golden import GoldenNetwork
from model.deployed.golden_plasticity import PlasticNetwork
from model.deployed.presets import HOPPER_Z2, HOPPER_Z2_LRF, ODD, PRESETS, TINY, WIDE
from model.deployed.random_policy import random_policy, random_tokens
from model.deployed.sizes import Plasticity
from sim.build import kept_text, run_bench, say, simulation
from sim.reference import Reference

TINY_LRF = dataclasses.replace(TINY.with_attention("lrf-dyn"), dendrites=3)
ODD_LRF = dataclasses.replace(ODD.with_attention("lrf-dyn"), dendrites=5, gate=False)
OTHERS = {
    dataclasses.replace(TINY.with_attention("sssa"), heads=4): "TINY SSSA, 4 heads",
    TINY.with_attention("tssa"): "TINY TSSA",
    dataclasses.replace(ODD.with_attention("tssa"), heads=2): "ODD TSSA, 2 heads",
    TINY_LRF: "TINY LRF-Dyn",
    ODD_LRF: "ODD LRF-Dyn, ungated",
    dataclasses.replace(
        TINY.with_attention("tssa"), heads=2, phase="query", phase_over="tokens", period=7
    ): "TINY TSSA, phase over tokens",
    dataclasses.replace(ODD.with_attention("tssa"), adaptive=True): "ODD TSSA, step gates",
    dataclasses.replace(TINY, heads=4, phase="query", adaptive=True): "TINY, phase and step gates",
    dataclasses.replace(TINY, plasticity=Plasticity()): "TINY, a head that learns",
    dataclasses.replace(
        ODD, adaptive=True, plasticity=Plasticity(6, 2, 3, factor_bits=6, most_change=5)
    ): "ODD, step gates, a head that learns",
}
MILLION = {
    **dict.fromkeys(("HOPPER_Z2", "HOPPER_Z2_LEAN", "HOPPER_Z2_SSSA", "HOPPER_Z2_TSSA", "HOPPER_Z2_LRF"), 20000),
    **dict.fromkeys(("HOPPER_Z2_PLASTIC", "HOPPER_Z2_SHALLOW"), 20_000),
    **dict.fromkeys(("Z2_256", "ZCU104_256"), 10_000),
    **{"CLASSIC": 100_000, "WIDE": 100_000, "ODD": 300_000, "TINY": 340_000},
}
"""Preset -> decisions; the smaller a circuit, the more of them take a minute."""
NAMES = {TINY: "TINY", ODD: "ODD", WIDE: "WIDE", HOPPER_Z2: "HOPPER_Z2", HOPPER_Z2_LRF: "HOPPER_Z2_LRF"} | OTHERS


def accelerator(geometry: Geometry):
    text = kept_text(f"accelerator|{geometry.to_json()}", lambda: verilog(geometry))
    return simulation(f"accelerator {NAMES[geometry]}", text, TOP, visible={f"{TOP}.accelerator.core": "busy"})


@pytest.mark.parametrize(
    ("geometry", "policies", "lengths", "deep"),
    [
        *((HOPPER_Z2, 1, (24, 8), False), (TINY, 5, (30, 16, 4), True), (ODD, 5, (30, 16, 4), True)),
        pytest.param(HOPPER_Z2_LRF, 1, (24, 8), False, marks=pytest.mark.slow),
        (WIDE, 2, (8, 3), True),
        *((geometry, 3, (20, 8, 2), True) for geometry in OTHERS),
    ],
    ids=["HOPPER_Z2", "TINY", "ODD", "HOPPER_Z2_LRF", "WIDE", *OTHERS.values()],
)
def test_decides_as_pytorch(geometry: Geometry, policies: int, lengths: Sequence[int], deep: bool) -> None:
    log = run_bench(
        *(accelerator(geometry), TOP, "sim.bench_accelerator", r"\.episodes$", 1),
        geometry=geometry.to_json(),
        policies=str(policies),
        lengths=",".join(map(str, lengths)),
        deep=str(int(deep)),
    )
    compared = re.search(r"compared (\d+) decisions", log)
    assert compared, log
    assert int(compared[1]) == policies * sum(lengths)


@pytest.mark.parametrize("geometry", [TINY, ODD, TINY_LRF], ids=["TINY", "ODD", "TINY LRF-Dyn"])
@pytest.mark.parametrize("name", ["identity_and_registers", "loading", "start_and_repeat", "soft_reset_and_watchdog"])
def test_register_window(geometry: Geometry, name: str) -> None:
    log = run_bench(*(accelerator(geometry), TOP, "sim.bench_protocol", rf"\.{name}$", 1), geometry=geometry.to_json())
    assert re.search(rf"{name}: \d+ comparisons", log), log


def test_learning_through_the_register_window() -> None:
    geometry = dataclasses.replace(TINY, plasticity=Plasticity())
    log = run_bench(*(accelerator(geometry), TOP, "sim.bench_learning", r"\.learning$", 1), geometry=geometry.to_json())
    assert re.search(r"learning: \d+ comparisons", log), log


@pytest.mark.parametrize("change", [{"rows_per_cycle": 2}, {"group": 16}], ids=str)
def test_a_policy_runs_on_circuits_of_other_rows_and_groups(change: dict[str, int]) -> None:
    """Policies of TINY: words and residuals as PyTorch's, signatures as the golden network's of that circuit."""
    geometry = dataclasses.replace(TINY, **change)
    bus = VerilatedBus(library(geometry, say))
    circuit, signed = Accelerator(bus, geometry), set()
    for seed in range(3):
        policy = random_policy(TINY, 9000 + seed)
        circuit.load(policy)
        reference, golden = Reference(policy, 1), GoldenNetwork(policy.on(geometry))
        own = GoldenNetwork(policy)
        for token in random_tokens(policy, 40, seed):
            words, membranes = reference.decide_all(token[None])
            np.testing.assert_array_equal(circuit.decide(token).words, words[0])
            np.testing.assert_array_equal(circuit.probe_residual(), membranes[0])
            assert circuit.signatures() == golden.decide(token).signatures
            signed.add(own.decide(token).signatures == circuit.signatures())
    assert signed == {"group" not in change}  # another group is another order of the same words
    assert circuit.status() == set()
    bus.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("geometry", "decisions"),
    [(TINY, 50_000), (ODD, 45_000), (HOPPER_Z2, 5_000), (TINY_LRF, 20_000), (ODD_LRF, 20_000)],
    ids=["TINY", "ODD", "HOPPER_Z2", "TINY LRF-Dyn", "ODD LRF-Dyn, ungated"],
)
def test_a_hundred_thousand_decisions(geometry: Geometry, decisions: int) -> None:
    """Episodes side by side in PyTorch, one after the other on the circuit behind the driver's own bus."""
    policies, batch = 10, 10
    length = decisions // policies // batch
    bus = VerilatedBus(library(geometry, say))
    circuit, compared, distinct = Accelerator(bus, geometry), 0, set()
    for seed in range(policies):
        policy = random_policy(geometry, 5000 + seed)
        circuit.load(policy)
        tokens = random_tokens(policy, batch * length, seed).reshape(length, batch, -1)
        reference = Reference(policy, batch)
        expected = [reference.decide_all(tokens[n]) for n in range(length)]
        for episode in range(batch):
            circuit.new_episode()
            for n in range(length):
                words, membranes = expected[n][0][episode], expected[n][1][episode]
                decision = circuit.decide(tokens[n, episode])
                np.testing.assert_array_equal(decision.words, words)
                np.testing.assert_array_equal(circuit.probe_residual(), membranes)
                compared += 1
                distinct.add(membranes.tobytes())
        say(f"{NAMES[geometry]}: {compared} decisions equal")
    assert compared == decisions
    assert len(distinct) > 0.9 * decisions
    assert circuit.status() == set()
    bus.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_a_million_decisions_over_the_presets(name: str) -> None:
    """Random policies on the circuit, action words and signatures as the golden network's, 500 decisions at a time."""
    assert sum(MILLION.values()) == 1_000_000
    geometry, batch, policies = PRESETS[name], 500, 10
    bus = VerilatedBus(library(geometry, say))
    circuit, compared, distinct = Accelerator(bus, geometry), 0, set()
    for seed in range(policies):
        policy = random_policy(geometry, 7000 + seed)
        circuit.load(policy)
        golden = (PlasticNetwork if geometry.plasticity else GoldenNetwork)(policy)
        for part in range(MILLION[name] // policies // batch):
            tokens = random_tokens(policy, batch, 1000 * seed + part)
            if part % 3 == 0:  # others go on where the last ones stopped
                circuit.new_episode()
                golden.reset()
            trace = golden.decide_all(tokens)
            found = circuit.decide_all(tokens)
            np.testing.assert_array_equal([record.decision.words for record in found], trace.action)
            np.testing.assert_array_equal([record.signatures for record in found], np.transpose(trace.signatures))
            compared += len(found)
            distinct.update(tuple(record.signatures) for record in found)
            if isinstance(golden, PlasticNetwork):
                head, factor = PlasticHead(circuit), part % 200 - 100
                head.learn(factor)
                golden.learn(factor)
                np.testing.assert_array_equal(head.traces(), golden.eligibility)
                np.testing.assert_array_equal(head.weights(), golden.weight)
        say(f"{name}: {compared} decisions equal")
    assert compared == MILLION[name]
    assert len(distinct) > 0.5 * compared
    assert circuit.status() == set()
    bus.close()
