# SPDX-License-Identifier: MIT
"""The one description of a network's size that model, circuit, simulation and host share.

`Geometry` holds choices (`model.deployed.sizes` has them, and what follows from them) and knows which go together.
Standard library only: the board imports this file.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from model.deployed.sizes import MATCHING, Plasticity, Sizes

VERSION = "0.1.0"
"""Of the project, recorded with every result."""


ATTENTIONS = ("pssa", "sssa", "tssa", "lrf-ssa", "lrf-dyn")
"""What `Geometry.attention` may be (docs/attention.md)."""

CIRCUITS = ("pssa", "sssa", "tssa", "lrf-dyn")
"""Those of them that a circuit computes."""

PHASES = ("none", "query", "input")
"""Where the phase codes of the heads act (docs/modules.md)."""

PHASE_CLOCKS = ("steps", "tokens")
"""What a phase code counts: the SNN steps of a token, or environment steps modulo `Geometry.period`."""

ROUTINGS = ("none", "count", "mlp")
"""How a token chooses a gain per head (docs/modules.md)."""

MOST_PASS_BITS = 24
"""Of the sum of a pass: integers of as many signed bits are exact in single precision."""

_GOES_WITH = {"dendrites": ("lrf-dyn",), "gate": ("lrf-dyn",), "heads": MATCHING}  # choice -> the attentions it is of


class GeometryError(ValueError):
    """A geometry that cannot be built; the message says what to change."""


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise GeometryError(sentence)


def _require_plasticity(plasticity: Any, weight_bits: int) -> None:
    _require(isinstance(plasticity, Plasticity), f"plasticity must be a Plasticity or None, not {plasticity!r}")
    ranges = {
        "trace_bits": (4, 24),
        "trace_shift": (1, 8),
        "rate_shift": (0, 24),
        "factor_bits": (2, 16),
        "most_change": (1, (1 << (weight_bits - 1)) - 1),
    }
    for name, (low, high) in ranges.items():
        value = getattr(plasticity, name)
        _require(
            type(value) is int and low <= value <= high, f"plasticity's {name} must be {low} to {high}, not {value!r}"
        )


@dataclass(frozen=True)
class Geometry(Sizes):
    """Sizes of a spike-driven decision transformer and of the circuit that runs it.

    `observation_size` and `action_size` are capacities: a circuit serves every policy of its geometry whose
    environment is that size or smaller.

    Raises `GeometryError` for sizes that do not go together.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type in (int, "int"):
                _require(type(value) is int and value > 0, f"{field.name} must be a positive integer, not {value!r}")
        _require(
            self.attention in ATTENTIONS, f"attention must be one of {', '.join(ATTENTIONS)}, not {self.attention!r}"
        )
        for name in ("gate", "adaptive"):
            value = getattr(self, name)
            _require(type(value) is bool, f"{name} must be true or false, not {value!r}")
        _require(self.phase in PHASES, f"phase must be one of {', '.join(PHASES)}, not {self.phase!r}")
        _require(
            self.phase_over in PHASE_CLOCKS,
            f"phase_over must be one of {', '.join(PHASE_CLOCKS)}, not {self.phase_over!r}",
        )
        _require(self.routing in ROUTINGS, f"routing must be one of {', '.join(ROUTINGS)}, not {self.routing!r}")
        # an option that would do nothing is a mistake
        for name, attentions in _GOES_WITH.items():
            more = ", or a phase or routing" if name == "heads" else ""
            _require(
                self._uses(name) or getattr(self, name) == getattr(type(self), name),
                f"{name} goes with {', '.join(attentions)} alone{more}: leave it at {getattr(type(self), name)} for "
                f"{self.attention}",
            )
        for name, partner in (("phase_over", "a phase"), ("period", "phase_over tokens")):
            default = getattr(type(self), name)
            _require(
                self._uses(name) or getattr(self, name) == default,
                f"{name} goes with {partner} alone: leave it at {default}",
            )
        _require(
            self.phase != "query" or self.gate, "phase query gates the query, which this geometry lacks: set gate true"
        )
        _require(
            self.routing != "count" or self.gate,
            "routing count counts query spikes, which this geometry lacks: set gate true",
        )
        _require(
            self.routing != "mlp" or self.heads > 1,
            "routing mlp is a softmax over heads: set heads to 2 or more, since one alone always has the gain 1",
        )
        if self.attention == "lrf-dyn":
            default = type(self).window
            _require(
                self.window == default,
                f"lrf-dyn has no window: leave window at {default}, not {self.window}, or choose another attention",
            )
            _require(2 <= self.dendrites <= 32, f"dendrites must be 2 to 32, not {self.dendrites}")
        _require(self.rows_per_cycle in (1, 2, 4), f"rows_per_cycle must be 1, 2 or 4, not {self.rows_per_cycle}")
        _require(
            self.rows_per_cycle < 4 or self.group % 2 == 0,
            f"rows_per_cycle 4 fetches even and odd rows apart: group must be even, not {self.group}",
        )
        _require(
            self.d_model % self.group == 0,
            f"d_model must be a multiple of group, but {self.d_model} is not one of {self.group}",
        )
        _require(
            self.d_model % self.heads == 0,
            f"d_model {self.d_model} cannot be shared among {self.heads} heads; choose a divisor",
        )
        _require(self.steps <= 8, f"steps must be at most 8, not {self.steps}")
        _require(
            self.steps > 2 or not self.adaptive,
            f"adaptive needs at least 3 steps, not {self.steps}: of fewer the neurons are done before the gate",
        )
        _require(self.layers <= 8, f"layers must be at most 8 (one signature register each), not {self.layers}")
        _require(self.window >= 2, f"window must span at least 2 tokens, not {self.window}")
        _require(2 <= self.weight_bits <= 8, f"weight_bits must be 2 to 8, not {self.weight_bits}")
        _require(2 <= self.dense_weight_bits <= 8, f"dense_weight_bits must be 2 to 8, not {self.dense_weight_bits}")
        _require(2 <= self.input_bits <= 8, f"input_bits must be 2 to 8, not {self.input_bits}")
        _require(4 <= self.membrane_bits <= 16, f"membrane_bits must be 4 to 16, not {self.membrane_bits}")
        _require(4 <= self.table_log2 <= 12, f"table_log2 must be 4 to 12, not {self.table_log2}")
        _require(self.action_size <= 32, f"action_size must be at most 32, not {self.action_size}")
        _require(self.observation_size <= 128, f"observation_size must be at most 128, not {self.observation_size}")
        _require(
            self.pass_bits <= MOST_PASS_BITS,
            f"d_model x mlp_ratio at {self.weight_bits}-bit weights needs {self.pass_bits} accumulator bits; at most "
            f"{MOST_PASS_BITS} are exact in single precision, which PyTorch and the golden network multiply in: lower "
            "d_model, mlp_ratio or weight_bits",
        )
        _require(
            self.attention_bits <= 16,
            f"{self.attention} over {self.window} tokens needs {self.attention_bits} accumulator bits, at most 16: "
            "lower d_model, window or steps, or take more heads",
        )
        _require(
            self.head_bits <= 32,
            f"the head needs {self.head_bits} bits, at most 32: lower dense_weight_bits or d_model",
        )
        if self.plasticity is not None:
            _require_plasticity(self.plasticity, self.dense_weight_bits)

    def _uses(self, name: str) -> bool:
        """Return whether a choice that goes with others alone means something here."""
        uses = {
            "heads": self.phase != "none" or self.routing != "none",
            "routing": self.routing != "none",
            "phase": self.phase != "none",
            "phase_over": self.phase != "none",
            "period": self.phase != "none" and self.phase_over == "tokens",
            "adaptive": self.adaptive,
            "plasticity": self.plasticity is not None,
        }
        return uses.get(name, False) or self.attention in _GOES_WITH.get(name, ())

    # Identity

    def to_json(self) -> str:
        """Return the choices as canonical JSON: sorted keys, no spaces; what goes with others alone where it counts."""
        choices = dataclasses.asdict(self)
        for name in (*_GOES_WITH, "phase", "phase_over", "period", "routing", "adaptive", "plasticity"):
            # one head is what there was before there were several: the digests of those geometries stay
            if not self._uses(name) or (name, choices[name]) == ("heads", 1):
                del choices[name]
        return json.dumps(choices, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Geometry":
        """Read `to_json` text. Raises `GeometryError` for unknown, missing or nonsensical fields."""
        try:
            choices: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise GeometryError(f"the geometry is not JSON: {error}") from None
        _require(isinstance(choices, dict), "the geometry must be a JSON object")
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(choices) - known)
        _require(not unknown, f"unknown geometry field {', '.join(unknown)}; the fields are {', '.join(sorted(known))}")
        try:
            if isinstance(choices.get("plasticity"), dict):
                choices["plasticity"] = Plasticity(**choices["plasticity"])
            return cls(**choices)
        except TypeError as error:
            raise GeometryError(f"the geometry lacks a field or has one too many: {error}") from None

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def identifier(self) -> int:
        """First 32 bits of the digest: what the GEOMETRY_ID register holds."""
        return int(self.digest[:8], 16)

    def require_circuit(self) -> None:
        """Raise `GeometryError` where no circuit computes the attention or a module, or heads lie across groups."""
        _require(
            self.attention in CIRCUITS,
            f"there is no circuit for {self.attention} yet, only for {', '.join(CIRCUITS)}: "
            "score this policy with python -m model.evaluate, or build a geometry with one of these",
        )
        _require(
            self.phase != "input",
            "there is no circuit for phase codes at a layer's entry yet, only on the query: score this policy with "
            "python -m model.evaluate, or build a geometry with phase query or none",
        )
        _require(
            self.routing == "none",
            "there is no circuit for routing yet: score this policy with python -m model.evaluate, or build a geometry "
            "with routing none",
        )
        share = self.d_model // self.heads
        _require(
            self.attention not in MATCHING or share % self.group == 0 or self.group % share == 0,
            f"heads of {share} channels lie across groups of {self.group}, for which there is no circuit: choose heads "
            "or group so that one is a multiple of the other",
        )

    def require_plasticity(self) -> Plasticity:
        """Return the head's rule. Raises `GeometryError` where the head does not learn."""
        if self.plasticity is None:
            raise GeometryError(
                "this geometry's head does not learn: choose one with plasticity, such as the preset HOPPER_Z2_PLASTIC"
            )
        return self.plasticity

    @property
    def circuit_choices(self) -> tuple[str, ...]:
        """Fields that are the circuit's alone: how many rows and channels it takes at a time.

        They change cycles, places in memory and the order of a signature; a policy's integers and actions are the same
        whatever they are. A step gate reads the first group, so that with one the group is the policy's too.
        """
        return ("rows_per_cycle",) if self.adaptive else ("rows_per_cycle", "group")

    def with_attention(self, attention: str) -> "Geometry":
        """Return the same sizes with another attention, what that one lacks back at its default."""
        lacking = [name for name, attentions in _GOES_WITH.items() if attention not in attentions]
        if self.phase != "none" or self.routing != "none":
            lacking = [name for name in lacking if name != "heads"]
        if attention == "lrf-dyn":
            lacking.append("window")
        return dataclasses.replace(self, attention=attention, **{name: getattr(type(self), name) for name in lacking})

    def differences(self, other: "Geometry", but: tuple[str, ...] = ()) -> list[str]:
        """Return 'field: mine, theirs' for every field that differs, those in `but` left out."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return [
            f"{name}: {mine[name]}, {theirs[name]}" for name in mine if name not in but and mine[name] != theirs[name]
        ]
