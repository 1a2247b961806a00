# SPDX-License-Identifier: MIT
"""What attention units have in common: how the core talks to them, and the parts that are the same in several."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value, ValueLike
from amaranth.lib import memory
from amaranth.lib.wiring import In, Out

from hw.memory import load_port
from hw.memory_map import attention_sections, memory_map, passes
from hw.passes import Kind, pass_layout, spikes_layout, steps_layout
from model.deployed.geometry import Geometry


def attention_members(g: Geometry) -> dict[str, Any]:
    """Return the members of the unit that computes `g.attention`.

    new_episode : forget all tokens
    start : a decision begins
    advance : a decision is over, its token becomes the previous one; honoured while `settled`
    tokens : tokens of the episode before this decision's, saturating at `reach` + 1
    ready : values may come
    settled : nothing is being worked out ahead; only then a decision may end, since the host may own the memories next
    i_valid, i_group, i_info, i : spikes of KEY, VALUE and QUERY passes from the neuron bank, a group at a time
    drained : the last group of the last of these passes enters the neuron bank
    o_valid, o_group, o_last, o_info, o : currents of the WINDOW pass for the neuron bank, a group a cycle
    saturations : numbers of the attention's own that were clipped in this decision
    <section> : word access to each of `attention_sections`
    busy : the core owns the memories
    """
    sections = memory_map(g)
    return {
        "new_episode": In(1),
        "start": In(1),
        "advance": In(1),
        "tokens": Out(range(g.reach + 2)),
        "ready": Out(1),
        "settled": Out(1),
        "i_valid": In(1),
        "i_group": In(range(g.groups)),
        "i_info": In(pass_layout(g)),
        "i": In(spikes_layout(g, g.group)),
        "drained": In(1),
        "o_valid": Out(1),
        "o_group": Out(range(g.groups)),
        "o_last": Out(1),
        "o_info": Out(pass_layout(g)),
        "o": Out(steps_layout(g, g.attention_bits)).array(g.group),
        "saturations": Out(32),
        "busy": In(1),
    } | {name: In(load_port(sections[name])) for name in attention_sections(g)}


def ring_slot(m: Module, unit: Any) -> Signal:
    """Count a unit's `tokens` and return which of `reach` + 1 slots the newest one takes.

    What the tokens before an episode left there is not cleared: who reads older slots compares with `tokens`.
    """
    length = unit.geometry.reach + 1
    slot = Signal(range(length))
    with m.If(unit.advance):
        m.d.sync += slot.eq(Mux(slot == length - 1, 0, slot + 1))
        with m.If(unit.tokens != length):
            m.d.sync += unit.tokens.eq(unit.tokens + 1)
    with m.If(unit.new_episode):
        m.d.sync += [slot.eq(0), unit.tokens.eq(0)]
    return slot


def spike_store(m: Module, unit: Any, kind: Kind) -> memory.ReadPort:
    """Keep the spikes of a kind of pass, a word per group; return a port that reads them without delay."""
    g = unit.geometry
    m.submodules[kind.name.lower()] = store = memory.Memory(shape=g.group * g.steps, depth=g.groups, init=[])
    write = store.write_port()
    m.d.comb += [
        write.addr.eq(unit.i_group),
        write.data.eq(unit.i),
        write.en.eq(unit.i_valid & (unit.i_info.kind == kind)),
    ]
    return store.read_port(domain="comb")


def send_groups(m: Module, unit: Any, layer: Value, able: ValueLike) -> Signal:
    """Send a unit's groups behind `drained`, once the first of the drained spikes are through the bank.

    They do not leave before the unit is `able`. Returns whether a group is being sent; its number is `o_group`.
    """
    g = unit.geometry
    delay = unit.drained
    for stage in range(max(1, unit.bank_latency + 2 - g.groups) - 1):
        delayed = Signal(name=f"drained{stage}")
        m.d.sync += delayed.eq(delay)
        delay = delayed
    sending, due = Signal(), Signal()
    with m.If(sending):
        m.d.sync += unit.o_group.eq(unit.o_group + 1)
        with m.If(unit.o_last):
            m.d.sync += sending.eq(0)
    with m.If(delay | due):
        m.d.sync += due.eq(~able)
        with m.If(able):
            m.d.sync += [sending.eq(1), unit.o_group.eq(0)]
    m.d.comb += [
        unit.o_valid.eq(sending),
        unit.o_last.eq(unit.o_group == g.groups - 1),
        unit.o_info.kind.eq(Kind.WINDOW),
        unit.o_info.layer.eq(layer),
        unit.o_info.number.eq(layer * g.passes_per_layer + 1 + passes(g).index("window")),
    ]
    return sending
