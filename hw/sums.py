# SPDX-License-Identifier: MIT
"""Sums of many terms."""

from collections.abc import Sequence

from amaranth.hdl import Value, ValueLike


def tree(terms: Sequence[ValueLike]) -> Value:
    """Return the sum of terms, added in pairs: one after the other they become one long cascade of adders."""
    terms = [Value.cast(term) for term in terms]
    while len(terms) > 1:
        terms = [terms[at] + terms[at + 1] for at in range(0, len(terms) - 1, 2)] + terms[len(terms) & ~1 :]
    return terms[0]
