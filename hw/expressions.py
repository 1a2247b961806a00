# SPDX-License-Identifier: MIT
"""Expressions of many terms."""

from collections.abc import Sequence

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, ValueLike

IF_VALID = "_if_valid"
"""How the name ends of a signal that is only something while it is valid."""


def tree(terms: Sequence[ValueLike]) -> ValueLike:
    """Return the sum of terms, added in pairs: one after the other they become one long cascade of multipliers."""
    while len(terms) > 1:
        pairs = [Value.cast(terms[at]) + terms[at + 1] for at in range(0, len(terms) - 1, 2)]
        terms = [*pairs, *terms[len(terms) & ~1 :]]
    return terms[0]


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


def chosen(terms: Sequence[ValueLike], number: Value) -> ValueLike:
    """Return the term of that number, the last for numbers beyond.

    The number of a single term has no bits: a switch on it takes its default in the Verilog that Amaranth writes, its
    case in Amaranth's simulator.
    """
    return terms[0] if len(terms) == 1 else Array(terms)[number]


def saturated(value: Value, bits: int) -> tuple[Value, Value]:
    """Return the clipped value and whether it was clipped: the bits above must repeat the sign."""
    above = value[bits - 1 :]
    clips = above.any() & ~above.all()
    limit = Cat((~value[-1]).replicate(bits - 1), value[-1])
    return Mux(clips, limit, value[:bits]).as_signed(), clips


def if_valid(m: Module, valid: Value, value: ValueLike, name: str) -> Signal:
    """Return a signal that is `value` while `valid`, and otherwise anything: nobody may look at it.

    A simulator works `value` out only while it is valid. In Verilog the signal is x otherwise (`hw.generate`), which
    synthesis may take for `value` too, and a simulator for what it pleases.
    """
    value = Value.cast(value)
    signal = Signal(value.shape(), name=name + IF_VALID, init=1)
    with m.If(valid):
        m.d.comb += signal.eq(value)
    return signal


def towards_zero(value: Value, places: int) -> Value:
    """Return a signed value over `2**places`, its fraction dropped: a shift alone would round negative ones down."""
    return (value + Mux(value < 0, (1 << places) - 1, 0)) >> places
