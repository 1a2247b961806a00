# SPDX-License-Identifier: MIT
"""The decision core: one token in, through all layers, one action out."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.bank import NeuronBank
from hw.counters import DecisionCounters
from hw.dynamics import LrfDynamics
from hw.embed import Embedding
from hw.gate import StepGate
from hw.head import Head
from hw.lanes import LaneArray
from hw.match import MatchWindow
from hw.memory import load_port
from hw.memory_map import attention_sections, memory_map
from hw.passes import Kind
from hw.phase import PhaseGate
from hw.plasticity import HeadPlasticity
from hw.registers import ROW_UNITS, UNITS
from hw.residual import ResidualStore
from hw.sequencer import Sequencer
from hw.walker import RowWalker
from hw.window import PssaWindow
from model.deployed.geometry import Geometry

ATTENTIONS = {
    "pssa": lambda g: PssaWindow(g, NeuronBank.latency(g)),
    "sssa": MatchWindow,
    "tssa": MatchWindow,
    "lrf-dyn": lambda g: LrfDynamics(g, NeuronBank.latency(g)),
}
"""How to make the unit of each `Geometry.attention` that has a circuit."""


class DecisionCore(wiring.Component):
    """Compute a decision per `start` (docs/architecture.md).

    Members
    -------
    start : begin; honoured while not busy
    busy : from the cycle after `start` until `done`
    done : one cycle, after the last action was written
    new_episode : forget the tokens of the window; honoured while not busy
    token, input_count, action_count, entry_threshold : hold while busy
    actions, signatures, saturations, tokens, cycles, stalls, unit_cycles, unit_rows, layer_rows : results, hold until
        the next start
    learn, factor, frozen, learning, learned : with plasticity alone, as in `HeadPlasticity`
    <section> : word access to each memory of `hw.memory_map`, while not busy

    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        g = geometry
        super().__init__(
            {
                "start": In(1),
                "busy": Out(1),
                "done": Out(1),
                "new_episode": In(1),
                "token": In(data.ArrayLayout(signed(g.input_bits), g.input_size)),
                "input_count": In(range(g.input_size + 1)),
                "action_count": In(range(g.action_size + 1)),
                "entry_threshold": In(g.membrane_bits - 1),
                "actions": Out(data.ArrayLayout(signed(16), g.action_size)),
                "signatures": Out(data.ArrayLayout(32, g.signatures)),
                "saturations": Out(32),
                "tokens": Out(range(g.reach + 2)),
                "cycles": Out(32),
                "stalls": Out(32),
                "unit_cycles": Out(data.ArrayLayout(32, len(UNITS))),
                "unit_rows": Out(data.ArrayLayout(32, len(ROW_UNITS))),
                "layer_rows": Out(data.ArrayLayout(32, g.layers)),
            }
            | (
                {
                    "learn": In(1),
                    "factor": In(signed(g.plasticity.factor_bits)),
                    "frozen": In(1),
                    "learning": Out(1),
                    "learned": Out(1),
                }
                if g.plasticity
                else {}
            )
            | {name: In(load_port(section)) for name, section in memory_map(g).items()}
        )

    def elaborate(self, platform):
        m = Module()
        g = self.geometry
        # accumulators drain a group a cycle; keys and queries must be stored before the next drain reads them
        drain_cycles = max(g.groups, NeuronBank.latency(g) + 1)
        m.submodules.sequencer = sequencer = Sequencer(g)
        m.submodules.walker = walker = RowWalker(g, drain_cycles)
        m.submodules.lanes = lanes = LaneArray(g)
        m.submodules.window = window = ATTENTIONS[g.attention](g)
        m.submodules.bank = bank = NeuronBank(g)
        m.submodules.residual = residual = ResidualStore(g)
        m.submodules.embed = embed = Embedding(g)
        m.submodules.head = head = Head(g)
        m.submodules.counters = counters = DecisionCounters(g)

        # Control
        begin, decided = Signal(), Signal()
        settled = self._plastic(m, begin, bank, head) if g.plasticity else 1
        m.d.comb += [
            begin.eq(self.start & ~self.busy),
            self.done.eq((head.done | decided) & window.settled & settled),
        ]
        with m.If(head.done):
            m.d.sync += decided.eq(1)
        with m.If(begin):
            m.d.sync += self.busy.eq(1)
        with m.Elif(self.done):
            m.d.sync += [self.busy.eq(0), decided.eq(0)]
        m.d.comb += [
            sequencer.start.eq(begin),
            embed.start.eq(begin),
            lanes.clear.eq(begin),
            residual.clear.eq(begin),
            head.clear.eq(begin),
            counters.clear.eq(begin),
            window.start.eq(begin),
            window.advance.eq(self.done),
            window.new_episode.eq(self.new_episode & ~self.busy),
            self.tokens.eq(window.tokens),
        ]

        # Step gates, and phase codes before attention, stand behind the bank where there are any
        spikes = self._gated(m, bank) if g.adaptive else bank.o
        attention_spikes, coded = spikes, []
        if g.phase == "query":
            m.submodules.phase = phase = PhaseGate(g)
            m.d.comb += [
                phase.new_episode.eq(window.new_episode),
                phase.advance.eq(self.done),
                phase.entering.eq(bank.i_valid),
                phase.entering_info.eq(bank.i_info),
                phase.i_group.eq(bank.o_group),
                phase.i_info.eq(bank.o_info),
                phase.i.eq(spikes),
            ]
            attention_spikes, coded = phase.o, [(self.phase, phase, phase.phase)]

        # Policy memories
        for port, unit, inner in (
            *coded,
            (self.weights, lanes, lanes.load),
            (self.channels, bank, bank.channels),
            (self.embed, embed, embed.load),
            (self.head, head, head.load_weights),
            (self.head_bias, head, head.load_bias),
            (self.table, head, head.load_table),
            (self.residual, residual, residual.probe),
            *((getattr(self, name), window, getattr(window, name)) for name in attention_sections(g)),
        ):
            wiring.connect(m, wiring.flipped(port), inner)
            m.d.comb += unit.busy.eq(self.busy | (self.learning if g.plasticity and unit is head else 0))

        last_projection = Kind[g.projections[-1].upper()]

        # Spikes in a circle: sequencer, walker, lanes, bank, and back
        wiring.connect(m, sequencer.groups, walker.groups)
        m.d.comb += [
            lanes.fetch.eq(walker.fetch),
            lanes.fetch_valid.eq(walker.fetch_valid),
            sequencer.window_ready.eq(window.ready),
            window.drained.eq(lanes.o_valid & lanes.o_last & (lanes.o_info.kind == last_projection)),
        ]
        # what comes into the bank is announced a cycle before, so that it looks its parameters up meanwhile
        attended = Signal()
        currents = [
            Signal.like(of_channel, name=f"currents{c}", reset_less=True) for c, of_channel in enumerate(window.o)
        ]
        m.d.sync += attended.eq(window.o_valid)
        with m.If(window.o_valid):
            m.d.sync += [held.eq(now) for held, now in zip(currents, window.o, strict=True)]
        with m.If(embed.o_valid):
            m.d.comb += [
                bank.i_group.eq(embed.o_group),
                bank.i_last.eq(embed.o_last),
                bank.i_info.kind.eq(Kind.EMBED),
            ]
        with m.Elif(window.o_valid):
            m.d.comb += [
                bank.i_group.eq(window.o_group),
                bank.i_last.eq(window.o_last),
                bank.i_info.eq(window.o_info),
            ]
        with m.Else():
            m.d.comb += [
                bank.i_group.eq(lanes.o_group),
                bank.i_last.eq(lanes.o_last),
                bank.i_info.eq(lanes.o_info),
            ]
        for c in range(g.group):
            for t in range(g.steps):
                m.d.comb += bank.i[c][t].eq(Mux(attended, currents[c][t], lanes.o[c][t]))
        m.d.comb += [
            bank.i_valid.eq(embed.o_valid | window.o_valid | lanes.o_valid),
            bank.entry_threshold.eq(self.entry_threshold),
            residual.i_valid.eq(bank.residual_valid),
            residual.i_group.eq(bank.residual_group),
            residual.i_embed.eq(bank.residual_embed),
        ]
        for c in range(g.group):
            m.d.comb += [
                bank.i_embed[c].eq(embed.o[c]),
                residual.sums[c].eq(bank.residual_sums[c]),
                residual.embedded[c].eq(bank.residual_embedded[c]),
                residual.bias[c].eq(bank.residual_bias[c]),
                residual.level[c].eq(bank.residual_level[c]),
                bank.residual[c].eq(residual.o[c]),
                head.i[c].eq(bank.membrane[c]),
            ]
        for unit, seen in ((sequencer, spikes), (window, attention_spikes)):
            m.d.comb += [
                unit.i_valid.eq(bank.o_valid),
                unit.i_group.eq(bank.o_group),
                unit.i_info.eq(bank.o_info),
                unit.i.eq(seen),
            ]

        # Embedding and head
        m.d.comb += [
            embed.token.eq(self.token),
            embed.count.eq(self.input_count),
            head.i_valid.eq(bank.membrane_valid),
            head.i_group.eq(bank.membrane_group),
            head.count.eq(self.action_count),
            self.actions.eq(head.actions),
        ]

        # Signatures: the store's is complete two cycles after a pass's last write
        number = Signal(range(g.signatures))
        written, complete = Signal(), Signal()
        m.d.sync += [written.eq(bank.residual_valid & bank.residual_last), complete.eq(written)]
        with m.If(complete):
            m.d.sync += number.eq(number + 1)
            with m.Switch(number):
                for index in range(g.signatures):
                    with m.Case(index):
                        m.d.sync += self.signatures[index].eq(residual.running_signature)
        with m.If(begin):
            m.d.sync += number.eq(0)

        # Counters
        embedding = Signal()
        with m.If(embed.o_valid & embed.o_last):
            m.d.sync += embedding.eq(0)
        with m.If(begin):
            m.d.sync += embedding.eq(1)
        m.d.comb += [
            counters.running.eq(self.busy),
            counters.embedding.eq(~sequencer.started | (embedding & walker.idle)),
            counters.finishing.eq(sequencer.exhausted & walker.idle),
            counters.kind.eq(sequencer.info.kind),
            counters.waiting.eq(walker.idle),
            counters.fetch.eq(walker.fetch),
            counters.fetch_valid.eq(walker.fetch_valid),
            self.saturations.eq(residual.saturations + window.saturations),
            self.cycles.eq(counters.cycles),
            self.stalls.eq(counters.stalls),
            self.unit_cycles.eq(counters.unit_cycles),
            self.unit_rows.eq(counters.unit_rows),
            self.layer_rows.eq(counters.layer_rows),
        ]
        with m.If(~walker.idle):
            m.d.comb += counters.kind.eq(walker.kind)
        return m

    def _gated(self, m: Module, bank: NeuronBank):
        """Return the bank's spikes in the live steps, as the step gate chooses them."""
        m.submodules.gate = gate = StepGate(self.geometry)
        wiring.connect(m, wiring.flipped(self.gates), gate.gates)
        m.d.comb += [
            gate.busy.eq(self.busy),
            gate.i_valid.eq(bank.i_valid),
            gate.i_group.eq(bank.i_group),
            gate.i_info.eq(bank.i_info),
        ]
        spikes = Signal.like(bank.o, name="live_spikes")
        for c in range(self.geometry.group):
            m.d.comb += [gate.i[c].eq(bank.membrane[c][0]), spikes[c].eq(bank.o[c] & gate.live)]
        return spikes

    def _plastic(self, m: Module, begin: Signal, bank: NeuronBank, head: Head):
        """Let the head learn; return whether the traces are those of the decision."""
        m.submodules.plasticity = plasticity = HeadPlasticity(self.geometry)
        wiring.connect(m, wiring.flipped(self.traces), plasticity.traces)
        wiring.connect(m, plasticity.weights, head.change)
        m.d.comb += [
            plasticity.new_episode.eq(self.new_episode & ~self.busy),
            plasticity.start.eq(begin),
            plasticity.advance.eq(self.done),
            plasticity.i_valid.eq(bank.membrane_valid),
            plasticity.i_group.eq(bank.membrane_group),
            plasticity.entry_threshold.eq(self.entry_threshold),
            plasticity.count.eq(self.action_count),
            plasticity.frozen.eq(self.frozen),
            plasticity.post_valid.eq(head.post_valid),
            plasticity.post_action.eq(head.post_action),
            plasticity.post.eq(head.post),
            plasticity.learn.eq(self.learn & ~self.busy),
            plasticity.factor.eq(self.factor),
            plasticity.busy.eq(self.busy | self.learning),
            self.learning.eq(plasticity.learning),
            self.learned.eq(plasticity.learned),
            *(sink.eq(source) for sink, source in zip(plasticity.i, bank.membrane, strict=True)),
        ]
        return plasticity.settled
