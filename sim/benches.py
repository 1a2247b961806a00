# SPDX-License-Identifier: MIT
"""A bench per unit: random, never constant stimuli with random stalls, compared with the golden functions.

Each runs in Amaranth's simulator (tests/test_hw_units.py) and, verilated, in cocotb (sim/test_units.py).
"""

from sim.dense_benches import counters, embed, head
from sim.neuron_benches import bank, lif, window
from sim.ports import Bench
from sim.register_bench import registers
from sim.row_benches import lanes, memory, rows, sequencer, walker

BENCHES: dict[str, Bench] = {
    "lif": lif,
    "walker": walker,
    "lanes": lanes,
    "rows": rows,
    "memory": memory,
    "window": window,
    "bank": bank,
    "embed": embed,
    "head": head,
    "sequencer": sequencer,
    "counters": counters,
    "registers": registers,
}
"""Name in `sim.units.UNITS` -> its bench."""
