# SPDX-License-Identifier: MIT
"""The head: membranes summed over the SNN steps, a linear layer, and the action table."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from hw.adders import sum_in_pairs
from hw.memory import PolicyMemory, load_port
from hw.memory_map import memory_map
from hw.passes import steps_layout
from model.deployed.geometry import Geometry


class Head(wiring.Component):
    """Compute `table[clip(floor((W sum_t x[t] + bias) / 2**shift) + entries/2)]` per action.

    `group` multipliers, a group of channels per cycle, action by action; the first action follows the membranes as
    they arrive.

    Members
    -------
    clear : start of a decision: the actions read zero until they are computed
    i_valid, i_group, i : final membranes of a group, a group a cycle, in order
    count : actions the policy computes, at least 1
    load_weights, load_bias, load_table, busy : policy loading
    actions : signed 16-bit words
    done : one cycle, with the last action

    Timing
    ------
    `done` comes `LATENCY + count * groups` cycles after the first group.

    """

    LATENCY = 8

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        g = geometry
        sections = memory_map(g)
        super().__init__(
            {
                "clear": In(1),
                "i_valid": In(1),
                "i_group": In(range(g.groups)),
                "i": In(steps_layout(g, g.membrane_bits)).array(g.group),
                "count": In(range(g.action_size + 1)),
                "load_weights": In(load_port(sections["head"])),
                "load_bias": In(load_port(sections["head_bias"])),
                "load_table": In(load_port(sections["table"])),
                "busy": In(1),
                "actions": Out(data.ArrayLayout(signed(16), g.action_size)),
                "done": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        g = self.geometry
        sections = memory_map(g)
        m.submodules.weights = weights = PolicyMemory(sections["head"])
        m.submodules.bias = biases = PolicyMemory(sections["head_bias"])
        m.submodules.table = table = PolicyMemory(sections["table"])
        for port, store in ((self.load_weights, weights), (self.load_bias, biases), (self.load_table, table)):
            wiring.connect(m, wiring.flipped(port), store.load)
            m.d.comb += [store.busy.eq(self.busy), store.enable.eq(1)]

        # Sum over the steps, keep
        sums_layout = data.ArrayLayout(signed(g.step_sum_bits), g.group)
        m.submodules.sums = store = memory.Memory(shape=sums_layout, depth=g.groups, init=[])
        write, read = store.write_port(), store.read_port(domain="comb")
        summed = Signal(sums_layout, reset_less=True)
        m.d.sync += [write.en.eq(self.i_valid), write.addr.eq(self.i_group)]
        m.d.comb += write.data.eq(summed)
        with m.If(self.i_valid):
            for c in range(g.group):
                m.d.sync += summed[c].eq(sum(self.i[c][t] for t in range(g.steps)))

        # Address: the groups of the first action right behind their writes
        action, group = Signal(range(g.action_size)), Signal(range(g.groups))
        running = Signal()
        side = data.StructLayout({"action": range(g.action_size), "first": 1, "last": 1, "final": 1})
        with m.If(running):
            m.d.sync += group.eq(group + 1)
            with m.If(group == g.groups - 1):
                m.d.sync += [group.eq(0), action.eq(action + 1)]
                with m.If(action + 1 == self.count):
                    m.d.sync += [running.eq(0), action.eq(0)]
        with m.If(write.en & (write.addr == 0)):
            m.d.sync += [running.eq(1), action.eq(0), group.eq(0)]
        m.d.comb += [read.addr.eq(group), weights.rows[0].eq(action * g.groups + group)]

        sides = [Signal(side, name=f"side{stage}") for stage in range(1, 7)]
        valids = [Signal(name=f"valid{stage}") for stage in range(1, 7)]
        m.d.sync += [
            valids[0].eq(running),
            sides[0].action.eq(action),
            sides[0].first.eq(group == 0),
            sides[0].last.eq(group == g.groups - 1),
            sides[0].final.eq(action + 1 == self.count),
        ]
        for stage in range(1, 6):
            m.d.sync += [valids[stage].eq(valids[stage - 1]), sides[stage].eq(sides[stage - 1])]

        # Multiply, add, accumulate
        operand = Signal(sums_layout, reset_less=True)
        products = Signal(data.ArrayLayout(signed(g.step_sum_bits + g.dense_weight_bits), g.group), reset_less=True)
        partial = Signal(signed(g.head_bits), reset_less=True)
        total = Signal(signed(g.head_bits), reset_less=True)
        m.d.sync += operand.eq(read.data)
        bits = g.dense_weight_bits
        for c in range(g.group):
            weight = weights.row_data[0][c * bits : (c + 1) * bits].as_signed()
            with m.If(valids[0]):
                m.d.sync += products[c].eq(weight * operand[c])
        with m.If(valids[1]):
            m.d.sync += partial.eq(sum_in_pairs([products[c] for c in range(g.group)]))
        with m.If(valids[2]):
            m.d.sync += total.eq(Mux(sides[2].first, 0, total) + partial)

        # Shift, clip, look up
        m.d.comb += biases.rows[0].eq(sides[2].action)
        bias = biases.row_data[0][:32].as_signed()
        shift = biases.row_data[0][32:37]
        scaled = Signal(signed(g.head_bits + 1))
        half = 1 << (g.table_log2 - 1)
        entry = Signal(g.table_log2)
        m.d.comb += scaled.eq((total + bias) >> shift)
        m.d.sync += entry.eq(
            Mux(scaled < -half, 0, Mux(scaled > half - 1, 2 * half - 1, (scaled + half)[: g.table_log2]))
        )
        m.d.comb += table.rows[0].eq(entry)
        m.d.sync += self.done.eq(valids[5] & sides[5].last & sides[5].final)
        with m.If(valids[5] & sides[5].last):
            m.d.sync += self.actions[sides[5].action].eq(table.row_data[0].as_signed())
        with m.If(self.clear):
            m.d.sync += self.actions.eq(0)
        return m
