# SPDX-License-Identifier: MIT
"""The accelerator: the decision core behind an AXI4-Lite register file."""

from amaranth.hdl import C, Cat, Module, Mux, ResetInserter, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

from hw.axi import AxiLite, AxiLiteSlave
from hw.core import DecisionCore
from hw.memory_map import memory_map
from hw.regfile import RegisterFile
from hw.registers import INTERFACE_VERSION, MAGIC, ROW_UNITS, UNITS, WINDOW_BYTES, field_mask, register_table
from model.deployed.geometry import Geometry


class Accelerator(wiring.Component):
    """A spike-driven decision transformer as a peripheral (docs/registers.md).

    Parameters
    ----------
    geometry : Geometry

    Members
    -------
    s_axil : AXI4-Lite, 32-bit data, 64 KB

    """

    ADDRESS_BITS = (WINDOW_BYTES - 1).bit_length()

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        super().__init__({"s_axil": In(AxiLite(self.ADDRESS_BITS))})

    def elaborate(self, platform):
        m = Module()
        g = self.geometry
        soft_reset = Signal()
        core = DecisionCore(g)
        m.submodules.core = ResetInserter(soft_reset)(core)
        m.submodules.slave = slave = AxiLiteSlave(self.ADDRESS_BITS)
        m.submodules.registers = registers = RegisterFile(register_table(g), memory_map(g))
        assert slave.READ_CYCLES == registers.READ_CYCLES
        wiring.connect(m, wiring.flipped(self.s_axil), slave.s_axil)
        wiring.connect(m, slave.access, registers.access)
        for name in memory_map(g):
            wiring.connect(m, getattr(registers, name), getattr(core, name))

        def control(field: str):
            return (registers.CONTROL & field_mask(g, "CONTROL", field)).any()

        # Start, repeat, finish
        started, done, repeats_left = Signal(32), Signal(32), Signal(32)
        running, again = Signal(), Signal()  # running: from START to DONE, repeats included
        begin = Signal()
        token = Signal(data.ArrayLayout(signed(g.input_bits), g.input_size))
        changing = self._plastic(m, core, registers, soft_reset) if g.plasticity else C(0)
        m.d.comb += [
            begin.eq((started != registers.START) & ~running),
            registers.busy.eq(begin | running | changing),
            core.start.eq(again),
        ]
        m.d.sync += again.eq(0)
        with m.If(begin):
            m.d.sync += [started.eq(registers.START), repeats_left.eq(registers.REPEAT), running.eq(1), again.eq(1)]
            for index in range(g.input_size):
                m.d.sync += token[index].eq(registers.INPUT[index // 4].word_select(index % 4, 8)[: g.input_bits])
        with m.If(core.done):
            with m.If(repeats_left == 0):
                m.d.sync += [running.eq(0), done.eq(started)]
            with m.Else():
                m.d.sync += [repeats_left.eq(repeats_left - 1), again.eq(1)]

        # Stop: on request, or when a decision takes too long; a cycle later, for the reset reaches the whole core
        overdue, expired = Signal(), Signal()
        m.d.comb += overdue.eq(running & ~soft_reset & (registers.WATCHDOG != 0) & (core.cycles >= registers.WATCHDOG))
        m.d.sync += [expired.eq(overdue), soft_reset.eq(control("SOFT_RESET") | overdue)]
        m.d.comb += [
            registers.STATUS.eq(
                Mux(expired, field_mask(g, "STATUS", "WATCHDOG"), 0)
                | Mux(control("NEW_EPISODE") & (running | changing), field_mask(g, "STATUS", "REFUSED"), 0)
            ),
        ]
        with m.If(soft_reset):
            m.d.sync += [running.eq(0), again.eq(0), started.eq(registers.START), done.eq(0)]

        # Running totals
        decisions, cycles = Signal(32), Signal(64)
        m.d.sync += [decisions.eq(decisions + core.done), cycles.eq(cycles + core.busy)]
        with m.If(soft_reset):
            m.d.sync += [decisions.eq(0), cycles.eq(0)]
        totals = (registers.TOTAL_DECISIONS, registers.TOTAL_CYCLES_LOW, registers.TOTAL_CYCLES_HIGH)
        for shown, value in zip(totals, (decisions, cycles[:32], cycles[32:]), strict=True):
            kept = Signal(32)
            with m.If(control("SNAPSHOT")):
                m.d.sync += kept.eq(value)
            m.d.comb += shown.eq(kept)

        # Registers to the core and back
        m.d.comb += [
            core.token.eq(token),
            core.new_episode.eq(control("NEW_EPISODE") & ~(running | changing)),
            core.input_count.eq(registers.INPUT_COUNT),
            core.action_count.eq(registers.ACTION_COUNT),
            core.entry_threshold.eq(registers.ENTRY_THRESHOLD),
            registers.MAGIC.eq(MAGIC),
            registers.VERSION.eq(INTERFACE_VERSION),
            registers.GEOMETRY_ID.eq(g.identifier),
            registers.DONE.eq(done),
            registers.TOKENS.eq(core.tokens),
            registers.CYCLES.eq(core.cycles),
            registers.SATURATIONS.eq(core.saturations),
            registers.STALLS.eq(core.stalls),
            Cat(registers.ACTION).eq(core.actions.as_value()),
            Cat(registers.SIGNATURE).eq(core.signatures.as_value()),
            Cat(registers.LAYER_ROWS).eq(core.layer_rows.as_value()),
        ]
        for index, unit in enumerate(UNITS):
            m.d.comb += getattr(registers, f"CYCLES_{unit}").eq(core.unit_cycles[index])
        for index, unit in enumerate(ROW_UNITS):
            m.d.comb += getattr(registers, f"ROWS_{unit}").eq(core.unit_rows[index])
        return m

    @staticmethod
    def _plastic(m: Module, core: DecisionCore, registers: RegisterFile, soft_reset: Signal) -> Signal:
        """Change the head's weights once per number in LEARN; return whether a change is under way."""
        asked, learned, changing, waiting = Signal(32), Signal(32), Signal(), Signal()
        m.d.comb += [
            core.learn.eq((asked != registers.LEARN) & ~waiting),
            core.factor.eq(registers.FACTOR.as_signed()),
            core.frozen.eq(registers.FROZEN),
            registers.LEARNED.eq(learned),
            changing.eq(core.learn | waiting),
        ]
        with m.If(core.learned):
            m.d.sync += [waiting.eq(0), learned.eq(asked)]
        with m.If(core.learn):
            m.d.sync += [waiting.eq(1), asked.eq(registers.LEARN)]
        with m.If(soft_reset):
            m.d.sync += [waiting.eq(0), asked.eq(registers.LEARN), learned.eq(0)]
        return changing
