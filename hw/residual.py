# SPDX-License-Identifier: MIT
"""The residual store: the membranes that the shortcuts carry from sub-block to sub-block."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from hw.memory import load_port
from hw.memory_map import level_bits, memory_map
from hw.passes import membrane_layout
from model.geometry import Geometry


class ResidualStore(wiring.Component):
    """Add to the membranes of a group, saturate, count and sign what is written (docs/numbers.md, "Residual").

    Embedding: `x[t] = sat(floor(sum / 2**shift) + bias)` for all t. Shortcut: `x[t] = sat(x[t] + (sum[t] << shift)
    + bias)`.

    Members
    -------
    i_valid : a group is written
    i_group : its number
    i_embed : the sums are the embedding's (one per channel, in step 0's place) and replace the membranes
    sums : signed, `sum_bits(geometry)` wide
    bias, level : per channel; level is the shift
    o : the new membranes, combinational
    clear : start of a decision, signature and count go to zero
    running_signature : running signature of all writes since
    saturations : membranes clipped since
    probe, busy : read-only word access while not busy

    """

    @staticmethod
    def sum_bits(g: Geometry) -> int:
        """Return the width of the sums: an accumulator's or the embedding's."""
        return max(g.accumulator_bits, g.embed_bits)

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        g = geometry
        from amaranth.lib import data

        super().__init__(
            {
                "i_valid": In(1),
                "i_group": In(range(g.groups)),
                "i_embed": In(1),
                "sums": In(membrane_layout(g, self.sum_bits(g))),
                "bias": In(data.ArrayLayout(signed(g.bias_bits), g.group)),
                "level": In(data.ArrayLayout(level_bits(g), g.group)),
                "o": Out(membrane_layout(g, g.membrane_bits)),
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
        low, high = -(1 << (g.membrane_bits - 1)), (1 << (g.membrane_bits - 1)) - 1

        m.submodules.store = store = memory.Memory(shape=membrane_layout(g, g.membrane_bits), depth=g.groups, init=[])
        read, write = store.read_port(domain="comb"), store.write_port()
        word_bits = (section.stride - 1).bit_length()
        m.d.comb += [
            read.addr.eq(Mux(self.busy, self.i_group, self.probe.address >> word_bits)),
            write.addr.eq(self.i_group),
            write.data.eq(self.o),
            write.en.eq(self.i_valid),
        ]

        clipped = Signal(g.group * g.steps)
        for c in range(g.group):
            embedded = Signal(signed(self.sum_bits(g)), name=f"embedded{c}")
            m.d.comb += embedded.eq(self.sums[c][0] >> self.level[c][: g.embed_shift_bits])
            for t in range(g.steps):
                shifted = self.sums[c][t][: g.accumulator_bits].as_signed() << self.level[c][: g.residual_shift_bits]
                added = Signal(signed(max(len(shifted), len(embedded), g.membrane_bits) + 2), name=f"added_{c}_{t}")
                m.d.comb += added.eq(
                    Mux(self.i_embed, embedded, shifted) + Mux(self.i_embed, 0, read.data[c][t]) + self.bias[c]
                )
                over, under = added > high, added < low
                m.d.comb += [
                    self.o[c][t].eq(Mux(over, high, Mux(under, low, added))),
                    clipped[c * g.steps + t].eq(over | under),
                ]

        # Sign and count one cycle later: nobody waits for it
        written = Signal(membrane_layout(g, g.membrane_bits), reset_less=True)
        clipped_written = Signal.like(clipped, reset_less=True)
        sign = Signal()
        m.d.sync += [sign.eq(self.i_valid), written.eq(self.o), clipped_written.eq(clipped)]
        folded = Signal(32)
        bits = written.as_value()
        pieces = [bits[start : start + 32] for start in range(0, len(bits), 32)]
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
        probed = Signal(membrane_layout(g, g.membrane_bits), reset_less=True)
        m.d.sync += word.eq(self.probe.address)
        with m.If(~self.busy):
            m.d.sync += probed.eq(read.data)
        with m.Switch(word):
            for index in range(section.words):
                with m.Case(index):
                    m.d.comb += self.probe.read_data.eq(Cat(probed.as_value()[32 * index : 32 * index + 32]))
        return m
