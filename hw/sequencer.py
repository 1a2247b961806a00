# SPDX-License-Identifier: MIT
"""The sequencer: which pass comes next, and the spikes it walks over as soon as they are there."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.memory_map import passes
from hw.passes import Kind, pass_layout, spikes_layout
from hw.walker import group_layout
from model.deployed.geometry import Geometry


class Sequencer(wiring.Component):
    """Feed the row walker with the groups of spikes of every pass of a decision, in order.

    Spikes come from the neuron bank a group at a time and lie in one memory: entry, attention output, MLP hidden. A
    group is passed on once it is written, so a pass starts behind the drain of the pass it depends on.

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
        attention_base, hidden_base = g.groups, 2 * g.groups
        last_projection = Kind[g.projections[-1].upper()]

        # Keep spikes, count what is there
        m.submodules.spikes = spikes = memory.Memory(
            shape=spikes_layout(g, g.group), depth=hidden_base + hidden_groups, init=[]
        )
        write, read = spikes.write_port(), spikes.read_port(domain="comb")
        entry_count = Signal(range(g.groups + 1))
        attention_count = Signal(range(g.groups + 1))
        hidden_count = Signal(range(hidden_groups + 1))
        m.d.comb += write.data.eq(self.i)
        with m.If(self.i_valid):
            with m.Switch(self.i_info.kind):
                with m.Case(Kind.EMBED, Kind.PROJ, Kind.FC2):
                    m.d.comb += [write.en.eq(1), write.addr.eq(self.i_group)]
                    m.d.sync += entry_count.eq(entry_count + 1)
                with m.Case(Kind.WINDOW):
                    m.d.comb += [write.en.eq(1), write.addr.eq(attention_base + self.i_group)]
                    m.d.sync += attention_count.eq(attention_count + 1)
                with m.Case(Kind.FC1):
                    m.d.comb += [
                        write.en.eq(1),
                        write.addr.eq(hidden_base + self.i_info.part * g.groups + self.i_group),
                    ]
                    m.d.sync += hidden_count.eq(hidden_count + 1)

        # The pass in turn: what it reads, how much of it, whether the next group is there
        running = Signal()
        layer = Signal(range(g.layers))
        step = Signal(range(g.passes_per_layer))
        number = Signal(range(1 + g.layers * g.passes_per_layer))
        group = Signal(range(hidden_groups))
        row = Signal(range(g.weight_rows + 1))
        kind, part = Signal(Kind), Signal(range(g.mlp_ratio))
        available, last_group = Signal(), Signal()
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
        m.d.comb += last_group.eq(group == g.groups - 1)
        with m.Switch(kind):
            with m.Case(Kind.VALUE):
                m.d.comb += [available.eq(self.window_ready), read.addr.eq(group)]
            with m.Case(Kind.PROJ):
                m.d.comb += [available.eq(group < attention_count), read.addr.eq(attention_base + group)]
            with m.Case(Kind.FC2):
                m.d.comb += [
                    available.eq(group < hidden_count),
                    read.addr.eq(hidden_base + group),
                    last_group.eq(group == hidden_groups - 1),
                ]
            with m.Default():
                m.d.comb += [available.eq(group < entry_count), read.addr.eq(group)]

        payload = self.groups.p
        m.d.comb += [
            self.groups.valid.eq(running & available),
            payload.spikes.eq(read.data),
            payload.row.eq(row),
            payload.last.eq(last_group),
            payload.info.kind.eq(kind),
            payload.info.layer.eq(layer),
            payload.info.part.eq(part),
            payload.info.number.eq(number),
            payload.info.final.eq((layer == g.layers - 1) & (step == len(order) - 1)),
            self.info.eq(payload.info),
        ]

        with m.If(self.groups.valid & self.groups.ready):
            m.d.sync += [
                self.started.eq(1),
                group.eq(group + 1),
                row.eq(row + g.group),
            ]
            # a pass that refills a region starts after the last reader of the old spikes was fed
            with m.If(group == 0):
                with m.Switch(kind):
                    with m.Case(last_projection):
                        m.d.sync += attention_count.eq(0)
                    with m.Case(Kind.PROJ, Kind.FC2):
                        m.d.sync += entry_count.eq(0)
                    with m.Case(Kind.FC1):
                        with m.If(part == 0):
                            m.d.sync += hidden_count.eq(0)
            with m.If(last_group):
                # the window's channel parameters lie between those of the last projection and proj
                m.d.sync += [group.eq(0), step.eq(step + 1), number.eq(number + Mux(kind == last_projection, 2, 1))]
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
                group.eq(0),
                row.eq(0),
                number.eq(1),
                entry_count.eq(0),
                attention_count.eq(0),
                hidden_count.eq(0),
            ]
        return m
