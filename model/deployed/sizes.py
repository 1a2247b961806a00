# SPDX-License-Identifier: MIT
"""The choices of a geometry, and every size and width that follows from them.

Every width is a property, so that no width is typed twice. Standard library only: the board imports this file.
"""

from dataclasses import dataclass

DILATIONS = (3, 5)
MATCHING = ("sssa", "tssa", "lrf-ssa")
"""Attentions that count matches of queries and keys."""


@dataclass(frozen=True)
class Plasticity:
    """Sizes of the head's three-factor rule (docs/numbers.md, *Plasticity*); `Geometry` says which are in range."""

    trace_bits: int = 16  # eligibility of a weight, signed
    trace_shift: int = 4  # lambda = 1 - 2**-trace_shift
    rate_shift: int = 12  # eta = 2**-rate_shift
    factor_bits: int = 8  # third factor, signed
    most_change: int = 8  # by which one update changes a weight at most


@dataclass(frozen=True)
class Sizes:
    """Fields and what follows from them; `model.deployed.geometry.Geometry` says which go together."""

    observation_size: int
    action_size: int
    d_model: int
    layers: int
    steps: int = 4  # T, SNN steps per token
    window: int = 8  # S, tokens that attention looks at, the current one included; lrf-dyn has none
    mlp_ratio: int = 4  # hidden channels of the MLP over d_model
    weight_bits: int = 4  # spiking linears and window taps, signed
    dense_weight_bits: int = 8  # embedding and head, signed
    input_bits: int = 8  # quantised observation, action and return-to-go, signed
    membrane_bits: int = 12  # residual stream, signed
    table_log2: int = 10  # entries of the action table, as a power of two
    rows_per_cycle: int = 2  # weight rows fetched per cycle
    group: int = 16  # channels that leave the lane array together
    attention: str = "pssa"  # one of ATTENTIONS
    dendrites: int = 8  # k, states per channel and SNN step; lrf-dyn alone
    gate: bool = True  # whether the query gates the current; lrf-dyn alone
    heads: int = 1  # equal shares of the channels: counts of matches, phase codes, gains apart
    phase: str = "none"  # one of PHASES: where the heads' phase codes act
    phase_over: str = "steps"  # one of PHASE_CLOCKS: what a phase code counts
    period: int = 16  # environment steps after which a phase code over tokens begins again
    routing: str = "none"  # one of ROUTINGS: how a token chooses a gain per head
    adaptive: bool = False  # whether a step gate chooses per token and layer how many of the steps are live
    plasticity: Plasticity | None = None  # how the head's weights learn from a third factor, None where they do not

    # Sizes

    @property
    def input_size(self) -> int:
        """Components of a token: observation, previous action, return-to-go."""
        return self.observation_size + self.action_size + 1

    @property
    def d_mlp(self) -> int:
        """Hidden channels of the MLP."""
        return self.d_model * self.mlp_ratio

    @property
    def groups(self) -> int:
        """Groups of channels in d_model."""
        return self.d_model // self.group

    @property
    def projections(self) -> tuple[str, ...]:
        """What a layer derives from its spikes for attention: key, value and, unless it is ungated, query."""
        return ("key", "value", "query") if self.gate else ("key", "value")

    @property
    def phase_times(self) -> int:
        """Bits of a head's phase code before it begins again; 0 where there is none."""
        return 0 if self.phase == "none" else self.steps if self.phase_over == "steps" else self.period

    @property
    def largest_query_count(self) -> int:
        """Greatest count of a head's query spikes in a token: its channels in every SNN step."""
        return self.d_model // self.heads * self.steps

    @property
    def gain_places(self) -> int:
        """Binary places that a head's gain, 1/4 at least, adds to the current of the neurons behind attention."""
        return 2 if self.routing == "count" else 0

    @property
    def local_distances(self) -> tuple[int, ...]:
        """Distances of the local taps of lrf-ssa and lrf-dyn, none for the rest: kernels of 3, dilated by 3 and 5."""
        if not self.attention.startswith("lrf"):
            return ()
        return tuple(sorted({tap * dilation for tap in range(3) for dilation in DILATIONS}))

    @property
    def reach(self) -> int:
        """Distance of the farthest past token that a layer keeps spikes of."""
        window = 0 if self.attention == "lrf-dyn" else self.window - 1
        return max(window, *self.local_distances, 0)

    @property
    def context(self) -> int:
        """Tokens a decision depends on: recomputing this many equals streaming. Dendrites, which remember without
        bound (`unbounded`), do not count."""
        return 1 + self.layers * self.reach

    @property
    def unbounded(self) -> bool:
        """Whether a decision depends, ever more weakly, on every token of the episode; then nothing but streaming
        equals streaming."""
        return self.attention == "lrf-dyn"

    @property
    def state_bits(self) -> int:
        """Bits that a layer keeps of the past tokens while it streams: spikes one bit, dendrites `dendrite_bits`."""
        # the keys, then the values, or `k AND v` in one
        spikes = (self.window - 1 if self.attention in MATCHING else 0) + self.reach
        numbers = self.dendrites * self.dendrite_bits if self.attention == "lrf-dyn" else 0
        return self.steps * self.d_model * (spikes + numbers)

    @property
    def rows_per_layer(self) -> int:
        """Weight rows of one layer: k, v, q, proj, fc1 in mlp_ratio parts, fc2."""
        return (len(self.projections) + 1 + self.mlp_ratio) * self.d_model + self.d_mlp

    @property
    def weight_rows(self) -> int:
        """Rows of the weight memory, each d_model x weight_bits wide."""
        return self.layers * self.rows_per_layer

    @property
    def passes_per_layer(self) -> int:
        """Uses of the neuron bank per layer: k, v, q, window, proj, fc1 in mlp_ratio parts, fc2."""
        return len(self.projections) + 3 + self.mlp_ratio

    @property
    def signatures(self) -> int:
        """Residual signatures per decision: one after the embedding, one after each sub-block."""
        return 1 + 2 * self.layers

    # Widths

    @property
    def guard_bits(self) -> int:
        """Fraction bits that make the quarter decay of T steps exact."""
        return 2 * (self.steps - 1)

    @property
    def window_bits(self) -> int:
        """Signed width that holds the sum of the window's taps."""
        return self.weight_bits + (self.window - 1).bit_length()

    @property
    def most_matches(self) -> int:
        """Greatest count of a token of sssa, tssa and lrf-ssa: a head's channels, of tssa in all steps together."""
        return self.d_model // self.heads * (self.steps if self.attention == "tssa" else 1)

    @property
    def count_bits(self) -> int:
        """Unsigned width of a token's count."""
        return self.most_matches.bit_length()

    @property
    def match_bits(self) -> int:
        """Signed width that holds the counts of a window's tokens, summed."""
        return (self.most_matches * self.window).bit_length() + 1

    @property
    def dendrite_bits(self) -> int:
        """Signed width of a dendrite of lrf-dyn, a fixed-point number."""
        return 16

    @property
    def gain_bits(self) -> int:
        """Signed width of what a spike adds to a dendrite."""
        return self.dendrite_bits - 4

    @property
    def dendrite_sum_bits(self) -> int:
        """Signed width that holds a dendrite before it saturates: itself, its two neighbours and what a spike adds."""
        return self.dendrite_bits + 2

    @property
    def dendrite_shift_bits(self) -> int:
        """Unsigned width of the right shifts of decays, couplings and readouts."""
        return 4

    @property
    def least_readout_shift(self) -> int:
        """Right shift of a dendrite at its readout at least: all of them together then stay within 14 bits."""
        return self.dendrite_bits + (self.dendrites - 1).bit_length() - 14

    @property
    def local_shift(self) -> int:
        """Left shift of local taps: the readout's unit is that much finer than theirs, so that its floors are small."""
        return 4

    @property
    def readout_bits(self) -> int:
        """Signed width that holds the dendrites' readout and the local taps."""
        dendrites = self.dendrites << (self.dendrite_bits - 1 - self.least_readout_shift)
        local = len(self.local_distances) << (self.weight_bits - 1 + self.local_shift)
        return (dendrites + local).bit_length() + 1

    @property
    def attention_bits(self) -> int:
        """Signed width that holds what attention adds up."""
        widths = {"sssa": self.match_bits, "tssa": self.match_bits, "lrf-dyn": self.readout_bits}
        return widths.get(self.attention, self.window_bits)

    @property
    def pass_bits(self) -> int:
        """Signed width that holds the sum of one weight per row of the longest pass."""
        return self.weight_bits + (self.d_mlp - 1).bit_length()

    @property
    def accumulator_bits(self) -> int:
        """Signed width that holds the sum of a pass, or what attention adds up."""
        return max(self.pass_bits, self.attention_bits)

    @property
    def bias_bits(self) -> int:
        """Signed width of a channel's bias."""
        return max(self.accumulator_bits, self.membrane_bits)

    @property
    def threshold_bits(self) -> int:
        """Unsigned width of a channel's threshold."""
        return self.accumulator_bits - 1

    @property
    def gate_bits(self) -> int:
        """Signed width of a step gate's sum, one weight per membrane of the first group, and of its thresholds."""
        return (self.group << (self.membrane_bits + self.weight_bits - 2)).bit_length() + 1

    @property
    def embed_shift_bits(self) -> int:
        """Unsigned width of the embedding's right shift."""
        return 4

    @property
    def residual_shift_bits(self) -> int:
        """Unsigned width of a residual linear's left shift."""
        return 3

    @property
    def current_bits(self) -> int:
        """Signed width of an LIF neuron's input: accumulator plus bias, or a residual membrane."""
        return max(self.accumulator_bits, self.bias_bits, self.membrane_bits - 1) + 1

    @property
    def lif_bits(self) -> int:
        """Signed width of an LIF membrane: |m| < 4/3 |u|, with guard bits below the point."""
        return self.current_bits + 1 + self.guard_bits

    @property
    def embed_bits(self) -> int:
        """Signed width of the embedding's accumulator."""
        return self.input_bits + self.dense_weight_bits - 1 + self.input_size.bit_length()

    @property
    def step_sum_bits(self) -> int:
        """Signed width of a channel's membranes summed over the T steps."""
        return self.membrane_bits + (self.steps - 1).bit_length()

    @property
    def head_bits(self) -> int:
        """Signed width of the head's accumulator, its bias included."""
        return self.step_sum_bits + self.dense_weight_bits - 1 + self.d_model.bit_length() + 1
