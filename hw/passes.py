# SPDX-License-Identifier: MIT
"""The passes of a decision and the types that travel with them."""

from amaranth.hdl import signed
from amaranth.lib import data, enum

from hw.registers import UNITS
from model.deployed.geometry import Geometry


class Kind(enum.Enum, shape=3):
    """What a pass computes, and so where its spikes go."""

    EMBED = 0
    KEY = 1
    VALUE = 2
    QUERY = 3
    WINDOW = 4
    PROJ = 5
    FC1 = 6
    FC2 = 7


UNIT_OF = {
    Kind.EMBED: "EMBED",
    Kind.KEY: "QKV",
    Kind.VALUE: "QKV",
    Kind.QUERY: "QKV",
    Kind.WINDOW: "WINDOW",
    Kind.PROJ: "PROJ",
    Kind.FC1: "FC1",
    Kind.FC2: "FC2",
}
"""The unit whose counters a pass is booked on."""

assert set(UNIT_OF.values()) | {"HEAD"} == set(UNITS)


def pass_layout(g: Geometry) -> data.StructLayout:
    """Return what a pass carries through the pipeline.

    kind : Kind
    layer : layer of the pass
    part : which d_model hidden channels an FC1 pass computes
    number : 0 for the embedding, then 1 + layer * passes_per_layer + pass: selects the channel parameters
    final : the last pass of a decision
    """
    return data.StructLayout(
        {
            "kind": Kind,
            "layer": range(g.layers),
            "part": range(g.mlp_ratio),
            "number": range(1 + g.layers * g.passes_per_layer),
            "final": 1,
        }
    )


def spikes_layout(g: Geometry, channels: int) -> data.ArrayLayout:
    """Return the spikes of `channels` channels, a channel's steps together."""
    return data.ArrayLayout(g.steps, channels)


def steps_layout(g: Geometry, bits: int) -> data.ArrayLayout:
    """Return a channel's signed values, step by step."""
    return data.ArrayLayout(signed(bits), g.steps)
