# SPDX-License-Identifier: MIT
"""Integers as bits, low ones first."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def spread_bits(values: Integers, bits: int) -> Integers:
    """Spread integers over a last axis of bits."""
    return (values[..., None] >> np.arange(bits)) & 1


def gather_bits(spread: NDArray[Any], signed: bool) -> Integers:
    """Undo `spread_bits`; the last bit is a sign if `signed`."""
    weights = np.int64(1) << np.arange(spread.shape[-1])
    if signed:
        weights[-1] = -weights[-1]
    integers: Integers = spread @ weights
    return integers
