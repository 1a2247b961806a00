# SPDX-License-Identifier: MIT
"""The sequencer: which pass comes next, and lists of the spikes it walks over, as soon as they are there."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.memory_map import passes
from hw.passes import Kind, pass_layout, spikes_layout
from hw.walker import group_layout
from model.deployed.geometry import Geometry


class Sequencer(wiring.Component):
    """Feed the row walker with the groups of spikes of every pass of a decision, in order.

    Spikes come from the neuron bank a group at a time and are appended to one of three lists: entry, attention output,
    MLP hidden. A group in which nothing spikes is left out, unless it is the list's last, which ends the pass. Lists
    are read as often as passes need them, each group from the cycle in which it arrives, so that a pass starts behind
    the drain of the pass it depends on.

    Parameters
    ----------
    geometry : Geometry

    Members
    -------
    start : begin a decision
    window_ready : the window unit is ready for this layer's values
    i_valid, i_group, i_info, i : spikes from the neuron bank
    groups : stream to the row walker
    started : some group of this decision was passed on
    exhausted : all groups of this decision were passed on
    info : the pass whose group is next

    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        g = geometry
        super().__init__(
            {
                "start": In(1),
                "window_ready": In(1),
                "i_valid": In(1),
                "i_group": In(range(g.groups)),
                "i_info": In(pass_layout(g)),
                "i": In(spikes_layout(g, g.group)),
                "groups": Out(stream.Signature(group_layout(g))),
                "started": Out(1),
                "exhausted": Out(1),
                "info": Out(pass_layout(g)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        g = self.geometry
        hidden_groups = g.groups * g.mlp_ratio
        last_projection = Kind[g.projections[-1].upper()]

        # Append what spikes to its list
        entry_base, attention_base, hidden_base = 0, g.groups, 2 * g.groups
        item = data.StructLayout({"spikes": spikes_layout(g, g.group), "offset": range(g.d_mlp), "last": 1})
        m.submodules.lists = lists = memory.Memory(shape=item, depth=hidden_base + hidden_groups, init=[])
        write, read = lists.write_port(), lists.read_port(domain="comb")
        entries, attended = Signal(range(g.groups + 1)), Signal(range(g.groups + 1))
        hidden = Signal(range(hidden_groups + 1))
        last_of_pass = Signal()
        m.d.comb += [
            last_of_pass.eq(self.i_group == g.groups - 1),
            write.data.spikes.eq(self.i),
            write.data.offset.eq(self.i_group * g.group),
            write.data.last.eq(last_of_pass),
        ]
        to_entries, to_attended, to_hidden = Signal(), Signal(), Signal()
        with m.Switch(self.i_info.kind):
            with m.Case(Kind.EMBED, Kind.PROJ, Kind.FC2):
                m.d.comb += [to_entries.eq(1), write.addr.eq(entry_base + entries)]
            with m.Case(Kind.WINDOW):
                m.d.comb += [to_attended.eq(1), write.addr.eq(attention_base + attended)]
            with m.Case(Kind.FC1):
                m.d.comb += [
                    to_hidden.eq(1),
                    write.addr.eq(hidden_base + hidden),
                    write.data.offset.eq((self.i_info.part * g.groups + self.i_group) * g.group),
                    write.data.last.eq(last_of_pass & (self.i_info.part == g.mlp_ratio - 1)),
                ]
        m.d.comb += write.en.eq(
            self.i_valid & (to_entries | to_attended | to_hidden) & (self.i.as_value().any() | write.data.last)
        )
        for chosen, count in ((to_entries, entries), (to_attended, attended), (to_hidden, hidden)):
            with m.If(write.en & chosen):
                m.d.sync += count.eq(count + 1)

        # The pass in turn: which list it reads, and whether the next of it is there
        running = Signal()
        layer = Signal(range(g.layers))
        step = Signal(range(g.passes_per_layer))
        number = Signal(range(1 + g.layers * g.passes_per_layer))
        position = Signal(range(hidden_groups))
        base = Signal(range(g.weight_rows + 1))  # weight row of the pass's first input
        kind, part = Signal(Kind), Signal(range(g.mlp_ratio))
        order = []
        for name in passes(g):
            if name == "window":
                continue
            repeat = g.mlp_ratio if name == "fc1" else 1
            order += [(Kind[name.upper()], index) for index in range(repeat)]
        assert len(order) == g.passes_per_layer - 1  # the window's runs beside the lane array
        with m.Switch(step):
            for index, (pass_kind, pass_part) in enumerate(order):
                with m.Case(index):
                    m.d.comb += [kind.eq(pass_kind), part.eq(pass_part)]
        stored, arriving = Signal(), Signal()
        with m.Switch(kind):
            with m.Case(Kind.PROJ):
                m.d.comb += [
                    stored.eq(position < attended),
                    arriving.eq(write.en & to_attended),
                    read.addr.eq(attention_base + position),
                ]
            with m.Case(Kind.FC2):
                m.d.comb += [
                    stored.eq(position < hidden),
                    arriving.eq(write.en & to_hidden),
                    read.addr.eq(hidden_base + position),
                ]
            with m.Default():
                m.d.comb += [
                    stored.eq(position < entries),
                    arriving.eq(write.en & to_entries),
                    read.addr.eq(entry_base + position),
                ]
        following = Signal(item)
        m.d.comb += following.eq(Mux(stored, read.data, write.data))

        payload = self.groups.p
        # all that is not stored yet arrives in order, so what arrives is what is next
        m.d.comb += [
            self.groups.valid.eq(
                running & (stored | arriving) & ((kind != Kind.VALUE) | self.window_ready | (position != 0))
            ),
            payload.spikes.eq(following.spikes),
            payload.row.eq(base + following.offset),
            payload.last.eq(following.last),
            payload.info.kind.eq(kind),
            payload.info.layer.eq(layer),
            payload.info.part.eq(part),
            payload.info.number.eq(number),
            payload.info.final.eq((layer == g.layers - 1) & (step == len(order) - 1)),
            self.info.eq(payload.info),
        ]

        with m.If(self.groups.valid & self.groups.ready):
            m.d.sync += [self.started.eq(1), position.eq(position + 1)]
            # a pass that refills a list starts after the last reader of the old spikes was fed
            with m.If(position == 0):
                with m.Switch(kind):
                    with m.Case(last_projection):
                        m.d.sync += attended.eq(0)
                    with m.Case(Kind.PROJ, Kind.FC2):
                        m.d.sync += entries.eq(0)
                    with m.Case(Kind.FC1):
                        with m.If(part == 0):
                            m.d.sync += hidden.eq(0)
            with m.If(following.last):
                # the window's channel parameters lie between those of the last projection and proj
                m.d.sync += [
                    position.eq(0),
                    step.eq(step + 1),
                    number.eq(number + Mux(kind == last_projection, 2, 1)),
                    base.eq(base + Mux(kind == Kind.FC2, g.d_mlp, g.d_model)),
                ]
                with m.If(step == len(order) - 1):
                    m.d.sync += [step.eq(0), layer.eq(layer + 1)]
                    with m.If(layer == g.layers - 1):
                        m.d.sync += [running.eq(0), self.exhausted.eq(1)]
        with m.If(self.start):
            m.d.sync += [
                running.eq(1),
                self.started.eq(0),
                self.exhausted.eq(0),
                layer.eq(0),
                step.eq(0),
                position.eq(0),
                base.eq(0),
                number.eq(1),
                entries.eq(0),
                attended.eq(0),
                hidden.eq(0),
            ]
        return m
