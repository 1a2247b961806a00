# SPDX-License-Identifier: MIT
"""The embedding: a token's quantised components times their weights, `group` channels at a time."""

from amaranth.hdl import Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.expressions import chosen, tree
from hw.memory import PolicyMemory, load_port
from hw.memory_map import embed_components, memory_map
from model.deployed.geometry import Geometry


class Embedding(wiring.Component):
    """Multiply and accumulate `sum_i w[c,i] token[i]`, `embed_components` a cycle: a slice per channel and component.

    The only dense product on multi-bit inputs besides the head; its sums go through the residual store's shift, bias
    and saturation.

    Members
    -------
    start : begin; the token must hold until the last group left
    token, count : components and how many of them the policy uses, at least 1
    load, busy : policy loading
    o_valid, o_group, o_last : sums of a group come in the next cycle
    o : these sums, a cycle after `o_valid`

    Timing
    ------
    A group every `interval(count)` cycles, the first one's `o_valid` `LATENCY + interval(count)` cycles after start.

    """

    LATENCY = 3

    @staticmethod
    def interval(g: Geometry, count: int) -> int:
        """Return the cycles a group of channels takes for a token of `count` components."""
        return -(-count // embed_components(g))

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        g = geometry
        super().__init__(
            {
                "start": In(1),
                "token": In(data.ArrayLayout(signed(g.input_bits), g.input_size)),
                "count": In(range(g.input_size + 1)),
                "load": In(load_port(memory_map(g)["embed"])),
                "busy": In(1),
                "o_valid": Out(1),
                "o_group": Out(range(g.groups)),
                "o_last": Out(1),
                "o": Out(signed(g.embed_bits)).array(g.group),
            }
        )

    def elaborate(self, platform):
        m = Module()
        g = self.geometry
        ports = embed_components(g)
        chunks = -(-g.input_size // ports)
        m.submodules.weights = weights = PolicyMemory(memory_map(g)["embed"])
        wiring.connect(m, wiring.flipped(self.load), weights.load)

        # Address
        running = Signal()
        chunk, group = Signal(range(chunks)), Signal(range(g.groups))
        first, last = Signal(), Signal()
        m.d.comb += [
            first.eq(chunk == 0),
            last.eq((chunk + 1) * ports >= self.count),
            weights.busy.eq(self.busy),
            weights.enable.eq(running),
            weights.rows[0].eq(group * chunks + chunk),
        ]
        with m.If(running):
            m.d.sync += chunk.eq(chunk + 1)
            with m.If(last):
                m.d.sync += [chunk.eq(0), group.eq(group + 1)]
                with m.If(group == g.groups - 1):
                    m.d.sync += running.eq(0)
        with m.If(self.start):
            m.d.sync += [running.eq(1), chunk.eq(0), group.eq(0)]

        # Multiply, add, accumulate
        side = data.StructLayout({"group": range(g.groups), "first": 1, "last": 1})
        valids = [Signal(name=f"valid{stage}") for stage in range(1, 4)]
        sides = [Signal(side, name=f"side{stage}", reset_less=True) for stage in range(1, 4)]
        m.d.sync += [valids[0].eq(running), sides[0].group.eq(group), sides[0].first.eq(first), sides[0].last.eq(last)]
        for stage in (1, 2):
            m.d.sync += [valids[stage].eq(valids[stage - 1]), sides[stage].eq(sides[stage - 1])]
        m.d.comb += [
            self.o_valid.eq(valids[2] & sides[2].last),
            self.o_group.eq(sides[2].group),
            self.o_last.eq(sides[2].group == g.groups - 1),
        ]
        components = [Signal(signed(g.input_bits), name=f"component{port}") for port in range(ports)]
        for port in range(ports):
            # the last cycle of a group may have components less
            of_chunk = [
                Mux(at < self.count, self.token[at], 0) if at < g.input_size else Const(0, signed(g.input_bits))
                for at in range(port, chunks * ports, ports)
            ]
            m.d.sync += components[port].eq(chosen(of_chunk, chunk))
        bits, product_bits = g.dense_weight_bits, g.input_bits + g.dense_weight_bits
        for c in range(g.group):
            products = []
            for port in range(ports):
                weight = weights.row_data[0][(port * g.group + c) * bits :][:bits].as_signed()
                product = Signal(signed(product_bits), name=f"product{c}_{port}", reset_less=True)
                with m.If(valids[0]):
                    m.d.sync += product.eq(weight * components[port])
                products.append(product)
            summed = Value.cast(tree(products))
            partial = Signal(summed.shape(), name=f"partial{c}", reset_less=True)
            with m.If(valids[1]):
                m.d.sync += partial.eq(summed)
            with m.If(valids[2]):
                m.d.sync += self.o[c].eq(Mux(sides[2].first, 0, self.o[c]) + partial)
        return m
