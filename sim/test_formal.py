# SPDX-License-Identifier: MIT
"""Proof of the neuron for all inputs, planted defects that it must find, and what the prover says when it cannot."""

import pytest
from amaranth.hdl import Assume, Elaboratable, Module, Mux, Signal, signed

import hw.lif
from hw.lif import LifNeuron
from model.deployed.presets import HOPPER_Z2, ODD, TINY
from sim import formal
from sim.formal import ToolError, claim, mutant, prove

# The neuron


class NeuronEquation(Elaboratable):
    """A neuron beside its equation, computed from the inputs `latency` cycles ago, if they were valid.

    The equation works on integers in units of 4**-(T-1), with room to spare, and knows nothing of the circuit's
    changing units. That its quarters leave no remainder and its membranes fit `lif_bits` is claimed, not assumed.
    """

    def __init__(self, neuron):
        self.neuron = neuron
        self.ports = [neuron.valid, neuron.currents.as_value(), neuron.threshold]

    def elaborate(self, platform):
        m = Module()
        m.submodules.neuron = neuron = self.neuron
        g = neuron.geometry
        unit = 4 ** (g.steps - 1)

        currents, threshold, comparable = neuron.currents, neuron.threshold, neuron.valid[0]
        for stage in range(neuron.latency(g)):
            m.d.comb += Assume(neuron.valid[stage] == comparable)  # a token goes on a stage a cycle
            older = Signal.like(currents), Signal.like(threshold), Signal(name=f"valid{stage}")
            m.d.sync += [one.eq(now) for one, now in zip(older, (currents, threshold, comparable), strict=True)]
            currents, threshold, comparable = older

        wide = signed(g.lif_bits + 16)
        carried = 0
        for t in range(g.steps):
            membrane, quarter = Signal(wide, name=f"m{t}"), Signal(wide, name=f"quarter{t}")
            spike = Signal(name=f"s{t}")
            m.d.comb += [
                membrane.eq(currents[t] * unit + carried),
                spike.eq(membrane > threshold * unit),
                quarter.eq(membrane >> 2),
            ]
            carried = Mux(spike, 0, quarter)
            claim(m, f"spike_{t}", ~comparable | (neuron.spikes[t] == spike))
            limit = 1 << (g.lif_bits - 1)
            claim(m, f"width_{t}", (membrane >= -limit) & (membrane < limit))
            if t < g.steps - 1:
                claim(m, f"exact_{t}", quarter * 4 == membrane)
        return m


def neuron_verdict(neuron):
    design = NeuronEquation(neuron)
    # a spike depends on nothing older than the latency: one step more closes the induction
    return prove(design, design.ports, depth=neuron.latency(neuron.geometry) + 1)


@pytest.mark.parametrize("geometry", [TINY, HOPPER_Z2, ODD], ids=["TINY", "HOPPER_Z2", "ODD"])
def test_neuron_equals_its_equation_for_all_inputs(geometry):
    verdict = neuron_verdict(LifNeuron(geometry))
    assert verdict.status == "PASS", verdict.log


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("self.threshold - 1", "self.threshold"),
        ("Mux(spike, 0, membrane)", "membrane"),
        ("if_valid(m, valid, Mux(spike, 0, membrane)", "if_valid(m, valid, Mux(spike, 0, membrane)[:-2].as_signed()"),
        ("for value in (*currents, *excess, carried, *spikes)", "for value in (*currents, *excess, 0, *spikes)"),
        ("Const((1 << 2 * t) - 1, 2 * t)", "Const((1 << t) - 1, t)"),
        ("if_valid(m, valid, above", "if_valid(m, valid, above[:-2].as_signed()"),
        ("m.If(self.valid[-1])", "m.If(self.valid[0])"),
        ("m.If(self.valid[t // self.STEPS_PER_STAGE - 1])", "m.If(self.valid[t // self.STEPS_PER_STAGE])"),
    ],
    ids=[
        *("at-threshold", "no-reset", "narrow", "forgets", "wrong-unit", "narrow-margin"),
        *("spikes-when-sent", "registers-late"),
    ],
)
def test_neuron_proof_finds_a_planted_defect(old, new):
    verdict = neuron_verdict(mutant(hw.lif, old, new).LifNeuron(TINY))
    assert verdict.status == "FAIL", verdict.log
    assert verdict.failed
    assert all(name.startswith("spike") for name in verdict.failed)  # the circuit is wrong, not its equation


# The prover


def test_prover_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(formal, "PROGRAMS", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match=r"yowasp-sby.*z3 missing; install"):
        neuron_verdict(LifNeuron(TINY))


def test_prover_does_not_take_an_unfinished_induction_for_a_proof():
    design = NeuronEquation(LifNeuron(TINY))
    assert prove(design, design.ports, depth=1).status == "UNKNOWN"
