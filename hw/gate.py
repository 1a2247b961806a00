# SPDX-License-Identifier: MIT
"""The step gate: chooses, from the first membranes of a layer, in how many steps its spikes exist."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.expressions import tree
from hw.memory import PolicyMemory, load_port
from hw.memory_map import memory_map
from hw.passes import Kind, pass_layout
from model.deployed.geometry import Geometry


class StepGate(wiring.Component):
    """Compute `live[t] = sum_c w[c] x[0,c] > threshold[t-1]` over the first group's membranes; step 0 is always live.

    The sum of a layer's entry is done when the first group's spikes leave the neurons, so no pass waits for it. What
    the layer before spiked is through the bank by then: its sums were what became these membranes.

    Members
    -------
    i_valid, i_group, i_info : what is announced to the neuron bank
    i : the group's membranes of the first step, two cycles later
    gates, busy : policy loading
    live : the steps in which spikes exist, `LATENCY` cycles after the first group was announced, until the next layer

    """

    LATENCY = 4

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        g = geometry
        super().__init__(
            {
                "i_valid": In(1),
                "i_group": In(range(g.groups)),
                "i_info": In(pass_layout(g)),
                "i": In(signed(g.membrane_bits)).array(g.group),
                "gates": In(load_port(memory_map(g)["gates"])),
                "busy": In(1),
                "live": Out(g.steps),
            }
        )

    def elaborate(self, platform):
        m = Module()
        g = self.geometry
        kind = self.i_info.kind

        # Look the layer's gate up while its first sums come
        m.submodules.gates = gates = PolicyMemory(memory_map(g)["gates"])
        wiring.connect(m, wiring.flipped(self.gates), gates.load)
        opens = Signal()
        m.d.comb += [
            opens.eq(
                self.i_valid & (self.i_group == 0) & ((kind == Kind.EMBED) | ((kind == Kind.FC2) & ~self.i_info.final))
            ),
            gates.busy.eq(self.busy),
            gates.rows[0].eq(Mux(kind == Kind.EMBED, 0, self.i_info.layer + 1)),
            gates.enable.eq(opens),
        ]
        row = data.View(
            data.StructLayout(
                {
                    "weight": data.ArrayLayout(signed(g.weight_bits), g.group),
                    "threshold": data.ArrayLayout(signed(g.gate_bits), g.steps - 1),
                }
            ),
            gates.row_data[0],
        )

        # Multiply, then add and compare
        summed, ready, chosen = Signal(), Signal(), Signal()
        m.d.sync += [summed.eq(opens), ready.eq(summed), chosen.eq(ready)]
        products = [
            Signal(signed(g.membrane_bits + g.weight_bits), name=f"product{c}", reset_less=True) for c in range(g.group)
        ]
        with m.If(ready):
            m.d.sync += [products[c].eq(self.i[c] * row.weight[c]) for c in range(g.group)]
        total = Signal(signed(g.gate_bits))
        m.d.comb += total.eq(tree(products))
        with m.If(chosen):
            m.d.sync += self.live[0].eq(1)
            for t in range(1, g.steps):
                m.d.sync += self.live[t].eq(total > row.threshold[t - 1])
        return m
