# SPDX-License-Identifier: MIT
"""The phase unit: bits of the heads' phase codes, ANDed to query spikes on their way to attention."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.memory import PolicyMemory, load_port
from hw.memory_map import memory_map
from hw.passes import Kind, pass_layout, spikes_layout
from model.deployed.geometry import Geometry


class PhaseGate(wiring.Component):
    """Compute `q[t,c] AND bit[t, head of c]`; spikes of other passes are let through as they are.

    Members
    -------
    new_episode : the next token is an episode's first
    advance : a decision is over
    entering, entering_info : a group of sums enters the neuron bank; with queries' their layer's bits are looked up
    i_group, i_info, i : spikes from the neuron bank
    o : the same, gated where they are queries'
    phase : policy loading
    busy : the core owns the memory

    Timing
    ------
    `o` follows `i` in the same cycle. From a query's sum to its spike the bank takes longer than the memory to read.

    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = g = geometry
        super().__init__(
            {
                "new_episode": In(1),
                "advance": In(1),
                "entering": In(1),
                "entering_info": In(pass_layout(g)),
                "i_group": In(range(g.groups)),
                "i_info": In(pass_layout(g)),
                "i": In(spikes_layout(g, g.group)),
                "o": Out(spikes_layout(g, g.group)),
                "phase": In(load_port(memory_map(g)["phase"])),
                "busy": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        g = self.geometry
        over_tokens = g.phase_over == "tokens"

        # The token's number in its episode, modulo the period
        times = g.period if over_tokens else 1
        time = Signal(range(times))
        with m.If(self.advance):
            m.d.sync += time.eq(Mux(time == times - 1, 0, time + 1))
        with m.If(self.new_episode):
            m.d.sync += time.eq(0)

        m.submodules.store = store = PolicyMemory(memory_map(g)["phase"])
        wiring.connect(m, wiring.flipped(self.phase), store.load)
        m.d.comb += [
            store.busy.eq(self.busy),
            store.enable.eq(self.entering & (self.entering_info.kind == Kind.QUERY)),
            store.rows[0].eq(self.entering_info.layer * times + time),
        ]

        # A row holds a head's bits together: of its SNN steps, or one for all of them
        bits, of_head = store.row_data[0], 1 if over_tokens else g.steps
        gate = Signal(g.group * g.steps)
        with m.Switch(self.i_group):
            for group in range(g.groups):
                heads = [(group * g.group + c) * g.heads // g.d_model for c in range(g.group)]
                with m.Case(group):
                    m.d.comb += gate.eq(
                        Cat(bits[head * of_head + (0 if over_tokens else t)] for head in heads for t in range(g.steps))
                    )
        query = self.i_info.kind == Kind.QUERY
        m.d.comb += self.o.eq(self.i.as_value() & (gate | ~query.replicate(len(gate))))
        return m
