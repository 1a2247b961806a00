# SPDX-License-Identifier: MIT
"""The circuit's units side by side in one module, so that a geometry's benches need one simulation only."""

from collections.abc import Sequence

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.accelerator import Accelerator
from hw.axi import AxiLite, AxiLiteSlave
from hw.bank import NeuronBank
from hw.core import ATTENTIONS
from hw.counters import DecisionCounters
from hw.dendrites import Dendrites
from hw.embed import Embedding
from hw.gate import StepGate
from hw.head import Head
from hw.lanes import LaneArray
from hw.lif import LifNeuron
from hw.memory import PolicyMemory
from hw.memory_map import memory_map
from hw.phase import PhaseGate
from hw.plasticity import HeadPlasticity
from hw.regfile import RegisterFile
from hw.registers import register_table
from hw.residual import ResidualStore
from hw.sequencer import Sequencer
from hw.walker import RowWalker
from hw.weights import WeightRows
from model.deployed.geometry import Geometry


class BankAndStore(wiring.Component):
    """The neuron bank on its residual store, as the core connects them.

    Members
    -------
    bank : all of the bank's ports but those to the store
    clear, running_signature, saturations, probe : the store's

    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self._bank, self._store = NeuronBank(geometry), ResidualStore(geometry)
        members = {
            name: member
            for name, member in self._bank.signature.members.items()
            if name != "residual" and not name.startswith("residual_")
        }
        store = self._store.signature.members
        members |= {name: store[name] for name in ("clear", "running_signature", "saturations", "probe")}
        self._outer = list(members)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.bank = bank = self._bank
        m.submodules.store = store = self._store
        pairs = [(bank.residual_valid, store.i_valid), (bank.residual_group, store.i_group)]
        pairs += [(bank.residual_embed, store.i_embed), (self.busy, store.busy)]
        for c in range(self.geometry.group):
            pairs += [
                (bank.residual_sums[c], store.sums[c]),
                (bank.residual_embedded[c], store.embedded[c]),
                (bank.residual_bias[c], store.bias[c]),
                (bank.residual_level[c], store.level[c]),
                (store.o[c], bank.residual[c]),
            ]
        m.d.comb += [sink.eq(source) for source, sink in pairs]
        for name in self._outer:
            unit = store if name in ("clear", "running_signature", "saturations", "probe") else bank
            _connect(m, self, unit, name)
        return m


class Registers(wiring.Component):
    """The register file behind its AXI4-Lite slave, one policy memory on its page, registers at the outside.

    Members
    -------
    s_axil : AXI4-Lite
    busy, <REGISTER> : as in the register file

    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self._file = RegisterFile(register_table(geometry), memory_map(geometry))
        self._registers = [register.name for register in self._file.registers]
        members = self._file.signature.members
        super().__init__(
            {"s_axil": In(AxiLite(Accelerator.ADDRESS_BITS))}
            | {name: members[name] for name in (*self._registers, "busy")}
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.file = file = self._file
        m.submodules.slave = slave = AxiLiteSlave(Accelerator.ADDRESS_BITS)
        wiring.connect(m, wiring.flipped(self.s_axil), slave.s_axil)
        wiring.connect(m, slave.access, file.access)
        for name, section in memory_map(self.geometry).items():
            m.submodules[name] = store = PolicyMemory(section)
            wiring.connect(m, getattr(file, name), store.load)
        for name in (*self._registers, "busy"):
            _connect(m, self, file, name)
        return m


def _connect(m: Module, outer: wiring.Component, inner: wiring.Component, name: str) -> None:
    """Make a member of `inner` one of `outer`."""
    member = inner.signature.members[name]
    if member.is_signature:
        wiring.connect(m, wiring.flipped(getattr(outer, name)), getattr(inner, name))
        return
    ours, theirs = getattr(outer, name), getattr(inner, name)
    if not member.dimensions:
        ours, theirs = [ours], [theirs]
    for one, other in zip(ours, theirs, strict=True):
        m.d.comb += one.eq(other) if member.flow == Out else other.eq(one)


UNITS = {
    "lif": LifNeuron,
    "walker": lambda g: RowWalker(g, drain_cycles(g)),
    "lanes": LaneArray,
    "rows": WeightRows,
    "memory": lambda g: PolicyMemory(memory_map(g)["channels"], 2),
    "attention": lambda g: ATTENTIONS[g.attention](g),
    "dendrites": Dendrites,
    "bank": BankAndStore,
    "gate": StepGate,
    "phase": PhaseGate,
    "embed": Embedding,
    "head": Head,
    "plasticity": HeadPlasticity,
    "sequencer": Sequencer,
    "counters": DecisionCounters,
    "registers": Registers,
}
"""Name -> how to make the unit of a geometry."""


def units_of(g: Geometry) -> list[str]:
    """Return the names of the units that a circuit of this geometry has."""
    lacking = {
        "dendrites": g.attention != "lrf-dyn",
        "gate": not g.adaptive,
        "phase": g.phase != "query",
        "plasticity": g.plasticity is None,
    }
    return [name for name in UNITS if not lacking.get(name)]


def drain_cycles(g: Geometry) -> int:
    """Return the walker's drain as the core sets it."""
    return max(g.groups, NeuronBank.latency(g) + 1)


class AllUnits(wiring.Component):
    """The units of `units_of`, or those of some names, each with its ports outside under its name."""

    def __init__(self, geometry: Geometry, names: Sequence[str] | None = None) -> None:
        self._units = {name: UNITS[name](geometry) for name in names or units_of(geometry)}
        super().__init__({name: Out(unit.signature) for name, unit in self._units.items()})

    def elaborate(self, platform):
        m = Module()
        for name, unit in self._units.items():
            m.submodules[name] = unit
            wiring.connect(m, wiring.flipped(getattr(self, name)), unit)
        return m
