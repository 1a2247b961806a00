# SPDX-License-Identifier: MIT
"""Sums of many terms, in the shapes that synthesis makes short paths of."""

from collections.abc import Sequence

from amaranth.hdl import Cat, Value, ValueLike


def sum_in_pairs(terms: Sequence[ValueLike]) -> Value:
    """Return the sum of one term or more, added in pairs: one after the other they become one long cascade."""
    values = [Value.cast(term) for term in terms]
    while len(values) > 1:
        values = [values[at] + values[at + 1] for at in range(0, len(values) - 1, 2)] + values[len(values) & ~1 :]
    return values[0]


def sum_of_bits(columns: Sequence[Sequence[ValueLike]]) -> Value:
    """Return the sum of bits, those in columns[w] weighing 2**w, unsigned. No column may be empty.

    Full adders, column by column, written as logic: look-up tables take several of them at once, which the carry chains
    of numbers so narrow would not.
    """
    rest, digits = [[Value.cast(bit) for bit in column] for column in columns], []
    while rest:
        column, carries = rest.pop(0), []
        while len(column) > 1:
            (a, b, *c), column = column[:3], column[3:]
            column.append(a ^ b ^ c[0] if c else a ^ b)
            carries.append((a & b) | (c[0] & (a ^ b)) if c else a & b)
        digits.append(column[0])
        if carries:
            rest[:1] = [rest[0] + carries] if rest else [carries]
    return Cat(digits)
