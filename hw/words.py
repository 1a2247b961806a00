# SPDX-License-Identifier: MIT
"""How lanes lie side by side in words: fields that never carry into the next, added by one adder."""

from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Value

from model.deployed.geometry import Geometry

WORD_BITS = 63
"""Of a word at most: a sum of two then has 64, which a simulator adds at once; all lanes of one step, not all steps of
one lane, so that the same spike steers a whole word."""


@dataclass(frozen=True)
class Words:
    """The lanes of one step in words of sums, and in words of what one cycle adds to them.

    A lane's sum takes `sum_bits` (`Geometry.pass_bits`), what a cycle adds to it `term_bits`. `lanes` sums lie in a
    word, one field after the other. As many of these words as have room in each other's fields are one word of terms.
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
    def lanes(self) -> int:
        """Lanes of a word of sums."""
        return max(1, WORD_BITS // self.sum_bits)

    @property
    def shared(self) -> int:
        """Words of sums whose terms lie in one word."""
        return self.sum_bits // self.term_bits

    @property
    def terms(self) -> list[range]:
        """Word of terms -> its lanes."""
        step = self.lanes * self.shared
        return [range(first, min(first + step, self.d_model)) for first in range(0, self.d_model, step)]

    @property
    def sums(self) -> list[range]:
        """Word of sums -> its lanes."""
        return [range(first, min(first + self.lanes, self.d_model)) for first in range(0, self.d_model, self.lanes)]

    def place(self, lanes: range, lane: int) -> int:
        """Return the lowest bit of a lane's term in the word of these lanes' terms."""
        shared, place = divmod(lane - lanes.start, self.lanes)
        return place * self.sum_bits + shared * self.term_bits

    def width(self, lanes: range) -> int:
        """Return the bits of a word of these lanes' terms."""
        return max(self.place(lanes, lane) for lane in lanes) + self.term_bits

    def spread(self, row: Value, lanes: range) -> Value:
        """Return these lanes' weights of a row, offset to be unsigned, as a word of terms."""
        word = Value.cast(Const(0, 0))
        for lane in sorted(lanes, key=lambda lane: self.place(lanes, lane)):
            weight = row[lane * self.weight_bits : (lane + 1) * self.weight_bits]
            word = Cat(word, Const(0, self.place(lanes, lane) - len(word)), weight)
        return word ^ sum(1 << self.place(lanes, lane) + self.weight_bits - 1 for lane in lanes)

    def low(self, terms: Value, lanes: range, bits: int) -> Value:
        """Return a word of terms of which each is below `2**bits`, and says so to synthesis."""
        return terms & sum(((1 << bits) - 1) << self.place(lanes, lane) for lane in lanes)

    def part(self, terms: Value, lanes: range, sums: range) -> Value:
        """Return of a word of `lanes`' terms what it adds to the word of `sums`, whose lanes are among them."""
        field = (1 << self.term_bits) - 1
        fields = sum(field << place * self.sum_bits for place in range(len(sums)))
        return terms[self.place(lanes, sums.start) :] & fields
