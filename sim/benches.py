# SPDX-License-Identifier: MIT
"""A bench per unit: random, never constant stimuli with random stalls, compared with the golden functions.

Each runs in Amaranth's simulator (tests/test_hw_units.py) and, verilated, in cocotb (sim/test_units.py).
"""

import numpy as np

from model.deployed.geometry import Geometry
from sim.dendrite_benches import dendrites, dynamics
from sim.dense_benches import counters, embed, head
from sim.gate_bench import gate
from sim.match_benches import match
from sim.neuron_benches import bank, lif, window
from sim.phase_bench import phase
from sim.plasticity_bench import plasticity
from sim.ports import Bench, Ports
from sim.register_bench import registers
from sim.row_benches import lanes, memory, rows, sequencer, walker

ATTENTIONS = {"pssa": window, "sssa": match, "tssa": match, "lrf-dyn": dynamics}


async def attention(unit: Ports, g: Geometry, rng: np.random.Generator, stall: float) -> int:
    """The bench of the geometry's attention."""
    return await ATTENTIONS[g.attention](unit, g, rng, stall)


BENCHES: dict[str, Bench] = {
    "lif": lif,
    "walker": walker,
    "lanes": lanes,
    "rows": rows,
    "memory": memory,
    "attention": attention,
    "dendrites": dendrites,
    "bank": bank,
    "gate": gate,
    "phase": phase,
    "embed": embed,
    "head": head,
    "plasticity": plasticity,
    "sequencer": sequencer,
    "counters": counters,
    "registers": registers,
}
"""Name in `sim.units.UNITS` -> its bench."""
