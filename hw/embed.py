# SPDX-License-Identifier: MIT
"""The embedding: a token's quantised components times their weights, `group` channels at a time."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.memory import PolicyMemory, load_port
from hw.memory_map import memory_map
from model.deployed.geometry import Geometry


class Embedding(wiring.Component):
    """Multiply and accumulate `sum_i w[c,i] token[i]`, `PORTS` components a cycle (a DSP slice per channel and port).

    The only dense product on multi-bit inputs besides the head; its sums go through the residual store's shift, bias
    and saturation.

    Members
    -------
    start : begin; the token must hold until the last group left
    token, count : components and how many of them the policy uses, at least 1
    load, busy : policy loading
    o_valid, o_group, o_last, o : sums of a group

    Timing
    ------
    A group every `interval(count)` cycles, the first `LATENCY + interval(count)` cycles after start.

    """

    LATENCY = 3
    PORTS = 2

    @classmethod
    def interval(cls, count: int) -> int:
        """Return the cycles a group of channels takes for a token of `count` components."""
        return -(-count // cls.PORTS)

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
        m.submodules.weights = weights = PolicyMemory(memory_map(g)["embed"], self.PORTS)
        wiring.connect(m, wiring.flipped(self.load), weights.load)

        # Address
        running = Signal()
        index, group = Signal(range(g.input_size + self.PORTS)), Signal(range(g.groups))
        row = Signal(range(g.groups * g.input_size))
        first, last = Signal(), Signal()
        m.d.comb += [
            first.eq(index == 0),
            last.eq(index + self.PORTS >= self.count),
            weights.busy.eq(self.busy),
            weights.enable.eq(running.replicate(self.PORTS)),
        ]
        for port in range(self.PORTS):
            m.d.comb += weights.rows[port].eq(row + index + port)
        with m.If(running):
            m.d.sync += index.eq(index + self.PORTS)
            with m.If(last):
                m.d.sync += [index.eq(0), group.eq(group + 1), row.eq(row + g.input_size)]
                with m.If(group == g.groups - 1):
                    m.d.sync += running.eq(0)
        with m.If(self.start):
            m.d.sync += [running.eq(1), index.eq(0), group.eq(0), row.eq(0)]

        # Multiply, accumulate
        side = data.StructLayout({"group": range(g.groups), "first": 1, "last": 1})
        valid1, side1 = Signal(), Signal(side)
        valid2, side2 = Signal(), Signal(side)
        components = [Signal(signed(g.input_bits), name=f"component{port}") for port in range(self.PORTS)]
        product = data.ArrayLayout(signed(g.input_bits + g.dense_weight_bits), g.group)
        products = [Signal(product, name=f"products{port}", reset_less=True) for port in range(self.PORTS)]
        m.d.sync += [
            valid1.eq(running),
            side1.group.eq(group),
            side1.first.eq(first),
            side1.last.eq(last),
            valid2.eq(valid1),
            side2.eq(side1),
            self.o_valid.eq(valid2 & side2.last),
            self.o_group.eq(side2.group),
            self.o_last.eq(side2.group == g.groups - 1),
        ]
        bits = g.dense_weight_bits
        for port in range(self.PORTS):
            # the last cycle of a group may have a component less
            present = index + port < self.count
            m.d.sync += components[port].eq(Mux(present, self.token[index + port], 0))
            with m.If(valid1):
                for c in range(g.group):
                    weight = weights.row_data[port][c * bits : (c + 1) * bits].as_signed()
                    m.d.sync += products[port][c].eq(weight * components[port])
        with m.If(valid2):
            for c in range(g.group):
                total = Mux(side2.first, 0, self.o[c]) + sum(of_port[c] for of_port in products)
                m.d.sync += self.o[c].eq(total)
        return m
