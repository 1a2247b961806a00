# SPDX-License-Identifier: MIT
"""Sums of many terms."""

from collections.abc import Sequence

from amaranth.hdl import Value, ValueLike


def tree(terms: Sequence[ValueLike]) -> ValueLike:
    """Return the sum of terms, added in pairs: one after the other they become one long cascade of multipliers."""
    while len(terms) > 1:
        pairs = [Value.cast(terms[at]) + terms[at + 1] for at in range(0, len(terms) - 1, 2)]
        terms = [*pairs, *terms[len(terms) & ~1 :]]
    return terms[0]
