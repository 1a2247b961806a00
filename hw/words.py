# SPDX-License-Identifier: MIT
"""How lanes lie side by side in words: fields that never carry into the next, added by one adder."""

from dataclasses import dataclass

from amaranth.hdl import Value

from model.deployed.geometry import Geometry

WORD_BITS = 63
"""Of a word at most: a sum of two then has 64, which a simulator adds at once; all lanes of one step, not all steps of
one lane, so that the same spike steers a whole word."""


@dataclass(frozen=True)
class Words:
    """The lanes of one step in words of sums, and in words of what one cycle adds to them.

    A lane's sum takes `sum_bits` (`Geometry.pass_bits`), what a cycle adds to it `term_bits`. In a weight row lanes are
    `weight_bits` apart. A word takes every `spacing`th of them where they lie: to spread a row is to mask it. Terms
    are as many lanes apart as have room for one, sums a multiple of that; a word of terms then holds the terms of
    several words of sums, whose lanes it has between each other.
    """

    d_model: int
    weight_bits: int
    sum_bits: int
    term_bits: int

    @classmethod
    def of(cls, g: Geometry) -> "Words":
        """Return the words of a geometry."""
        # a pass of so few inputs that the sum is narrower than a term has no term so large
        added_bits = g.weight_bits + (g.rows_per_cycle - 1).bit_length()
        return cls(g.d_model, g.weight_bits, g.pass_bits, min(added_bits, g.pass_bits))

    @property
    def term_spacing(self) -> int:
        """Lanes from one of a word of terms to the next."""
        return -(-self.term_bits // self.weight_bits)

    @property
    def spacing(self) -> int:
        """Lanes from one of a word of sums to the next."""
        return -(-self.sum_bits // (self.term_spacing * self.weight_bits)) * self.term_spacing

    @property
    def lanes(self) -> int:
        """Lanes of a word of sums."""
        return max(1, 1 + (WORD_BITS - self.sum_bits) // (self.spacing * self.weight_bits))

    def _every(self, spacing: int) -> list[range]:
        together = self.lanes * self.spacing
        return [
            range(first, min(start + together, self.d_model), spacing)
            for start in range(0, self.d_model, together)
            for first in range(start, min(start + spacing, self.d_model))
        ]

    @property
    def terms(self) -> list[range]:
        """Word of terms -> its lanes."""
        return self._every(self.term_spacing)

    @property
    def sums(self) -> list[range]:
        """Word of sums -> its lanes."""
        return self._every(self.spacing)

    def place(self, lanes: range, lane: int) -> int:
        """Return the lowest bit of a lane's field in the word of these lanes, of sums or of terms."""
        return (lane - lanes.start) * self.weight_bits

    def width(self, lanes: range, bits: int) -> int:
        """Return the bits of a word of these lanes whose fields have `bits`."""
        return self.place(lanes, lanes[-1]) + bits

    def low(self, word: Value, lanes: range, bits: int) -> Value:
        """Return a word whose fields are below `2**bits`, and says so to synthesis."""
        return word & sum(((1 << bits) - 1) << self.place(lanes, lane) for lane in lanes)

    def spread(self, row: Value, lanes: range) -> Value:
        """Return these lanes' weights of a row, offset to be unsigned, as a word of terms."""
        first = lanes.start * self.weight_bits
        weights = self.low(row[first : first + self.width(lanes, self.weight_bits)], lanes, self.weight_bits)
        return weights ^ sum(1 << self.place(lanes, lane) + self.weight_bits - 1 for lane in lanes)

    def part(self, terms: Value, lanes: range, sums: range) -> Value:
        """Return of a word of `lanes`' terms what it adds to the word of `sums`, whose lanes are among them."""
        first = self.place(lanes, sums.start)
        return self.low(terms[first : first + self.width(sums, self.term_bits)], sums, self.term_bits)
