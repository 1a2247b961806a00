# SPDX-License-Identifier: MIT
"""Counters of one decision: where its cycles went and how many weight rows were active."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.passes import UNIT_OF, Kind
from hw.registers import ROW_UNITS, UNITS
from hw.walker import fetch_layout
from model.deployed.geometry import Geometry


class DecisionCounters(wiring.Component):
    """Count while a decision runs; hold afterwards.

    Members
    -------
    clear : start of a decision
    running : a cycle of the decision
    embedding : no pass has begun yet, or the first one waits for the embedding's next group
    finishing : all passes have been fetched: the cycle belongs to the head
    kind : the pass the front of the pipeline works on, or waits for
    waiting : the row walker has nothing open
    fetch, fetch_valid : the row walker's fetches
    cycles, stalls, unit_cycles, unit_rows, layer_rows : the counts

    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        super().__init__(
            {
                "clear": In(1),
                "running": In(1),
                "embedding": In(1),
                "finishing": In(1),
                "kind": In(Kind),
                "waiting": In(1),
                "fetch": In(fetch_layout(geometry)),
                "fetch_valid": In(1),
                "cycles": Out(32),
                "stalls": Out(32),
                "unit_cycles": Out(data.ArrayLayout(32, len(UNITS))),
                "unit_rows": Out(data.ArrayLayout(32, len(ROW_UNITS))),
                "layer_rows": Out(data.ArrayLayout(32, geometry.layers)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        g = self.geometry

        unit = Signal(range(len(UNITS)))
        with m.If(self.embedding):
            m.d.comb += unit.eq(UNITS.index("EMBED"))
        with m.Elif(self.finishing):
            m.d.comb += unit.eq(UNITS.index("HEAD"))
        with m.Elif(self.waiting & (self.kind == Kind.PROJ)):
            m.d.comb += unit.eq(UNITS.index("WINDOW"))
        with m.Else():
            with m.Switch(self.kind):
                for kind, name in UNIT_OF.items():
                    with m.Case(kind):
                        m.d.comb += unit.eq(UNITS.index(name))
        with m.If(self.running):
            m.d.sync += self.cycles.eq(self.cycles + 1)
            for index in range(len(UNITS)):
                with m.If(unit == index):
                    m.d.sync += self.unit_cycles[index].eq(self.unit_cycles[index] + 1)
            with m.If(self.waiting & ~self.embedding & ~self.finishing):
                m.d.sync += self.stalls.eq(self.stalls + 1)

        rows = Signal(range(g.rows_per_cycle + 1))
        m.d.comb += rows.eq(sum(self.fetch.slots[port].valid for port in range(g.rows_per_cycle)))
        with m.If(self.fetch_valid):
            for layer in range(g.layers):
                with m.If(self.fetch.info.layer == layer):
                    m.d.sync += self.layer_rows[layer].eq(self.layer_rows[layer] + rows)
            with m.Switch(self.fetch.info.kind):
                for index, name in enumerate(ROW_UNITS):
                    kinds = [kind for kind, unit_name in UNIT_OF.items() if unit_name == name]
                    with m.Case(*kinds):
                        m.d.sync += self.unit_rows[index].eq(self.unit_rows[index] + rows)
        with m.If(self.clear):
            m.d.sync += [
                self.cycles.eq(0),
                self.stalls.eq(0),
                self.unit_cycles.eq(0),
                self.unit_rows.eq(0),
                self.layer_rows.eq(0),
            ]
        return m
