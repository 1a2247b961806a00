# SPDX-License-Identifier: MIT
"""What a fault can hit: every flip-flop and every memory bit of the accelerator, sorted by what they hold."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from hw.generate import TOP

_MODULE = re.compile(r"^module (?:\\)?(\S+) ?\(.*?^endmodule", re.MULTILINE | re.DOTALL)
_DECLARED = re.compile(
    r"^  reg (?:signed )?(?:\[(\d+):0\] )?(\\?[^\s\[;]+)\s*(?:\[(\d+):0\])?\s*(?:=.*)?;$", re.MULTILINE
)
_CLOCKED = re.compile(r"^ +(\\?[^\s\[(]+).* <= ", re.MULTILINE)

MEMORIES = {
    "weights": r"core\.lanes\.weights",
    "other policy memory": r"core\.(bank\.channels|embed\.weights|head\.\w+|window\.tap_store)$",
    "past tokens": r"core\.window$",
    "membranes": r"core\.residual$",
    "spikes": r"core\.sequencer$",
    "sums": r"core\.head$",
    "answers to the bus": r"slave\.words$",
}
REGISTERS = {
    "accumulators": r"core\.lanes$",
    "neurons and sums": r"core\.(bank|embed|head|residual|window)\b",
    "sequencer and walker": r"core\.(sequencer|walker)$",
    "counters": r"core\.counters$",
    "core control": r"core$",
    "registers and bus": r"",
}
"""Class -> where below the accelerator; the first that fits counts."""


@dataclass(frozen=True)
class Target:
    """A register, or a memory.

    path : of its instance, the top left out. name : of the variable, as Verilog has it. bits : width. depth : words of
    a memory, 0 for a register. kind : its class.
    """

    path: tuple[str, ...]
    name: str
    bits: int
    depth: int
    kind: str

    @property
    def total_bits(self) -> int:
        """Bits that can flip."""
        return self.bits * max(1, self.depth)


def targets(verilog: str) -> Iterator[Target]:
    """Yield the targets in Verilog as Amaranth writes it, where a module is called by its place in the hierarchy."""
    for module in _MODULE.finditer(verilog):
        path = module[1].removeprefix(f"{TOP}.")
        if not path.startswith("accelerator"):
            continue
        clocked = set(_CLOCKED.findall(module[0]))
        for high, name, depth in _DECLARED.findall(module[0]):
            if name in clocked:
                where = path.removeprefix("accelerator").removeprefix(".")
                kind = next(kind for kind, at in (MEMORIES if depth else REGISTERS).items() if re.search(at, where))
                words = int(depth) + 1 if depth else 0
                yield Target(tuple(path.split(".")), name.removeprefix("\\"), int(high or 0) + 1, words, kind)
