# SPDX-License-Identifier: MIT
"""The head: membranes summed over the SNN steps, a linear layer, and the action table."""

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from hw.expressions import chosen, tree
from hw.memory import PolicyMemory, load_port
from hw.memory_map import head_actions, memory_map
from hw.passes import steps_layout
from hw.plasticity import weights_port
from model.deployed.geometry import Geometry


class Head(wiring.Component):
    """Compute `table[clip(floor((W sum_t x[t] + bias) / 2**shift) + entries/2)]` per action.

    `head_actions` times `group` multipliers: a round sums as many actions, a group of channels per cycle. The first
    round follows the membranes as they arrive. A round's sums are looked up one by one, beside the next round.

    Members
    -------
    clear : start of a decision: the actions read zero until they are computed
    i_valid, i_group, i : final membranes of a group, a group a cycle, in order
    count : actions the policy computes, at least 1
    load_weights, load_bias, load_table, busy : policy loading
    actions : signed 16-bit words
    done : one cycle, with the last action
    post_valid, post_action, post : with plasticity alone: an action's sign before it is clipped
    change : with plasticity alone: its access to the weights

    Timing
    ------
    `done` comes `latency(g, count)` cycles after the first group.

    """

    @staticmethod
    def round_cycles(g: Geometry) -> int:
        """Return the cycles from round to round: its groups, or its actions where these are more."""
        return max(g.groups, head_actions(g))

    @classmethod
    def latency(cls, g: Geometry, count: int) -> int:
        """Return the cycles from the first group to `done` for `count` actions."""
        rounds = -(-count // head_actions(g))
        left = count - (rounds - 1) * head_actions(g)
        return 8 + (rounds - 1) * cls.round_cycles(g) + g.groups + left

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
            | (
                {
                    "post_valid": Out(1),
                    "post_action": Out(range(g.action_size)),
                    "post": Out(signed(2)),
                    "change": In(weights_port(g)),
                }
                if g.plasticity
                else {}
            )
        )

    def elaborate(self, platform):
        m = Module()
        g = self.geometry
        sections = memory_map(g)
        m.submodules.weights = weights = PolicyMemory(sections["head"], changing=g.plasticity is not None)
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

        # Address: the groups of the first round right behind their writes
        actions, rounds = head_actions(g), -(-g.action_size // head_actions(g))
        turn, group = Signal(range(rounds)), Signal(range(self.round_cycles(g)))
        running, reading = Signal(), Signal()
        side = data.StructLayout({"turn": range(rounds), "first": 1, "last": 1})
        final_turn = Signal()
        m.d.comb += [reading.eq(running & (group < g.groups)), final_turn.eq((turn + 1) * actions >= self.count)]
        with m.If(running):
            m.d.sync += group.eq(group + 1)
            with m.If(group == self.round_cycles(g) - 1):
                m.d.sync += [group.eq(0), turn.eq(turn + 1)]
                with m.If(final_turn):
                    m.d.sync += running.eq(0)
        with m.If(write.en & (write.addr == 0)):
            m.d.sync += [running.eq(1), turn.eq(0), group.eq(0)]
        m.d.comb += [read.addr.eq(group), weights.rows[0].eq(turn * g.groups + group)]

        if g.plasticity:
            m.d.comb += [
                self.change.data.eq(weights.row_data[0]),
                weights.store.eq(self.change.store),
                weights.new_row.eq(self.change.new_row),
            ]
            with m.If(self.change.use):
                m.d.comb += weights.rows[0].eq(self.change.row)

        sides = [Signal(side, name=f"side{stage}", reset_less=True) for stage in range(1, 4)]
        valids = [Signal(name=f"valid{stage}") for stage in range(1, 4)]
        m.d.sync += [
            valids[0].eq(reading),
            sides[0].turn.eq(turn),
            sides[0].first.eq(group == 0),
            sides[0].last.eq(group == g.groups - 1),
        ]
        for stage in (1, 2):
            m.d.sync += [valids[stage].eq(valids[stage - 1]), sides[stage].eq(sides[stage - 1])]

        # Multiply, add, accumulate
        operand = Signal(sums_layout, reset_less=True)
        product = signed(g.step_sum_bits + g.dense_weight_bits)
        wide = signed(g.head_bits)
        running_totals = [Signal(wide, name=f"running_total{action}", reset_less=True) for action in range(actions)]
        totals = [Signal(wide, name=f"totals{action}", reset_less=True) for action in range(actions)]
        m.d.sync += operand.eq(read.data)
        bits = g.dense_weight_bits
        for action in range(actions):
            products = []
            for c in range(g.group):
                weight = weights.row_data[0][(action * g.group + c) * bits :][:bits].as_signed()
                products.append(Signal(product, name=f"product{action}_{c}", reset_less=True))
                with m.If(valids[0]):
                    m.d.sync += products[-1].eq(weight * operand[c])
            added = Value.cast(tree(products))
            partial = Signal(added.shape(), name=f"partial{action}", reset_less=True)
            with m.If(valids[1]):
                m.d.sync += partial.eq(added)
            total = Signal(signed(g.head_bits), name=f"total{action}")
            m.d.comb += total.eq(Mux(sides[2].first, 0, running_totals[action]) + partial)
            with m.If(valids[2]):
                m.d.sync += running_totals[action].eq(total)
                with m.If(sides[2].last):
                    m.d.sync += totals[action].eq(total)

        # Take the sums of a round one by one, while the next round adds
        looking, nth, first_action = Signal(), Signal(range(actions)), Signal(range(g.action_size))
        looked_up = Signal(range(g.action_size))
        m.d.comb += looked_up.eq(first_action + nth)
        with m.If(looking):
            m.d.sync += nth.eq(nth + 1)
            with m.If((nth == actions - 1) | (looked_up + 1 == self.count)):
                m.d.sync += looking.eq(0)
        with m.If(valids[2] & sides[2].last):
            m.d.sync += [looking.eq(1), nth.eq(0), first_action.eq(sides[2].turn * actions)]

        # Shift, clip, look up
        taken = data.StructLayout({"valid": 1, "action": range(g.action_size), "final": 1})
        stages = [Signal(taken, name=f"taken{stage}") for stage in range(1, 4)]
        m.d.sync += [
            stages[0].valid.eq(looking),
            stages[0].action.eq(looked_up),
            stages[0].final.eq(looked_up + 1 == self.count),
            stages[1].eq(stages[0]),
            stages[2].eq(stages[1]),
        ]
        total = Signal(wide, reset_less=True)
        m.d.sync += total.eq(chosen(totals, nth))
        m.d.comb += biases.rows[0].eq(looked_up)
        bias = biases.row_data[0][:32].as_signed()
        shift = biases.row_data[0][32:37]
        scaled = Signal(signed(g.head_bits + 1))
        half = 1 << (g.table_log2 - 1)
        entry = Signal(g.table_log2)
        m.d.comb += scaled.eq((total + bias) >> shift)
        if g.plasticity:
            m.d.comb += [
                self.post_valid.eq(stages[0].valid),
                self.post_action.eq(stages[0].action),
                self.post.eq(Mux(scaled < 0, -1, scaled != 0)),
            ]
        m.d.sync += entry.eq(
            Mux(scaled < -half, 0, Mux(scaled > half - 1, 2 * half - 1, (scaled + half)[: g.table_log2]))
        )
        m.d.comb += table.rows[0].eq(entry)
        m.d.sync += self.done.eq(stages[2].valid & stages[2].final)
        with m.If(stages[2].valid):
            m.d.sync += self.actions[stages[2].action].eq(table.row_data[0].as_signed())
        with m.If(self.clear):
            m.d.sync += self.actions.eq(0)
        return m
