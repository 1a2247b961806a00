# SPDX-License-Identifier: MIT
"""What synthesis made of the circuit, driven by the shipped driver: integer for integer PyTorch's."""

import re

import numpy as np
import pytest

from host.accelerator import Accelerator
from host.verilated import VerilatedBus
from hw.generate import TOP
from model.deployed.geometry import Geometry
from model.deployed.presets import HOPPER_Z2, TINY
from model.deployed.random_policy import random_policy, random_tokens
from sim.netlist import netlist, netlist_library, without_contents
from sim.reference import Reference

CASES = [
    pytest.param("TINY", TINY, 3, 20, id="TINY"),
    pytest.param("HOPPER_Z2", HOPPER_Z2, 1, 26, id="HOPPER_Z2", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "geometry", "policies", "length"), CASES)
def test_the_netlist_decides_as_pytorch(name: str, geometry: Geometry, policies: int, length: int) -> None:
    text = netlist(geometry)
    primitives = set(re.findall(r"^  ([A-Z]\w*) (?:#\(|\\|_)", text, re.MULTILINE))
    assert {"LUT6", "FDRE", "CARRY4", "DSP48E1", "RAMB36E1"} <= primitives
    assert "always" not in text  # primitives and wires, nothing left to be synthesised
    bus = VerilatedBus(netlist_library(name, text))
    circuit, signatures = Accelerator(bus, geometry), set()
    for seed in range(policies):
        policy = random_policy(geometry, 700 + seed)
        circuit.load(policy)
        circuit.new_episode()
        reference = Reference(policy)
        for token in random_tokens(policy, length, seed):
            decision, expected = circuit.decide(token), reference.decide(token)
            np.testing.assert_array_equal(decision.words, expected.words)
            assert circuit.signatures() == expected.signatures
            np.testing.assert_array_equal(circuit.probe_residual(), expected.residual)
            counters = circuit.counters()
            assert counters.saturations == expected.saturations
            assert counters.layer_rows == expected.layer_rows
            signatures.add(expected.signatures[-1])
    assert len(signatures) > 0.9 * policies * length
    assert circuit.status() == set()
    bus.close()


def test_contents_other_than_zeros_are_refused() -> None:
    before = '  RAMB18E1 #(\n    .RAM_MODE("SDP"),\n    .INIT_0A(256\'h0000)\n  ) _1_ (\n    .A(b)\n  );'
    assert without_contents(before) == '  RAMB18E1 #(\n    .RAM_MODE("SDP")\n  ) _1_ (\n    .A(b)\n  );\n'
    with pytest.raises(ValueError, match="INIT_0A"):
        without_contents(before.replace("0000", "0100"))


@pytest.mark.parametrize("parameter", ['.RAM_EXTENSION_A("LOWER")', '.RAM_EXTENSION_B("UPPER")', ".DOA_REG(1)"])
def test_a_block_ram_that_is_not_modelled_ends_the_build(parameter: str) -> None:
    text = f"module {TOP}(input c, output [31:0] o); RAMB36E1 #({parameter}) r(.CLKARDCLK(c), .DOADO(o)); endmodule\n"
    with pytest.raises(AssertionError, match="not modelled"):
        netlist_library("an unknown block RAM", text)
