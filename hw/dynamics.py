# SPDX-License-Identifier: MIT
"""The LRF-Dyn unit: dendrites in block RAM, advanced ahead of the token, and the queries' gate."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring

from hw.attention import attention_members, ring_slot, send_groups, spike_store
from hw.dendrites import Dendrites, history_layout, later, outcomes_layout, state_layout
from hw.expressions import chosen, tree
from hw.memory import PolicyMemory
from hw.memory_map import memory_map
from hw.passes import Kind
from model.deployed.geometry import Geometry


class LrfDynamics(wiring.Component):
    """Compute `q AND (readout of the dendrites + local taps)` per channel and step (paper: LRF-Dyn).

    A sweep over the channels of a layer, one a cycle, settles which spikes the token before brought, and works out the
    states and currents that this one can bring (`Dendrites`). Currents wait as three outcomes per channel and step;
    keys and values, when they are there, only choose. A decision sweeps its layers from the second on, then the first
    one for the next token, which need not wait for it then; before an episode's first token there was none, and the
    first layer's sweep comes first. Such a token finds all that was kept zero, so nothing has to be cleared.

    The state has a row per channel: both states that the newest token can leave, and the value spikes before it. The
    first layer has two rows per channel, since one is written ahead while the other can still be looked at. Spikes
    lie in two halves, those of the newest token and of the one before.

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
    Currents follow `drained` by one cycle, or by as many as the last spikes need through the bank, but not before their
    layer was swept: the second layer's come `lead` cycles after `start` at the earliest, each further one's `d_model`
    later. `settled` comes no sooner than `layers * d_model + 9` cycles after `start`. An episode's first token adds the
    first layer's sweep, `d_model`, to all of these. HOPPER_Z2_LRF: 130, 258 and 393 cycles, which hide behind the
    other passes of a decision with two weight rows a cycle.

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
        newest, first = Signal(), Signal()  # the half of the newest token; whether it is an episode's first
        sweeping, upcoming, owing, sent = Signal(), Signal(), Signal(), Signal()
        channel, row = Signal(range(rows)), Signal(range(rows))
        section = memory_map(g)["state"]
        word_bits = (section.stride - 1).bit_length()
        m.d.comb += [
            first.eq(self.tokens == 0),
            row.eq(Mux(self.busy, channel, self.state.address >> word_bits)),
        ]
        with m.If(self.advance):
            m.d.sync += newest.eq(~newest)
        with m.If(sweeping):
            m.d.sync += channel.eq(channel + 1)
            with m.If(channel == Mux(upcoming, g.d_model, rows) - 1):
                m.d.sync += sweeping.eq(0)
        with m.Elif(owing & sent):
            m.d.sync += [sweeping.eq(1), upcoming.eq(1), owing.eq(0), channel.eq(0)]
        with m.If(self.start):
            m.d.sync += [sweeping.eq(first | (g.layers > 1)), upcoming.eq(0), owing.eq(1), sent.eq(0)]
            m.d.sync += channel.eq(Mux(first, 0, g.d_model))
        side = data.StructLayout(
            {
                "valid": 1,
                "upcoming": 1,
                "row": range(rows + g.d_model),
                "block": range(blocks),
                "place": range(g.group),
                "soon": 1,
            }
        )
        sides = [Signal(side, name=f"side{cycle}") for cycle in range(Dendrites.LATENCY + 2)]

        def place(half: Value) -> Value:
            """Return where the state of the row lies; in the first layer there are two halves."""
            return Mux(half & (row < g.d_model), rows, 0) + row

        counting = Signal(4)  # what saturated in the last groups is not in `saturations` yet
        m.d.comb += [
            sides[0].valid.eq(sweeping),
            sides[0].upcoming.eq(upcoming),
            sides[0].row.eq(place(newest ^ upcoming)),
            sides[0].block.eq(row // g.group),
            sides[0].place.eq(row % g.group),
            # the groups of a layer leave one a cycle: the first may go when the last will be there in time
            sides[0].soon.eq(sweeping & ~upcoming & (row % g.d_model == g.d_model - g.groups)),
            self.settled.eq(~sweeping & ~owing & ~Cat(side.valid for side in sides).any() & ~counting.any()),
        ]
        m.d.sync += [after.eq(before) for after, before in zip(sides[1:], sides, strict=False)]

        # Spikes of the newest token and of the one before; a sweep needs those of the token before its own
        layer, half = Signal(range(g.layers)), Signal()
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
            half.eq(Mux(self.busy & upcoming, newest, ~newest)),
            last.addr.eq(Cat(half, sides[0].block)),
            this.addr.eq(Cat(newest, layer * g.groups + self.o_group)),
        ]
        settled = Signal(spikes_layout, reset_less=True)
        m.d.sync += settled.eq(last.data)

        # Look a channel up, settle its state
        kept_layout = data.ArrayLayout(g.steps, max(g.local_distances) - 1)
        m.submodules.rows = store = memory.Memory(
            shape=data.StructLayout({"silent": state_layout(g), "both": state_layout(g), "history": kept_layout}),
            depth=rows + g.d_model,
            init=[],
        )
        m.submodules.parameters = parameters = PolicyMemory(memory_map(g)["dendrites"])
        wiring.connect(m, wiring.flipped(self.dendrites), parameters.load)
        kept, write = store.read_port(), store.write_port()
        x, history = Signal(state_layout(g)), Signal(history_layout(g))
        value, both = (
            chosen([word[at : at + g.steps] for at in range(0, g.group * g.steps, g.steps)], sides[1].place)
            for word in (settled.value, settled.both)
        )
        with m.If(~first | sides[1].upcoming):
            m.d.comb += history.eq(Cat(value, kept.data.history))
            for t in range(g.steps):
                m.d.comb += x[t].eq(Mux(both[t], kept.data.both[t], kept.data.silent[t]))
        m.d.comb += [
            kept.addr.eq(place(half)),
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
            m.d.sync += ready_layers.eq(~first)

        # Choose by the spikes
        sending = send_groups(m, self, layer, ready_layers > layer)
        m.d.sync += counting.eq(Cat(sending, counting))
        with m.If(sending & self.o_last):
            m.d.sync += [layer.eq(layer + 1), sent.eq(1)]
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
        swept = sides[1 + Dendrites.STATE_LATENCY]
        silent = Mux(swept.valid & ~swept.upcoming, ahead.silent_clipped, 0)
        clipped = later(m, later(m, tree(more), "more") + silent, "clipped")
        of_next = Signal(range(g.d_model * g.steps * g.dendrites + 1))
        m.d.sync += self.saturations.eq(self.saturations + clipped)
        with m.If(swept.valid & swept.upcoming):
            m.d.sync += of_next.eq(of_next + ahead.silent_clipped)
        with m.If(self.start):
            m.d.sync += [self.saturations.eq(Mux(first, 0, of_next)), of_next.eq(0)]
        return m
