# SPDX-License-Identifier: MIT
"""The geometries that have a name. Standard library only: the board imports this file."""

import dataclasses

from model.deployed.geometry import Geometry, GeometryError
from model.deployed.sizes import Plasticity

TINY = Geometry(
    observation_size=11, action_size=3, d_model=16, layers=2, window=4, rows_per_cycle=1, group=8, table_log2=8
)
"""Simulates in seconds; serves the test policy."""

ODD = Geometry(
    observation_size=5,
    action_size=2,
    d_model=20,
    layers=2,
    steps=3,
    window=3,
    mlp_ratio=3,
    weight_bits=3,
    dense_weight_bits=5,
    input_bits=6,
    membrane_bits=8,
    table_log2=6,
    rows_per_cycle=2,
    group=10,
)
"""Sizes that are no powers of two and a membrane narrow enough to saturate."""

WIDE = Geometry(observation_size=5, action_size=2, d_model=16, layers=1, window=3, mlp_ratio=64, weight_bits=8, group=8)
"""Small, but with sums, biases and thresholds of 18 bits."""

HOPPER_Z2 = Geometry(observation_size=17, action_size=6, d_model=128, layers=3, rows_per_cycle=4)
"""What fits a PYNQ-Z2: Hopper, and any environment of at most 17 observations and 6 actions."""

HOPPER_Z2_LEAN = dataclasses.replace(HOPPER_Z2, rows_per_cycle=1, group=8)
"""The circuit of HOPPER_Z2's policies in half the place: one weight row a cycle, eight channels at a time."""

HOPPER_Z2_SHALLOW = dataclasses.replace(HOPPER_Z2, layers=2)
"""HOPPER_Z2 with a layer less."""

HOPPER_Z2_SSSA = HOPPER_Z2.with_attention("sssa")
"""HOPPER_Z2 with attention by matches, in each SNN step alone."""

HOPPER_Z2_TSSA = HOPPER_Z2.with_attention("tssa")
"""HOPPER_Z2 with attention by matches over all SNN steps."""

HOPPER_Z2_LRF = dataclasses.replace(HOPPER_Z2.with_attention("lrf-dyn"), dendrites=4, rows_per_cycle=2)
"""HOPPER_Z2 with dendrites for a window: as many as fit a PYNQ-Z2, and half the weight rows a cycle to make room."""

HOPPER_Z2_PLASTIC = dataclasses.replace(HOPPER_Z2, plasticity=Plasticity())
"""HOPPER_Z2 with a head that learns."""

CLASSIC = Geometry(observation_size=6, action_size=3, d_model=64, layers=2)
"""Classic control: any of its environments."""

Z2_256 = Geometry(
    observation_size=17, action_size=6, d_model=256, layers=3, mlp_ratio=2, weight_bits=2, rows_per_cycle=2, group=8
)
"""Twice as wide: 2-bit weights meant for a PYNQ-Z2's block RAM, half of HOPPER_Z2's rows and channels a cycle."""

ZCU104_256 = Geometry(
    observation_size=17, action_size=6, d_model=256, layers=4, mlp_ratio=2, weight_bits=8, rows_per_cycle=4
)
"""Twice as wide, 8-bit weights, meant for a ZCU104: two banks of 4096 rows, as deep as an UltraRAM."""

PRESETS = {
    "TINY": TINY,
    "ODD": ODD,
    "HOPPER_Z2": HOPPER_Z2,
    "HOPPER_Z2_LEAN": HOPPER_Z2_LEAN,
    "HOPPER_Z2_SHALLOW": HOPPER_Z2_SHALLOW,
    "HOPPER_Z2_SSSA": HOPPER_Z2_SSSA,
    "HOPPER_Z2_TSSA": HOPPER_Z2_TSSA,
    "HOPPER_Z2_LRF": HOPPER_Z2_LRF,
    "HOPPER_Z2_PLASTIC": HOPPER_Z2_PLASTIC,
    "Z2_256": Z2_256,
    "ZCU104_256": ZCU104_256,
    "CLASSIC": CLASSIC,
    "WIDE": WIDE,
}


def preset(name: str) -> Geometry:
    """Return the preset of that name. Raises `GeometryError` that lists the names."""
    if name not in PRESETS:
        raise GeometryError(f"unknown geometry {name!r}; the presets are {', '.join(PRESETS)}")
    return PRESETS[name]
