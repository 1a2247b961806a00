# SPDX-License-Identifier: MIT
"""Expressions of many terms."""

from collections.abc import Sequence

from amaranth.hdl import Array, Value, ValueLike


def tree(terms: Sequence[ValueLike]) -> ValueLike:
    """Return the sum of terms, added in pairs: one after the other they become one long cascade of multipliers."""
    while len(terms) > 1:
        pairs = [Value.cast(terms[at]) + terms[at + 1] for at in range(0, len(terms) - 1, 2)]
        terms = [*pairs, *terms[len(terms) & ~1 :]]
    return terms[0]


def chosen(terms: Sequence[ValueLike], number: Value) -> ValueLike:
    """Return the term of that number, the last for numbers beyond.

    The number of a single term has no bits: a switch on it takes its default in the Verilog that Amaranth writes, its
    case in Amaranth's simulator.
    """
    return terms[0] if len(terms) == 1 else Array(terms)[number]
