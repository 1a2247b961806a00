# SPDX-License-Identifier: MIT
"""Where a policy lies in the circuit's memories, as pages of the register window. Standard library only.

A section is a memory of `rows`; a row is `row_bits` wide, takes `stride` words (a power of two) and is packed low bits
first. The gateware decodes addresses from this table, the driver packs policies by it.
"""

from dataclasses import dataclass

from hw.registers import PAGE_WORDS
from model.deployed.geometry import Geometry


@dataclass(frozen=True)
class Section:
    """One memory: its place and the shape of its rows."""

    name: str
    page: int  # first page
    rows: int
    row_bits: int
    writable: bool
    doc: str

    @property
    def words(self) -> int:
        """32-bit words that hold a row."""
        return -(-self.row_bits // 32)

    @property
    def stride(self) -> int:
        """Words from one row to the next."""
        return 1 << (self.words - 1).bit_length()

    @property
    def pages(self) -> int:
        """Pages the section takes."""
        return -(-self.rows * self.stride // PAGE_WORDS)


def level_bits(g: Geometry) -> int:
    """Bits of a channel's second parameter: a threshold, or a shift."""
    return max(g.threshold_bits, g.embed_shift_bits, g.residual_shift_bits)


def channel_bits(g: Geometry) -> int:
    """Bits of one channel's parameters: bias, then threshold (spiking) or shift (residual)."""
    return g.bias_bits + level_bits(g)


def dendrites_bits(g: Geometry) -> int:
    """Bits of a channel's parameters of LRF-Dyn: decay, three shift codes and gain of each dendrite, local taps."""
    dendrite = g.dendrite_shift_bits + 3 * (1 + g.dendrite_shift_bits) + g.gain_bits
    return g.dendrites * dendrite + len(g.local_distances) * g.weight_bits


def state_bits(g: Geometry) -> int:
    """Bits of a channel's state of LRF-Dyn: its dendrites, then as many value spikes as local taps reach back to."""
    return g.steps * (g.dendrites * g.dendrite_bits + g.reach)


def gate_row_bits(g: Geometry) -> int:
    """Bits of a layer's step gate: a weight per channel of the first group, then the thresholds."""
    return g.group * g.weight_bits + (g.steps - 1) * g.gate_bits


def embed_components(g: Geometry) -> int:
    """Token components that the embedding multiplies in a cycle: what 128 multipliers serve in a group."""
    return min(g.input_size, max(1, 128 // g.group))


def head_actions(g: Geometry) -> int:
    """Actions that the head sums in a cycle: what 48 multipliers serve in a group."""
    return min(g.action_size, max(1, 48 // g.group))


def _attention_shapes(g: Geometry) -> tuple[tuple[str, int, int, bool, str], ...]:
    """Return name, rows, row_bits, writable and doc of each memory of the geometry's attention."""
    match = (
        (
            "ring",
            g.layers * g.window * g.groups,
            2 * g.group * g.steps,
            False,
            "probe: keys, then values, channel by channel, step by step; slot by slot of each layer, a row per group",
        ),
    )
    return {
        "sssa": match,
        "tssa": match,
        "pssa": (
            (
                "taps",
                g.layers * g.window * g.groups,
                g.group * g.weight_bits,
                True,
                "window taps: layer by layer, newest token first; a row per group",
            ),
            (
                "ring",
                g.layers * g.window * g.groups,
                g.group * g.steps,
                False,
                "probe: k AND v spikes; slot by slot of each layer, a row per group, channel by channel, step by step",
            ),
        ),
        "lrf-dyn": (
            (
                "dendrites",
                g.layers * g.d_model,
                dendrites_bits(g),
                True,
                "dendrites: layer by layer, a row per channel; each one's decay, codes and gain, then the local taps",
            ),
            (
                "state",
                g.layers * g.d_model,
                state_bits(g),
                False,
                "probe: layer by layer, a row per channel; dendrites step by step, then value spikes, newest first",
            ),
        ),
    }[g.attention]


def attention_sections(g: Geometry) -> tuple[str, ...]:
    """Return the names of the sections that lie in the attention unit."""
    return tuple(shape[0] for shape in _attention_shapes(g))


def memory_map(g: Geometry) -> dict[str, Section]:
    """Return the sections by name, in page order. Raises `GeometryError` where there is no circuit of that geometry."""
    g.require_circuit()
    attention = _attention_shapes(g)
    over_tokens = g.phase_over == "tokens"
    phase = (
        "phase",
        g.layers * (g.period if over_tokens else 1),
        g.heads * (1 if over_tokens else g.steps),
        True,
        "phase codes: layer by layer, a row per token of the period, a bit per head"
        if over_tokens
        else "phase codes: a row per layer, head by head, step by step",
    )
    gates = ("gates", g.layers, gate_row_bits(g), True, "step gates: a row per layer; weights, then thresholds")
    traces_doc = "probe: eligibility traces; action by action, a row per group"
    shapes = (
        ("weights", g.weight_rows, g.d_model * g.weight_bits, True, "weight rows in the order of the passes"),
        *(shape for shape in attention if shape[3]),
        *([phase] if g.phase == "query" else []),
        *([gates] if g.adaptive else []),
        (
            "channels",
            (1 + g.layers * g.passes_per_layer) * g.groups,
            g.group * channel_bits(g),
            True,
            "bias and threshold or shift: embedding first, then the passes; a row per group",
        ),
        (
            "embed",
            g.groups * -(-g.input_size // embed_components(g)),
            embed_components(g) * g.group * g.dense_weight_bits,
            True,
            f"embedding weights: group by group, a row per {embed_components(g)} token components, one after the other",
        ),
        (
            "head",
            -(-g.action_size // head_actions(g)) * g.groups,
            head_actions(g) * g.group * g.dense_weight_bits,
            True,
            f"head weights: {head_actions(g)} actions at a time, a row per group, one action after the other",
        ),
        ("head_bias", g.action_size, 37, True, "signed 32-bit bias, then a 5-bit shift, per action"),
        ("table", 1 << g.table_log2, 16, True, "action table, signed"),
        (
            "residual",
            g.groups,
            g.group * g.steps * g.membrane_bits,
            False,
            "probe: residual membranes; channel by channel, step by step",
        ),
        *(shape for shape in attention if not shape[3]),
        *(
            [("traces", g.action_size * g.groups, g.group * g.plasticity.trace_bits, False, traces_doc)]
            if g.plasticity
            else []
        ),
    )
    sections: dict[str, Section] = {}
    page = 0
    for name, rows, row_bits, writable, doc in shapes:
        section = Section(name, page, rows, row_bits, writable, doc)
        sections[name] = section
        page += section.pages
    return sections


def passes(g: Geometry) -> tuple[str, ...]:
    """Return the uses of the neuron bank in a layer, in order; fc1 stands for mlp_ratio passes of d_model outputs each.

    All but the window's, which is the attention's, run through the lane array and have weight rows.
    """
    return (*g.projections, "window", "proj", "fc1", "fc2")
