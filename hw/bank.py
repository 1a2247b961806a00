# SPDX-License-Identifier: MIT
"""The threshold/LIF bank: turns a group of sums into a group of spikes, every pass through one set of neurons."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.expressions import if_valid
from hw.lif import LifNeuron
from hw.memory import PolicyMemory, load_port
from hw.memory_map import channel_bits, level_bits, memory_map
from hw.passes import Kind, pass_layout, spikes_layout, steps_layout
from model.deployed.geometry import Geometry


class NeuronBank(wiring.Component):
    """Add a channel's bias, or take its residual membrane, and run its neuron.

    The batch norms are folded into bias and threshold (`channels` section). Spiking passes and the window fire on
    sum + bias, embedding and shortcuts on the new residual membrane, with the threshold of a block's entry.

    Members
    -------
    i_valid, i_group, i_last, i_info : sums of a group come in the next cycle
    i : these sums, a cycle after `i_valid`
    i_embed : in an EMBED pass, the embedding's sums instead
    residual_* : port of the residual store
    entry_threshold : threshold of neurons on a residual membrane
    channels, busy : policy loading
    o_valid, o_group, o_last, o_info, o : spikes of the group, `latency` cycles later
    membrane_valid, membrane_group, membrane : a decision's last membranes, for the head

    """

    @staticmethod
    def latency(g: Geometry) -> int:
        """Return the cycles from `i_valid` to spikes: parameters, current, neuron."""
        return 2 + LifNeuron.latency(g)

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        g = geometry
        info = pass_layout(g)
        super().__init__(
            {
                "i_valid": In(1),
                "i_group": In(range(g.groups)),
                "i_last": In(1),
                "i_info": In(info),
                "i": In(steps_layout(g, g.accumulator_bits)).array(g.group),
                "i_embed": In(signed(g.embed_bits)).array(g.group),
                "residual_valid": Out(1),
                "residual_group": Out(range(g.groups)),
                "residual_last": Out(1),
                "residual_embed": Out(1),
                "residual_sums": Out(steps_layout(g, g.pass_bits)).array(g.group),
                "residual_embedded": Out(signed(g.embed_bits)).array(g.group),
                "residual_bias": Out(signed(g.bias_bits)).array(g.group),
                "residual_level": Out(level_bits(g)).array(g.group),
                "residual": In(steps_layout(g, g.membrane_bits)).array(g.group),
                "entry_threshold": In(g.membrane_bits - 1),
                "channels": In(load_port(memory_map(g)["channels"])),
                "busy": In(1),
                "o_valid": Out(1),
                "o_group": Out(range(g.groups)),
                "o_last": Out(1),
                "o_info": Out(info),
                "o": Out(spikes_layout(g, g.group)),
                "membrane_valid": Out(1),
                "membrane_group": Out(range(g.groups)),
                "membrane": Out(steps_layout(g, g.membrane_bits)).array(g.group),
            }
        )

    def elaborate(self, platform):
        m = Module()
        g = self.geometry
        side = data.StructLayout({"group": range(g.groups), "last": 1, "info": pass_layout(g)})

        # Look the channel parameters up
        m.submodules.channels = channels = PolicyMemory(memory_map(g)["channels"])
        wiring.connect(m, wiring.flipped(self.channels), channels.load)
        m.d.comb += [
            channels.busy.eq(self.busy),
            channels.rows[0].eq(self.i_info.number * g.groups + self.i_group),
            channels.enable.eq(self.i_valid),
        ]
        valid1, side1 = Signal(), Signal(side, reset_less=True)
        m.d.sync += [valid1.eq(self.i_valid)]
        with m.If(self.i_valid):
            m.d.sync += [
                side1.group.eq(self.i_group),
                side1.last.eq(self.i_last),
                side1.info.eq(self.i_info),
            ]
        parameter = data.StructLayout({"bias": signed(g.bias_bits), "level": level_bits(g)})
        assert parameter.size == channel_bits(g)
        parameters = data.View(data.ArrayLayout(parameter, g.group), channels.row_data[0])

        # Compute the neurons' currents
        kind = side1.info.kind
        embed = kind == Kind.EMBED
        on_residual = Signal()
        m.d.comb += [
            on_residual.eq(embed | (kind == Kind.PROJ) | (kind == Kind.FC2)),
            self.residual_valid.eq(valid1 & on_residual),
            self.residual_group.eq(side1.group),
            self.residual_last.eq(side1.last),
            self.residual_embed.eq(embed),
        ]
        currents = [
            Signal(steps_layout(g, g.current_bits), name=f"currents{c}", reset_less=True) for c in range(g.group)
        ]
        neurons = [LifNeuron(g) for _ in range(g.group)]
        thresholds = [Signal(neurons[0].threshold_bits, name=f"threshold{c}", reset_less=True) for c in range(g.group)]
        valid2, side2 = Signal(), Signal(side, reset_less=True)
        m.d.sync += valid2.eq(valid1)
        for c in range(g.group):
            sums = [if_valid(m, valid1, self.i[c][t], f"sum{c}_{t}") for t in range(g.steps)]
            m.d.comb += [
                *(self.residual_sums[c][t].eq(sums[t]) for t in range(g.steps)),
                self.residual_embedded[c].eq(self.i_embed[c]),
                self.residual_bias[c].eq(parameters[c].bias),
                self.residual_level[c].eq(parameters[c].level),
            ]
            with m.If(valid1):
                m.d.sync += thresholds[c].eq(Mux(on_residual, self.entry_threshold, parameters[c].level))
            for t in range(g.steps):
                with m.If(valid1):
                    m.d.sync += currents[c][t].eq(Mux(on_residual, self.residual[c][t], sums[t] + parameters[c].bias))
        with m.If(valid1):
            m.d.sync += side2.eq(side1)
        m.d.comb += [
            self.membrane_valid.eq(valid2 & (side2.info.kind == Kind.FC2) & side2.info.final),
            self.membrane_group.eq(side2.group),
        ]
        for c in range(g.group):
            for t in range(g.steps):
                m.d.comb += self.membrane[c][t].eq(currents[c][t])

        # Run the neurons
        valid, tag, stages = valid2, side2, []
        for stage in range(LifNeuron.latency(g)):
            valid_next, tag_next = (
                Signal(name=f"valid{3 + stage}"),
                Signal(side, name=f"side{3 + stage}", reset_less=True),
            )
            stages.append(valid)
            m.d.sync += [valid_next.eq(valid), tag_next.eq(tag)]
            valid, tag = valid_next, tag_next
        for c, neuron in enumerate(neurons):
            m.submodules[f"neuron{c}"] = neuron
            m.d.comb += [
                neuron.valid.eq(Cat(stages)),
                neuron.currents.eq(currents[c]),
                neuron.threshold.eq(thresholds[c]),
                self.o[c].eq(neuron.spikes),
            ]
        m.d.comb += [
            self.o_valid.eq(valid),
            self.o_group.eq(tag.group),
            self.o_last.eq(tag.last),
            self.o_info.eq(tag.info),
        ]
        return m
