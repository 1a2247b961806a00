# SPDX-License-Identifier: MIT
"""A register-level model of the circuit on the golden network, so that the driver runs with no circuit at all.

Every register and page answers as in the circuit. A decision takes no time and its cycle counters read zero; those
that REPEAT asks for come one with each further access.
"""

from collections.abc import Callable

import numpy as np

from host.bus import Bus, BusError, Words
from host.dendrite_rows import pack_state
from host.policy_image import pack_head, pack_rows, unpack
from hw.memory_map import Section, memory_map
from hw.registers import (
    INTERFACE_VERSION,
    MAGIC,
    PAGE_OFFSET,
    PAGE_WORDS,
    ROW_UNITS,
    WINDOW_BYTES,
    field_mask,
    register_table,
)
from model.deployed.artifact import ArtifactError, Policy
from model.deployed.geometry import Geometry
from model.deployed.golden import GoldenNetwork, Trace
from model.deployed.golden_attention import Attention, Dynamics
from model.deployed.golden_plasticity import PlasticNetwork

IDENTITY = ("MAGIC", "VERSION", "GEOMETRY_ID")


class GoldenBus(Bus):
    """The register window of a circuit of this geometry, computed by `model.deployed.golden`.

    Loading policy memory forgets the episode; in the circuit the ring would outlive it, so load before NEW_EPISODE.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        table = register_table(geometry)
        self._registers = {
            register.offset + 4 * index: (register, index) for register in table for index in range(register.count)
        }
        self._sections = memory_map(geometry)
        self._memory = {
            name: np.zeros(section.rows * section.stride, np.uint32) for name, section in self._sections.items()
        }
        self._masks = {name: _word_masks(section) for name, section in self._sections.items()}
        self._stored = {register.name: [0] * register.count for register in table}
        self._stored |= {"MAGIC": [MAGIC], "VERSION": [INTERFACE_VERSION], "GEOMETRY_ID": [geometry.identifier]}
        # what a soft reset clears: the core's results, not what outlives it
        kept = (*IDENTITY, "TOTAL_DECISIONS", "TOTAL_CYCLES_LOW", "TOTAL_CYCLES_HIGH")
        self._results = [r for r in table if r.access == "RO" and r.name not in kept]
        self._actions: dict[str, Callable[[], None]] = {
            "NEW_EPISODE": self._new_episode,
            "SOFT_RESET": self._soft_reset,
            "SNAPSHOT": self._snapshot,
        }
        self._network: GoldenNetwork | None = None
        self._tokens = 0
        self._decisions = 0
        self._token: Words = np.zeros(0, np.uint32)  # as START found it
        self._repeats_left = 0  # one of them is decided with every access, as a simulated circuit would
        self._started = 0

    # Bus

    def read32(self, address: int) -> int:
        """Return the word at `address`; zero, and BAD_ADDRESS, where nothing answers."""
        return int(self.read_block(address, 1)[0])

    def write32(self, address: int, word: int) -> None:
        """Store a word at `address`; a write that nothing takes sets BAD_ADDRESS."""
        self.write_block(address, np.array([word], np.uint32))

    def read_block(self, address: int, count: int) -> Words:
        """Return `count` successive words, uint32 [count]."""
        self._check(address, count)
        self._advance()
        words = np.zeros(count, np.uint32)
        for index in range(min(count, max(0, (PAGE_OFFSET - address) // 4))):
            words[index] = self._read_register(address + 4 * index)
        in_page = max(0, (PAGE_OFFSET - address) // 4)
        if in_page < count:
            section, start, present = self._locate(address + 4 * in_page, count - in_page)
            if section is not None:
                words[in_page : in_page + present] = self._memory[section.name][start : start + present]
        return words

    def write_block(self, address: int, words: Words) -> None:
        """Store successive words."""
        self._check(address, len(words))
        self._advance()
        in_page = max(0, (PAGE_OFFSET - address) // 4)
        for index, word in enumerate(words[:in_page]):
            self._write_register(address + 4 * index, int(word))
        if in_page < len(words):
            section, start, present = self._locate(address + 4 * in_page, len(words) - in_page)
            if section is not None and not section.writable:
                self._flag("BAD_ADDRESS")
            elif section is not None:
                place = np.arange(start, start + present)
                masks = self._masks[section.name][place % section.stride]
                self._memory[section.name][place] = words[in_page : in_page + present] & masks
                self._network = None

    @staticmethod
    def _check(address: int, count: int) -> None:
        if address % 4 or address < 0 or count < 0 or address + 4 * count > WINDOW_BYTES:
            raise BusError(f"{count} words at 0x{address:x} do not lie in the register window of {WINDOW_BYTES} bytes")

    def _locate(self, address: int, count: int) -> tuple[Section | None, int, int]:
        """Return the section that the page shows at `address`, the word to begin with and how many words it has."""
        page = self._stored["PAGE"][0]
        if self._repeats_left:
            self._flag("REFUSED")
            return None, 0, 0
        for section in self._sections.values():
            if section.page <= page < section.page + section.pages:
                start = (page - section.page) * PAGE_WORDS + (address - PAGE_OFFSET) // 4
                present = max(0, min(count, section.rows * section.stride - start))
                if present < count:
                    self._flag("BAD_ADDRESS")
                return section, start, present
        self._flag("BAD_ADDRESS")
        return None, 0, 0

    # Registers

    def _flag(self, name: str) -> None:
        self._stored["STATUS"][0] |= field_mask(self.geometry, "STATUS", name)

    def _read_register(self, address: int) -> int:
        if address not in self._registers:
            self._flag("BAD_ADDRESS")
            return 0
        register, index = self._registers[address]
        return self._stored[register.name][index]

    def _write_register(self, address: int, word: int) -> None:
        if address not in self._registers:
            self._flag("BAD_ADDRESS")
            return
        register, index = self._registers[address]
        if register.name == "CONTROL":
            for name, bit, _ in register.fields:
                if word >> bit & 1:
                    self._actions[name]()
        elif register.name == "STATUS":
            self._stored["STATUS"][0] &= ~word | field_mask(self.geometry, "STATUS", "BUSY")
        elif register.access == "RW":
            before = self._stored[register.name][index]
            if register.idle_only and self._repeats_left and word != before:
                self._flag("REFUSED")
                return
            self._stored[register.name][index] = word & ((1 << register.width) - 1)
            if register.name == "START" and word != before:
                self._start(word)
            elif register.name == "LEARN" and word != before:
                self._learn(word)
            elif register.name in ("INPUT_COUNT", "ACTION_COUNT", "ENTRY_THRESHOLD"):
                self._network = None

    def _new_episode(self) -> None:
        if self._repeats_left:
            self._flag("REFUSED")
            return
        self._tokens = self._stored["TOKENS"][0] = 0
        if "state" in self._memory:  # what is kept counts as zero from here on, and shows so
            self._memory["state"][:] = 0
        if "traces" in self._memory:
            self._memory["traces"][:] = 0
        if self._network:
            self._network.reset()

    def _soft_reset(self) -> None:
        self._repeats_left = 0
        self._stored["STATUS"][0] &= ~field_mask(self.geometry, "STATUS", "BUSY")
        self._new_episode()
        self._decisions = 0
        for register in self._results:
            self._stored[register.name] = [0] * register.count

    def _snapshot(self) -> None:
        self._stored["TOTAL_DECISIONS"] = [self._decisions & 0xFFFF_FFFF]

    # Decisions

    def _start(self, number: int) -> None:
        if self._network is None:
            self._network = self._loaded_network()
            self._new_episode()
        self._token = np.array(self._stored["INPUT"], "<u4")
        self._started, self._repeats_left = number, self._stored["REPEAT"][0]
        if self._repeats_left:
            self._flag("BUSY")
        self._decide()

    def _learn(self, number: int) -> None:
        if self._network is None:
            self._network = self._loaded_network()
            self._new_episode()
        network, bits = self._network, self.geometry.require_plasticity().factor_bits
        assert isinstance(network, PlasticNetwork)
        network.frozen = bool(self._stored["FROZEN"][0])
        factor = self._stored["FACTOR"][0]
        network.learn(factor - (factor >> (bits - 1) << bits))
        self._memory["head"][:] = pack_head(self.geometry, network.weight)
        self._stored["LEARNED"] = [number]

    def _loaded_network(self) -> GoldenNetwork:
        policy = self._loaded_policy()
        return PlasticNetwork(policy) if self.geometry.plasticity else GoldenNetwork(policy)

    def _advance(self) -> None:
        if self._repeats_left:
            self._repeats_left -= 1
            self._decide()

    def _decide(self) -> None:
        assert self._network is not None
        g, inputs = self.geometry, self._stored["INPUT_COUNT"][0]
        if isinstance(self._network, PlasticNetwork):
            self._network.frozen = bool(self._stored["FROZEN"][0])
        trace = self._network.decide(self._token.view(np.int8)[:inputs].astype(np.int64))
        for layer, attention in enumerate(self._network.attention):
            self._keep(layer, attention)
        self._memory["residual"][:] = pack_rows(
            trace.membranes[-1].T.reshape(g.groups, -1), g.membrane_bits, self._sections["residual"]
        )
        if isinstance(self._network, PlasticNetwork):
            rule, section = g.require_plasticity(), self._sections["traces"]
            rows = pack_rows(self._network.eligibility.reshape(-1, g.group), rule.trace_bits, section)
            self._memory["traces"][: len(rows)] = rows
        self._tokens += 1
        self._decisions += 1
        self._record(trace)
        if not self._repeats_left:
            self._stored["DONE"] = [self._started]
            self._stored["STATUS"][0] &= ~field_mask(g, "STATUS", "BUSY")

    def _keep(self, layer: int, attention: Attention) -> None:
        """Show in the probes what the attention of a layer keeps of this token and those before."""
        g = self.geometry
        if isinstance(attention, Dynamics):
            words = g.d_model * self._sections["state"].stride
            rows = pack_state(g, attention.x, attention.values[: g.reach])
            self._memory["state"][layer * words : (layer + 1) * words] = pack_rows(rows, 1, self._sections["state"])
        else:
            assert self._network is not None
            words = g.groups * self._sections["ring"].stride  # of one token in one layer
            place = (layer * g.window + self._tokens % g.window) * words
            kept = self._network.ring(layer)[0]  # [kept, steps, d_model]
            spikes = kept.reshape(*kept.shape[:2], g.groups, g.group).transpose(2, 0, 3, 1)
            rows = spikes.reshape(g.groups, -1).astype(np.int64)
            self._memory["ring"][place : place + words] = pack_rows(rows, 1, self._sections["ring"])

    def _loaded_policy(self) -> Policy:
        registers = {name: self._stored[name][0] for name in ("INPUT_COUNT", "ACTION_COUNT", "ENTRY_THRESHOLD")}
        inputs, actions = registers["INPUT_COUNT"], registers["ACTION_COUNT"]
        observations = inputs - actions - 1
        try:
            if actions < 1 or observations < 1:
                raise ArtifactError(f"{inputs} token components and {actions} actions leave no observation or action")
            return Policy(
                geometry=self.geometry,
                tensors=unpack(self.geometry, self._memory, registers),
                input_mean=np.zeros(observations),
                input_std=np.ones(observations),
                input_scale=np.ones(inputs),
                environment="",
                target_return=0.0,
                return_scale=1.0,
            )
        except ArtifactError as error:
            raise BusError(f"what was loaded is no policy: {error}; load one before START") from None

    def _record(self, trace: Trace) -> None:
        g, stored = self.geometry, self._stored
        actions = np.zeros(2 * len(stored["ACTION"]), np.int16)
        actions[: len(trace.action)] = trace.action
        stored["ACTION"] = actions.view("<u4").tolist()
        stored["SIGNATURE"] = trace.signatures
        stored["SATURATIONS"] = [trace.saturations]
        stored["TOKENS"] = [min(self._tokens, g.reach + 1)]
        stored["LAYER_ROWS"] = [0] * g.layers
        units = dict.fromkeys(ROW_UNITS, 0)
        for layer in range(g.layers):
            for unit, rows in layer_rows(g, trace, layer).items():
                units[unit] += rows
                stored["LAYER_ROWS"][layer] += rows
        for unit, rows in units.items():
            stored[f"ROWS_{unit}"] = [rows]


def layer_rows(g: Geometry, trace: Trace, layer: int) -> dict[str, int]:
    """Return the weight rows that a layer fetches in a decision, by unit."""
    rows = {part: trace.active_rows[f"layer{layer}.{part}"] for part in ("key", "proj", "fc1", "fc2")}
    return {
        "QKV": len(g.projections) * rows["key"],
        "PROJ": rows["proj"],
        "FC1": g.mlp_ratio * rows["fc1"],
        "FC2": rows["fc2"],
    }


def _word_masks(section: Section) -> Words:
    """Return which bits of each word of a row exist, uint32 [stride]."""
    bits = np.clip(section.row_bits - 32 * np.arange(section.stride), 0, 32)
    return ((np.uint64(1) << bits.astype(np.uint64)) - np.uint64(1)).astype(np.uint32)
