# SPDX-License-Identifier: MIT
"""Energy of counted operations and memory accesses, 45 nm. A model: nothing here was measured on a board.

Energies per operation and access: M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014
(45 nm, 0.9 V). 4.6 pJ per multiply-accumulate (3.7 + 0.9) and 0.9 pJ per accumulate, both in 32-bit floating point, are
the convention of the spiking transformer papers.
"""

import math
from dataclasses import dataclass

MAC_PJ, AC_PJ = 4.6, 0.9
"""The papers' convention: fp32 multiply-accumulate and accumulate."""
FP32_MULTIPLY_PJ = 3.7
INT_ADD_PJ = {8: 0.03, 32: 0.1}
INT8_MULTIPLY_PJ = 0.2
SRAM_64_BIT_PJ = {8 * 1024: 10.0, 32 * 1024: 20.0, 1024 * 1024: 100.0}
"""A 64-bit read of an SRAM of that many bytes; writes are taken to cost the same."""
SMALLEST_SRAM_BYTES = 1024

PUBLISHED = (
    ("DSFormer-PSSA", 88.8, "DSFormer (arXiv 2504.03800), as a reading note gives it"),
    ("Decision Transformer beside it", 410.5, "the same"),
)
"""(what, microjoules per inference, source). How the authors count was not seen in their text, nor these constants.
410.5 uJ are 89.2 M multiply-accumulates at 4.6 pJ, which no plain decision transformer of their sizes has; 88.8 uJ
needs a mean firing rate of 0.52 at d_model 256 and cannot be reached at 128."""

FETCHES = ("decision", "token", "step")
"""How often a weight that is needed is fetched: once for all tokens of a decision, once per token for all its SNN steps
(as the circuit does), or in each step anew."""


def add_pj(bits: int) -> float:
    """Energy of an integer addition, linear between 8 and 32 bits and beyond."""
    (low, at_low), (high, at_high) = sorted(INT_ADD_PJ.items())
    return max(at_low * bits / low if bits < low else 0.0, at_low + (at_high - at_low) * (bits - low) / (high - low))


def multiply_pj(bits: int, other_bits: int) -> float:
    """Energy of an integer multiplication, in proportion to the product of the widths (32 x 32: 3.2, Horowitz 3.1)."""
    return INT8_MULTIPLY_PJ * bits * other_bits / 64


def sram_bit_pj(size_bits: float) -> float:
    """Energy of reading or writing one bit of an SRAM of that size, a power law between the sizes that are known."""
    size = max(size_bits / 8, SMALLEST_SRAM_BYTES)
    points = sorted(SRAM_64_BIT_PJ.items())
    below, above = points[:2] if size < points[1][0] else points[1:]
    slope = math.log(above[1] / below[1]) / math.log(above[0] / below[0])
    return below[1] * (size / below[0]) ** slope / 64


@dataclass(frozen=True)
class Widths:
    """Bits of what a network keeps and computes with; `integer` false: everything is fp32."""

    integer: bool
    weight: int = 32
    dense_weight: int = 32  # embedding and head
    membrane: int = 32
    accumulator: int = 32
    neuron: int = 32
    activation: int = 32  # of a product's inputs that are no spikes

    def accumulate_pj(self) -> float:
        """One selected weight added."""
        return add_pj(self.accumulator) if self.integer else AC_PJ

    def multiply_accumulate_pj(self) -> float:
        """One product added."""
        if not self.integer:
            return MAC_PJ
        return multiply_pj(self.activation, self.dense_weight) + add_pj(self.accumulator)

    def elementwise_pj(self) -> float:
        """One addition, comparison or gate of a neuron or a shortcut."""
        return add_pj(self.neuron) if self.integer else AC_PJ


@dataclass
class Counts:
    """Of one layer, per decision.

    slots : synaptic operations if everything spiked, T x inputs x outputs per token; spikes : ones among what selects;
    accumulates : slots whose spike was there; multiplies : of products that no spike selects, their accumulates with
    them; elementwise : additions, comparisons and gates of neurons and shortcuts; functions : elements of norms,
    softmax and the like. fetched : weights fetched, by `FETCHES`; spike_bits : read and written; activations : numbers
    that are no spikes, read and written by products; membranes : residual membranes read and written; cached : key and
    value numbers read and written.
    """

    layer: str
    slots: float = 0.0
    spikes: float = 0.0
    accumulates: float = 0.0
    multiplies: float = 0.0
    elementwise: float = 0.0
    functions: float = 0.0
    fetched: tuple[float, float, float] = (0.0, 0.0, 0.0)
    spike_bits: float = 0.0
    activations: float = 0.0
    membranes: float = 0.0
    cached: float = 0.0


@dataclass(frozen=True)
class Sizes:
    """Bits of each memory: all weights, the spikes kept and passed on, the residual membranes, the activations."""

    weights: float
    spikes: float
    membranes: float
    activations: float


def papers_uj(counts: Counts) -> float:
    """The papers' convention: accumulates whose spike is there and multiply-accumulates, fp32, no memory."""
    return (AC_PJ * counts.accumulates + MAC_PJ * counts.multiplies) * 1e-6


def modelled_uj(counts: Counts, widths: Widths, sizes: Sizes, fetch: str) -> dict[str, float]:
    """Energy by part: operations at their own widths, then memory by what lies in it."""
    dense = counts.layer in ("embed", "head")
    # a function counts as one multiply-accumulate per element, which flatters networks that have some
    arithmetic = (
        widths.accumulate_pj() * counts.accumulates
        + widths.multiply_accumulate_pj() * counts.multiplies
        + widths.elementwise_pj() * counts.elementwise
        + MAC_PJ * counts.functions
    )
    weight_bits = widths.dense_weight if dense else widths.weight
    parts = {
        "operations": arithmetic,
        "weights": counts.fetched[FETCHES.index(fetch)] * weight_bits * sram_bit_pj(sizes.weights),
        "membranes": counts.membranes * widths.membrane * sram_bit_pj(sizes.membranes),
        "spikes": counts.spike_bits * sram_bit_pj(sizes.spikes),
        "activations": (counts.activations + counts.cached) * widths.activation * sram_bit_pj(sizes.activations),
    }
    return {name: energy * 1e-6 for name, energy in parts.items()}
