# SPDX-License-Identifier: MIT
"""What every attention unit has in common: how the core talks to it, and the place of a token in a ring."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.wiring import In, Out

from hw.memory import load_port
from hw.memory_map import attention_sections, memory_map
from hw.passes import pass_layout, spikes_layout, steps_layout
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
