# SPDX-License-Identifier: MIT
"""The LRF-Dyn unit: dendrites in block RAM, advanced ahead of the token, and the queries' gate."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, wiring

from hw.attention import attention_members, ring_slot, send_groups, spike_store
from hw.dendrites import Dendrites, history_layout, later, outcomes_layout, state_layout
from hw.expressions import tree
from hw.memory import PolicyMemory
from hw.memory_map import memory_map
from hw.passes import Kind
from model.deployed.geometry import Geometry


class LrfDynamics(wiring.Component):
    """Compute `q AND (readout of the dendrites + local taps)` per channel and step (paper: LRF-Dyn).

    A sweep over all channels of all layers, one a cycle, begins with the decision. It settles which spike the token
    before brought, and works out the states and currents that this one can bring (`Dendrites`). Currents wait as three
    outcomes per channel and step; keys and values, when they are there, only choose.

    The state has a row per channel: both states that the last token could leave, and the value spikes before it. What
    it did bring, `k AND v` and v, lies aside in two halves, so that a sweep reads the last token's while this one's
    come in. Of an episode's first token all that was kept counts as zero, so nothing has to be cleared.

    Parameters
    ----------
    geometry : Geometry
    bank_latency : int
        Cycles from the neuron bank's input to its output.

    Members
    -------
    dendrites : policy loading
    state : read-only, a row per channel: dendrites as the last token left them, step by step, and its value spikes and
        those before, the newest first
    ready : always
    and those of `attention_members`

    Timing
    ------
    A layer takes the sweep `d_model` cycles. Currents of layer l leave no sooner than `d_model (l + 1) + LEAD` cycles
    after `start`; from then on they follow `drained` by one cycle, or by as many as the last spikes need through the
    bank.

    """

    @staticmethod
    def lead(g: Geometry) -> int:
        """Return the fewest cycles from `start` to the first currents."""
        return g.d_model - g.groups + Dendrites.LATENCY + 4

    def __init__(self, geometry: Geometry, bank_latency: int) -> None:
        self.geometry = geometry
        self.bank_latency = bank_latency
        super().__init__(attention_members(geometry))

    def elaborate(self, platform):
        m = Module()
        g = self.geometry
        rows, blocks = g.layers * g.d_model, g.layers * g.groups
        ring_slot(m, self)  # for the count of tokens
        m.d.comb += self.ready.eq(1)

        # Step through the channels, or look at one
        sweeping, channel, row = Signal(), Signal(range(rows)), Signal(range(rows))
        section = memory_map(g)["state"]
        word_bits = (section.stride - 1).bit_length()
        with m.If(sweeping):
            m.d.sync += channel.eq(channel + 1)
            with m.If(channel == rows - 1):
                m.d.sync += sweeping.eq(0)
        with m.If(self.start):
            m.d.sync += [sweeping.eq(1), channel.eq(0)]
        m.d.comb += row.eq(Mux(self.busy, channel, self.state.address >> word_bits))
        side = data.StructLayout(
            {"valid": 1, "row": range(rows), "block": range(blocks), "place": range(g.group), "soon": 1}
        )
        sides = [Signal(side, name=f"side{cycle}") for cycle in range(Dendrites.LATENCY + 2)]
        m.d.comb += [
            sides[0].valid.eq(sweeping),
            sides[0].row.eq(row),
            sides[0].block.eq(row // g.group),
            sides[0].place.eq(row % g.group),
            # the groups of a layer leave one a cycle: the first may go when the last will be there in time
            sides[0].soon.eq(sweeping & (row % g.d_model == g.d_model - g.groups)),
        ]
        m.d.sync += [after.eq(before) for after, before in zip(sides[1:], sides, strict=False)]

        # Spikes of this token and of the last one
        newest, layer = Signal(), Signal(range(g.layers))
        with m.If(self.advance):
            m.d.sync += newest.eq(~newest)
        keys = spike_store(m, self, Kind.KEY)
        spikes_layout = data.StructLayout({"value": g.group * g.steps, "both": g.group * g.steps})
        m.submodules.spikes = spikes = memory.Memory(shape=spikes_layout, depth=2 * blocks, init=[])
        arriving, last, this = spikes.write_port(), spikes.read_port(domain="comb"), spikes.read_port(domain="comb")
        m.d.comb += [
            keys.addr.eq(self.i_group),
            arriving.addr.eq(Cat(newest, self.i_info.layer * g.groups + self.i_group)),
            arriving.data.value.eq(self.i),
            arriving.data.both.eq(keys.data & self.i.as_value()),
            arriving.en.eq(self.i_valid & (self.i_info.kind == Kind.VALUE)),
            last.addr.eq(Cat(~newest, sides[0].block)),
            this.addr.eq(Cat(newest, layer * g.groups + self.o_group)),
        ]
        settled = Signal(spikes_layout, reset_less=True)
        m.d.sync += settled.eq(last.data)

        # Look a channel up, settle its state
        kept_layout = data.ArrayLayout(g.steps, max(g.local_distances) - 1)
        m.submodules.rows = store = memory.Memory(
            shape=data.StructLayout({"silent": state_layout(g), "both": state_layout(g), "history": kept_layout}),
            depth=rows,
            init=[],
        )
        m.submodules.parameters = parameters = PolicyMemory(memory_map(g)["dendrites"])
        wiring.connect(m, wiring.flipped(self.dendrites), parameters.load)
        kept, write = store.read_port(), store.write_port()
        x, history = Signal(state_layout(g)), Signal(history_layout(g))
        value, both = (word.word_select(sides[1].place, g.steps) for word in (settled.value, settled.both))
        with m.If(self.tokens != 0):
            m.d.comb += history.eq(Cat(value, kept.data.history))
            for t in range(g.steps):
                m.d.comb += x[t].eq(Mux(both[t], kept.data.both[t], kept.data.silent[t]))
        m.d.comb += [
            kept.addr.eq(row),
            parameters.busy.eq(self.busy),
            parameters.enable.eq(1),
            parameters.rows[0].eq(row),
        ]
        probed, word = Cat(x, history), Signal(range(section.stride))
        m.d.sync += word.eq(self.state.address)
        with m.Switch(word):
            for index in range(section.words):
                with m.Case(index):
                    m.d.comb += self.state.read_data.eq(probed[32 * index : 32 * index + 32])

        # Advance it, for any spikes; keep the states in its row
        m.submodules.dendrites_ahead = ahead = Dendrites(g)
        m.d.comb += [
            ahead.x.eq(x),
            ahead.history.eq(history),
            ahead.parameters.eq(parameters.row_data[0]),
            write.addr.eq(sides[1 + Dendrites.STATE_LATENCY].row),
            write.data.silent.eq(ahead.silent_x),
            write.data.both.eq(ahead.both_x),
            write.en.eq(sides[1 + Dendrites.STATE_LATENCY].valid),
        ]
        for stage in range(Dendrites.STATE_LATENCY):
            earlier, history = history, Signal(history_layout(g), name=f"history{stage}", reset_less=True)
            m.d.sync += history.eq(earlier)
        m.d.comb += write.data.history.eq(history)

        # Keep the currents for when the spikes are known, a memory per channel of a group
        written, ready_layers = sides[1 + Dendrites.LATENCY], Signal(range(g.layers + 1))
        outcomes = []
        for c in range(g.group):
            m.submodules[f"outcomes{c}"] = waiting = memory.Memory(shape=outcomes_layout(g), depth=blocks, init=[])
            put, get = waiting.write_port(), waiting.read_port(domain="comb")
            m.d.comb += [
                put.addr.eq(written.block),
                put.data.eq(ahead.o),
                put.en.eq(written.valid & (written.place == c)),
                get.addr.eq(layer * g.groups + self.o_group),
            ]
            outcomes.append(get.data)
        with m.If(written.soon):
            m.d.sync += ready_layers.eq(ready_layers + 1)
        with m.If(self.start):
            m.d.sync += ready_layers.eq(0)

        # Choose by the spikes
        sending = send_groups(m, self, layer, ready_layers > layer)
        with m.If(sending & self.o_last):
            m.d.sync += layer.eq(layer + 1)
        with m.If(self.start):
            m.d.sync += layer.eq(0)
        queries = None
        if g.gate:
            queries = spike_store(m, self, Kind.QUERY)
            m.d.comb += queries.addr.eq(self.o_group)
        more = []
        for c in range(g.group):
            clipped = []
            for t in range(g.steps):
                at, outcome = c * g.steps + t, outcomes[c]
                both, value = this.data.both[at], this.data.value[at]
                current = Mux(both, outcome.both[t], Mux(value, outcome.value[t], outcome.silent[t]))
                m.d.comb += self.o[c][t].eq(Mux(queries.data[at], current, 0) if queries else current)
                clipped.append(Mux(both & sending, outcome.more_clipped[t], 0))
            more.append(later(m, tree(clipped), f"more{c}"))

        # Count what saturated: as if nothing had spiked, and how many more where something did
        silent = Mux(sides[1 + Dendrites.STATE_LATENCY].valid, ahead.silent_clipped, 0)
        clipped = later(m, later(m, tree(more), "more") + silent, "clipped")
        m.d.sync += self.saturations.eq(Mux(self.start, 0, self.saturations + clipped))
        return m
