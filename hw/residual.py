# SPDX-License-Identifier: MIT
"""The residual store: the membranes that the shortcuts carry from sub-block to sub-block."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from hw.expressions import if_valid, saturated
from hw.memory import load_port
from hw.memory_map import level_bits, memory_map
from hw.passes import steps_layout
from model.deployed.geometry import Geometry


class ResidualStore(wiring.Component):
    """Add to the membranes of a group, saturate, count and sign what is written (docs/numbers.md, "Residual").

    Embedding: `x[t] = sat(floor(sum / 2**shift) + bias)` for all t. Shortcut: `x[t] = sat(x[t] + (sum[t] << shift)
    + bias)`.

    Members
    -------
    i_valid : a group is written
    i_group : its number
    i_embed : the membranes become the embedding's, not the shortcut's
    sums, embedded : what to add, what to become; per channel
    bias, level : per channel; level is the shift
    o : the new membranes, combinational
    clear : start of a decision, signature and count go to zero
    running_signature : running signature of all writes since
    saturations : membranes clipped since
    probe, busy : read-only word access while not busy

    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        g = geometry
        super().__init__(
            {
                "i_valid": In(1),
                "i_group": In(range(g.groups)),
                "i_embed": In(1),
                "sums": In(steps_layout(g, g.pass_bits)).array(g.group),
                "embedded": In(signed(g.embed_bits)).array(g.group),
                "bias": In(signed(g.bias_bits)).array(g.group),
                "level": In(level_bits(g)).array(g.group),
                "o": Out(steps_layout(g, g.membrane_bits)).array(g.group),
                "clear": In(1),
                "running_signature": Out(32),
                "saturations": Out(32),
                "probe": In(load_port(memory_map(g)["residual"])),
                "busy": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        g = self.geometry
        section = memory_map(g)["residual"]

        m.submodules.store = store = memory.Memory(
            shape=data.ArrayLayout(steps_layout(g, g.membrane_bits), g.group), depth=g.groups, init=[]
        )
        read, write = store.read_port(domain="comb"), store.write_port()
        word_bits = (section.stride - 1).bit_length()
        m.d.comb += [
            read.addr.eq(Mux(self.busy, self.i_group, self.probe.address >> word_bits)),
            write.addr.eq(self.i_group),
            write.data.eq(Cat(self.o)),
            write.en.eq(self.i_valid),
        ]

        clipped = Signal(g.group * g.steps)
        for c in range(g.group):
            shifted = self.embedded[c] >> self.level[c][: g.embed_shift_bits]
            becoming = if_valid(m, self.i_valid & self.i_embed, shifted + self.bias[c], f"becoming{c}")
            embedded, embedded_clips = saturated(becoming, g.membrane_bits)
            for t in range(g.steps):
                shifted = self.sums[c][t] << self.level[c][: g.residual_shift_bits]
                kept = read.data[c][t] + self.bias[c]
                value, clips = saturated(if_valid(m, self.i_valid, shifted + kept, f"added_{c}_{t}"), g.membrane_bits)
                m.d.comb += [
                    self.o[c][t].eq(if_valid(m, self.i_valid, Mux(self.i_embed, embedded, value), f"next_{c}_{t}")),
                    clipped[c * g.steps + t].eq(Mux(self.i_embed, embedded_clips, clips)),
                ]

        # Sign and count one cycle later: nobody waits for it
        written = Signal(section.row_bits, reset_less=True)
        clipped_written = Signal.like(clipped, reset_less=True)
        sign = Signal()
        m.d.sync += sign.eq(self.i_valid)
        with m.If(self.i_valid):
            m.d.sync += [written.eq(Cat(self.o)), clipped_written.eq(clipped)]
        folded = Signal(32)
        pieces = [written[start : start + 32] for start in range(0, len(written), 32)]
        fold = pieces[0]
        for piece in pieces[1:]:
            fold = fold ^ piece
        m.d.comb += folded.eq(fold)
        with m.If(sign):
            m.d.sync += [
                self.running_signature.eq(self.running_signature.rotate_left(1) ^ folded),
                self.saturations.eq(self.saturations + sum(clipped_written)),
            ]
        with m.If(self.clear):
            m.d.sync += [self.running_signature.eq(0), self.saturations.eq(0)]

        # Probe
        word = Signal(range(section.stride))
        probed = Signal(section.row_bits, reset_less=True)
        m.d.sync += word.eq(self.probe.address)
        with m.If(~self.busy):
            m.d.sync += probed.eq(read.data)
        with m.Switch(word):
            for index in range(section.words):
                with m.Case(index):
                    m.d.comb += self.probe.read_data.eq(probed[32 * index : 32 * index + 32])
        return m
