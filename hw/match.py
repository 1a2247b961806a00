# SPDX-License-Identifier: MIT
"""The match unit of SSSA and TSSA: rings of keys and values, counts of matches, and the sums of the counts."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from hw.attention import attention_members, ring_slot
from hw.expressions import chosen, sum_of_bits, tree
from hw.memory_map import memory_map, passes
from hw.passes import Kind, spikes_layout, steps_layout
from model.deployed.geometry import Geometry


def heads_per_group(g: Geometry) -> int:
    """Return how many heads share a group of channels."""
    return max(1, g.group * g.heads // g.d_model)


def groups_per_head(g: Geometry) -> int:
    """Return how many groups of channels share a head. Either this or `heads_per_group` is 1 (`require_circuit`)."""
    return max(1, g.groups // g.heads)


def counts_per_head(g: Geometry) -> int:
    """Return how many counts a head has of a token: one per step, or of TSSA one of all steps."""
    return 1 if g.attention == "tssa" else g.steps


def counts_layout(g: Geometry, slots: int) -> data.ArrayLayout:
    """Return a group's counts for that many slots: slot by slot, head by head of the group; of SSSA, step by step."""
    per_head = data.ArrayLayout(g.count_bits, counts_per_head(g))
    return data.ArrayLayout(data.ArrayLayout(per_head, heads_per_group(g)), slots)


class SpikeRing(wiring.Component):
    """The spikes of the last S tokens of each layer, a token to a slot.

    Parameters
    ----------
    geometry : Geometry
    width : int
        Slots that are read side by side: `place` p shows slots `p * width` and up.

    Members
    -------
    write, slot, i_layer, i_group, i : store a group's spikes
    layer, group, place : what to read
    o : the spikes, slot by slot, at once; what lies beyond the last slot means nothing

    """

    def __init__(self, geometry: Geometry, width: int) -> None:
        self.geometry = geometry
        self.width = width
        self.places = -(-geometry.window // width)
        g = geometry
        super().__init__(
            {
                "write": In(1),
                "slot": In(range(g.window)),
                "i_layer": In(range(g.layers)),
                "i_group": In(range(g.groups)),
                "i": In(spikes_layout(g, g.group)),
                "layer": In(range(g.layers)),
                "group": In(range(g.groups)),
                "place": In(range(self.places)),
                "o": Out(spikes_layout(g, g.group)).array(width),
            }
        )

    def elaborate(self, platform):
        m = Module()
        g = self.geometry
        writes = []
        for lane in range(self.width):
            m.submodules[f"lane{lane}"] = store = memory.Memory(
                shape=spikes_layout(g, g.group), depth=g.layers * g.groups * self.places, init=[]
            )
            write, read = store.write_port(), store.read_port(domain="comb")
            m.d.comb += [
                write.data.eq(self.i),
                read.addr.eq((self.layer * g.groups + self.group) * self.places + self.place),
                self.o[lane].eq(read.data),
            ]
            writes.append(write)
        with m.Switch(self.slot):
            for slot in range(g.window):
                place, lane = divmod(slot, self.width)
                with m.Case(slot):
                    m.d.comb += writes[lane].en.eq(self.write)
                    for write in writes:
                        m.d.comb += write.addr.eq((self.i_layer * g.groups + self.i_group) * self.places + place)
        return m


class MatchCounts(wiring.Component):
    """Count the channels of a head in which a query and each slot's key spike: in each step (SSSA) or in all (TSSA).

    Members
    -------
    i_valid, i_group, i : queries, group by group in order
    keys : the same group's keys, slot by slot
    live : slots that hold a token of this episode; the others count nothing
    o_valid, o_group, o : counts of the heads whose last group this was, `LATENCY` cycles later

    """

    LATENCY = 3

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        g = geometry
        super().__init__(
            {
                "i_valid": In(1),
                "i_group": In(range(g.groups)),
                "i": In(spikes_layout(g, g.group)),
                "keys": In(spikes_layout(g, g.group)).array(g.window),
                "live": In(g.window),
                "o_valid": Out(1),
                "o_group": Out(range(g.groups)),
                "o": Out(counts_layout(g, g.window)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        g = self.geometry
        heads, groups = heads_per_group(g), groups_per_head(g)
        channels = g.group // heads

        # Match, three channels at a time: as many queries and keys as go into a look-up table
        valid1, valid2 = Signal(), Signal()
        group1, group2 = Signal.like(self.i_group), Signal.like(self.i_group)
        m.d.sync += [valid1.eq(self.i_valid), group1.eq(self.i_group), valid2.eq(valid1), group2.eq(group1)]
        starts = range(0, channels, 3)
        few_layout = data.ArrayLayout(data.ArrayLayout(data.ArrayLayout(2, len(starts)), g.steps), heads)
        ones_layout = data.ArrayLayout(data.ArrayLayout(channels.bit_length(), g.steps), heads)
        ones = []
        for slot in range(g.window):
            few = Signal(few_layout, name=f"few{slot}", reset_less=True)
            counted = Signal(ones_layout, name=f"ones{slot}", reset_less=True)
            for head in range(heads):
                for t in range(g.steps):
                    for index, start in enumerate(starts):
                        here = range(head * channels + start, head * channels + min(start + 3, channels))
                        matches = [self.i[c][t] & self.keys[slot][c][t] for c in here]
                        m.d.sync += few[head][t][index].eq(sum_of_bits([matches]))
                    columns = [[count[digit] for count in few[head][t]] for digit in range(2)]
                    m.d.sync += counted[head][t].eq(sum_of_bits(columns))
            with m.If(~self.live[slot]):
                m.d.sync += few.eq(0)
            ones.append(counted)

        # Add to the head's groups before
        first = group2 % groups == 0
        m.d.sync += [self.o_valid.eq(valid2 & (group2 % groups == groups - 1)), self.o_group.eq(group2)]
        with m.If(valid2):
            for slot in range(g.window):
                for head in range(heads):
                    steps = [ones[slot][head][t] for t in range(g.steps)]
                    terms = steps if counts_per_head(g) > 1 else [tree(steps)]
                    for index, term in enumerate(terms):
                        count = self.o[slot][head][index]
                        m.d.sync += count.eq(Mux(first, 0, count) + term)
        return m


class MatchSums(wiring.Component):
    """Sum the counts of the slots in which a channel's value spikes: `o[c][t] = sum_j counts[j] i[j][c][t]`.

    Parameters
    ----------
    geometry : Geometry
    width : int
        Slots that are added a cycle.

    Members
    -------
    i_valid, i_first, i_last, i : values of a group, slot by slot, in successive cycles; the sum's first and last
    counts : of the same slots; of what lies beyond the last slot, zero
    o_valid, o : the sums, `LATENCY` cycles after the last values

    """

    LATENCY = 2

    def __init__(self, geometry: Geometry, width: int) -> None:
        self.geometry = geometry
        self.width = width
        g = geometry
        super().__init__(
            {
                "i_valid": In(1),
                "i_first": In(1),
                "i_last": In(1),
                "i": In(spikes_layout(g, g.group)).array(width),
                "counts": In(counts_layout(g, width)),
                "o_valid": Out(1),
                "o": Out(steps_layout(g, g.attention_bits)).array(g.group),
            }
        )

    def elaborate(self, platform):
        m = Module()
        g = self.geometry

        valid, first = Signal(), Signal()
        m.d.sync += [valid.eq(self.i_valid & self.i_last), first.eq(self.i_first), self.o_valid.eq(valid)]
        layout = spikes_layout(g, g.group)
        spikes = [Signal(layout, name=f"spikes{lane}", reset_less=True) for lane in range(self.width)]
        m.d.sync += [register.eq(lane) for register, lane in zip(spikes, self.i, strict=True)]

        # Slots go in pairs: what both count together is added once for all channels
        pairs: dict[tuple[int, int], list[list[Signal]]] = {}
        for head in range(heads_per_group(g)):
            for index in range(counts_per_head(g)):
                pairs[head, index] = []
                for lane in range(0, self.width, 2):
                    terms = [self.counts[which][head][index] for which in range(lane, min(lane + 2, self.width))]
                    if len(terms) == 2:
                        terms.append(terms[0] + terms[1])
                    registers = [Signal.like(term, name=f"counts{lane}", reset_less=True) for term in terms]
                    m.d.sync += [register.eq(term) for register, term in zip(registers, terms, strict=True)]
                    pairs[head, index].append(registers)

        # Each channel chooses of a pair what its values say, and adds
        for c in range(g.group):
            for t in range(g.steps):
                taken = []
                for number, (one, *more) in enumerate(pairs[c * heads_per_group(g) // g.group, t % counts_per_head(g)]):
                    rest = 0
                    if more:
                        other, both = more
                        second = spikes[2 * number + 1][c][t]
                        one, rest = Mux(second, both, one), Mux(second, other, 0)
                    taken.append(Mux(spikes[2 * number][c][t], one, rest))
                m.d.sync += self.o[c][t].eq(Mux(first, 0, self.o[c][t]) + tree(taken))
        return m


class MatchWindow(wiring.Component):
    """Compute `sum_j count[j] v[j]` per channel and step over the last S tokens j, where count[j] is how often the
    query meets key j within the channel's head (papers: SSSA, TSSA).

    Queries are matched with all S keys as they leave the neuron bank, a group a cycle. Behind the last of them every
    count is known, and the sums follow group by group, some of the tokens a cycle.

    Parameters
    ----------
    geometry : Geometry
    cycles : int
        Cycles that the sums of a group take: as many times fewer adders.

    Members
    -------
    ring : read-only access to the rings, a slot's keys and then its values
    ready, settled : always
    drained : not needed; the queries themselves say when they are through
    and those of `attention_members`

    Timing
    ------
    The first sums come `LATENCY + cycles` cycles after the last queries have left the bank, the others `cycles` apart.
    With HOPPER_Z2's eight groups, four steps and eight tokens a layer takes 16 or 17 cycles more than with PSSA,
    measured over decisions that differ in nothing else (window neurons that never fire, or always; d_model 16).

    """

    LATENCY = MatchCounts.LATENCY + MatchSums.LATENCY

    def __init__(self, geometry: Geometry, cycles: int = 2) -> None:
        self.geometry = geometry
        self.width = -(-geometry.window // cycles)
        super().__init__(attention_members(geometry))

    def elaborate(self, platform):
        m = Module()
        g = self.geometry
        slot = ring_slot(m, self)
        m.d.comb += [self.ready.eq(1), self.settled.eq(1)]

        # Keep keys and values
        m.submodules.keys = keys = SpikeRing(g, g.window)
        m.submodules.values = values = SpikeRing(g, self.width)
        for store, kind in ((keys, Kind.KEY), (values, Kind.VALUE)):
            m.d.comb += [
                store.write.eq(self.i_valid & (self.i_info.kind == kind)),
                store.slot.eq(slot),
                store.i_layer.eq(self.i_info.layer),
                store.i_group.eq(self.i_group),
                store.i.eq(self.i),
            ]

        # Count the queries' matches, head by head
        m.submodules.counts = counts = MatchCounts(g)
        query = self.i_info.kind == Kind.QUERY
        m.d.comb += [
            keys.layer.eq(self.i_info.layer),
            keys.group.eq(self.i_group),
            counts.i_valid.eq(self.i_valid & query),
            counts.i_group.eq(self.i_group),
            counts.i.eq(self.i),
            Cat(counts.keys).eq(Cat(keys.o)),
        ]
        # an episode begins in slot 0
        m.d.comb += [counts.live[other].eq((slot >= other) | (self.tokens == g.window)) for other in range(g.window)]
        rows = g.groups // groups_per_head(g)
        m.submodules.store = store = memory.Memory(shape=counts_layout(g, g.window), depth=rows, init=[])
        write, read = store.write_port(), store.read_port(domain="comb")
        m.d.comb += [
            write.addr.eq(counts.o_group // groups_per_head(g)),
            write.data.eq(counts.o),
            write.en.eq(counts.o_valid),
        ]

        # Go through the groups, and through the slots of each
        layer, group, place = Signal(range(g.layers)), Signal(range(g.groups)), Signal(range(values.places))
        running, last_place = Signal(), Signal()
        m.d.comb += last_place.eq(place == values.places - 1)
        with m.If(counts.i_valid):
            m.d.sync += layer.eq(self.i_info.layer)
        with m.If(running):
            m.d.sync += place.eq(place + 1)
            with m.If(last_place):
                m.d.sync += [place.eq(0), group.eq(group + 1)]
                with m.If(group == g.groups - 1):
                    m.d.sync += [running.eq(0), group.eq(0)]
        with m.If(counts.o_valid & (counts.o_group == g.groups - 1)):
            m.d.sync += running.eq(1)

        # Look up values and counts, add
        m.submodules.sums = sums = MatchSums(g, self.width)
        m.d.comb += [
            read.addr.eq(group // groups_per_head(g)),
            values.layer.eq(layer),
            values.group.eq(group),
            values.place.eq(place),
            sums.i_valid.eq(running),
            sums.i_first.eq(place == 0),
            sums.i_last.eq(last_place),
            Cat(sums.i).eq(Cat(values.o)),
        ]
        for lane in range(self.width):
            at = range(lane, values.places * self.width, self.width)
            counted = [read.data[slot_of].as_value() if slot_of < g.window else Const(0) for slot_of in at]
            m.d.comb += sums.counts[lane].as_value().eq(chosen(counted, place))

        # Send
        group1 = Signal.like(group)
        m.d.sync += [group1.eq(group), self.o_group.eq(group1), self.o_last.eq(group1 == g.groups - 1)]
        m.d.comb += [
            self.o_valid.eq(sums.o_valid),
            self.o_info.kind.eq(Kind.WINDOW),
            self.o_info.layer.eq(layer),
            self.o_info.number.eq(layer * g.passes_per_layer + 1 + passes(g).index("window")),
        ]
        m.d.comb += [self.o[c].eq(sums.o[c]) for c in range(g.group)]

        # Show the rings between decisions
        section = memory_map(g)["ring"]
        word_bits = (section.stride - 1).bit_length()
        row, word = self.ring.address >> word_bits, Signal(max(1, word_bits))
        of_layer, shown_group, shown = Signal.like(layer), Signal.like(group), Signal.like(slot)
        m.d.sync += [
            word.eq(self.ring.address[:word_bits]),
            shown_group.eq(row % g.groups),
            shown.eq(row // g.groups % g.window),
            of_layer.eq(row // (g.groups * g.window)),
        ]
        key, value = Signal.like(keys.o[0]), Signal.like(keys.o[0])
        m.d.comb += self.ring.read_data.eq(Cat(key, value) >> (word << 5))
        with m.If(~self.busy):
            for store in (keys, values):
                m.d.comb += [store.layer.eq(of_layer), store.group.eq(shown_group)]
            with m.Switch(shown):
                for index in range(g.window):
                    place_of, lane = divmod(index, self.width)
                    with m.Case(index):
                        m.d.comb += [key.eq(keys.o[index]), values.place.eq(place_of), value.eq(values.o[lane])]
        return m
