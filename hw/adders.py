# SPDX-License-Identifier: MIT
"""Sums of many terms, in the shapes that synthesis makes short paths of."""

from collections.abc import Iterable, Sequence

from amaranth.hdl import Cat, Value, ValueLike


def sum_in_pairs(terms: Sequence[ValueLike]) -> Value:
    """Return the sum of one term or more, added in pairs: one after the other they become one long cascade."""
    values = [Value.cast(term) for term in terms]
    while len(values) > 1:
        values = [values[at] + values[at + 1] for at in range(0, len(values) - 1, 2)] + values[len(values) & ~1 :]
    return values[0]


def count_ones(bits: Iterable[ValueLike]) -> Value:
    """Return how many of one bit or more are set, unsigned.

    Full adders, weight by weight, written as logic: look-up tables take several of them at once, which the carry chains
    of sums that are so narrow would not.
    """
    column, digits = [Value.cast(bit) for bit in bits], []
    while column:
        carries: list[Value] = []
        while len(column) > 1:
            (a, b, *c), column = column[:3], column[3:]
            column.append(a ^ b ^ c[0] if c else a ^ b)
            carries.append((a & b) | (c[0] & (a ^ b)) if c else a & b)
        digits.append(column[0])
        column = carries
    return Cat(digits)
