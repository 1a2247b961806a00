# SPDX-License-Identifier: MIT
"""Every choice of a training run, and the named presets."""

import dataclasses
import json
import math
import numbers
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.deployed.geometry import Geometry, GeometryError
from model.deployed.presets import preset
from model.network.layers import SPARSE_RANGES, Structure
from model.network.norm import NORMS, PTBN, SCHEDULES

NETWORKS = ("spiking", "dt-3-token", "dt-1-token", "dt-3-bit", "bc")
"""The spiking network and the baselines of `model.network.baselines`."""
INFERENCES = ("stream", "recompute")
DECAYS = ("cosine", "linear", "constant")
KINDS: dict[Any, Any] = {int: numbers.Integral, float: numbers.Real, bool: bool, str: str}
NOUNS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says what to change."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run: a float phase, then a quantisation-aware phase that starts from its result.

    Raises `ConfigError` for choices that do not go together.
    """

    geometry: Geometry
    """Sizes of the network, at least the environment's observation and action."""
    network: str = "spiking"
    """Which network: spiking, or a baseline of about as many parameters."""
    structure: Structure = field(default_factory=Structure)
    """How tokens are attended to."""
    inference: str = "stream"
    """How a decision is made: "stream" one token with a bounded state, or "recompute" the last `length` tokens."""
    length: int = 24
    """Tokens of a training window; to stream, at least `Geometry.context`, so that it sees what training saw."""
    batch: int = 64
    """Windows per update."""
    steps: int = 5000
    """Updates of the float phase."""
    quant_steps: int = 2000
    """Updates of the quantisation-aware phase; 0 leaves it out."""
    rate: float = 1e-3
    """Peak learning rate of the float phase."""
    quant_rate: float = 3e-4
    """Peak learning rate of the quantisation-aware phase."""
    warmup: float = 0.1
    """Share of a phase over which the rate rises; it falls by a cosine afterwards."""
    weight_decay: float = 1e-4
    """Decoupled decay of AdamW."""
    clip: float = 0.25
    """Largest norm of the gradient."""
    norm: str = "ptbn"
    """Which norm: ptbn, ptrepbn (its second form), tdbn (batch norm alone) or tdln (layer norm: no integer form)."""
    norm_schedule: str = "linear"
    """How PTBN, in either form, turns from layer norm into batch norm: linear, cosine or step."""
    norm_ratio: float = 0.1
    """Share of the float phase over which it turns."""
    norm_hold: float = 0.0
    """Share of the float phase before that in which it stays layer norm."""
    norm_freeze: float = 0.0
    """Share of the float phase, at its end, in which batch norms keep their statistics."""
    rate_decay: str = "cosine"
    """How the rate falls after its rise: cosine or linear down to 0, or constant."""
    average: float = 0.0
    """Decay per update of the running mean of the weights (EMA) that becomes the result; 0: the last weights do."""
    observation_noise: float = 0.0
    """Deviation of the noise on each normalised observation component in training."""
    action_dropout: float = 0.0
    """Chance that a token of a training window does not show its previous action (zeros in its place); at 1 the network
    does not read it (`model.training.unread`)."""
    action_hidden: bool = False
    """Whether the result does not read its previous action, which a share of the tokens showed in the float phase."""
    to_go_jitter: float = 0.0
    """Deviation of the factor, around 1, on the returns-to-go of a training window."""
    row_cost: float = 0.0
    """Weight in the loss of the share of weight rows that a decision fetches (`model.training.row_cost`)."""
    row_warmup: float = 0.25
    """Share of the float phase over which row cost and step cost rise to their weights."""
    step_cost: float = 0.0
    """Weight in the loss of the mean number of live SNN steps (`model.training.step_cost`); goes with step gates."""
    plasticity: float = 0.0
    """Rate of the head's three-factor rule beside the gradient, in the float phase (`model.training.plasticity`)."""
    delayed: bool = False
    """Whether all of an episode's reward comes at its end (D4RL's delayed reward)."""
    return_scale: float = 1000.0
    """Environment return per unit of the token's return-to-go."""
    target_return: float = 3600.0
    """Return the deployed policy asks for."""
    fraction_bits: int = 8
    """Of the residual stream's integers."""
    observation_scale: float = 32.0
    """Integer steps per unit of a normalised observation component; a power of two."""
    action_scale: float = 64.0
    """Integer steps per unit of the previous action; a power of two."""
    to_go_scale: float = 32.0
    """Integer steps per unit of the scaled return-to-go; a power of two."""
    symmetric_weights: bool = False
    """Whether spiking weights leave their lowest integer out, so that those of 2 bits are ternary."""
    held_out: float = 0.05
    """Share of the episodes kept from training, for the validation loss."""
    seed: int = 0
    """Of weights, windows and the split."""

    def __post_init__(self) -> None:
        def require(condition: bool, sentence: str) -> None:
            if not condition:
                raise ConfigError(sentence)

        for each in dataclasses.fields(self):
            kinds = KINDS.get(each.type)
            value = getattr(self, each.name)
            fits = kinds is None or (isinstance(value, kinds) and isinstance(value, bool) == (each.type is bool))
            require(fits, f"{each.name} must be {NOUNS.get(each.type)}, not {value!r}")
            require(each.type is not float or math.isfinite(value), f"{each.name} must be a finite number, not {value}")
        for name in ("rate", "quant_rate", "clip", "return_scale", "observation_scale", "action_scale", "to_go_scale"):
            require(getattr(self, name) > 0, f"{name} must be positive, not {getattr(self, name)}")
        for name in ("weight_decay", "seed", "observation_noise", "to_go_jitter", "row_cost", "step_cost"):
            require(getattr(self, name) >= 0, f"{name} must not be negative, but is {getattr(self, name)}")
        for name in ("held_out", "average"):
            require(0 <= getattr(self, name) < 1, f"{name} must be 0 or more and below 1, not {getattr(self, name)}")
        for name in ("length", "batch", "steps"):
            require(getattr(self, name) > 0, f"{name} must be positive, not {getattr(self, name)}")
        for name, choices in (
            ("network", NETWORKS),
            ("norm", NORMS),
            ("inference", INFERENCES),
            ("rate_decay", DECAYS),
        ):
            value = getattr(self, name)
            require(value in choices, f"{name} must be one of {', '.join(choices)}, not {value!r}")
        require(
            self.network == "spiking" or self.quant_steps == 0,
            f"the baseline {self.network} has no integer form; set quant_steps to 0",
        )
        require(
            self.network == "spiking" or self.inference == "recompute",
            f"the baseline {self.network} keeps no bounded state; set inference to recompute",
        )
        require(
            self.inference == "recompute" or self.length >= self.geometry.context,
            f"length {self.length} is below the geometry's context of {self.geometry.context} tokens: "
            "raise length, or set inference to recompute and quant_steps to 0",
        )
        require(
            self.inference == "stream" or self.quant_steps == 0,
            "the integer network streams; set inference to stream, or quant_steps to 0",
        )
        require(
            self.quant_steps > 0 or not self.symmetric_weights,
            "symmetric_weights is about the integers of the quantised phase; set quant_steps, or leave it out",
        )
        require(self.norm != "tdln" or self.quant_steps == 0, "layer norm has no integer form; set quant_steps to 0")
        require(
            self.network == "spiking" or not self.geometry.adaptive,
            f"geometry.adaptive is about the spiking network; leave it at false for {self.network}",
        )
        require(
            self.geometry.adaptive or self.step_cost == 0,
            "step_cost is a price on the steps that gates choose; set geometry.adaptive, or leave it at 0",
        )
        require(
            self.action_dropout > 0 or not self.action_hidden,
            "action_hidden wants a network that has met tokens without their action; raise action_dropout, to 0.25 say",
        )
        for name in ("norm_freeze", "row_cost", "plasticity"):
            require(
                self.network == "spiking" or getattr(self, name) == 0,
                f"{name} is about the spiking network; leave it at 0 for {self.network}",
            )
        require(
            self.norm != "tdln" or self.norm_freeze == 0,
            "layer norm has no statistics to keep; leave norm_freeze at 0 for tdln",
        )
        for name in ("warmup", "norm_ratio", "norm_hold", "norm_freeze", "row_warmup", "action_dropout", "plasticity"):
            require(0 <= getattr(self, name) <= 1, f"{name} must be 0 to 1, not {getattr(self, name)}")
        require(
            self.norm_hold + self.norm_ratio + self.norm_freeze <= 1,
            "norm_hold, norm_ratio and norm_freeze add up to more than 1: the norms would freeze, or the float phase "
            "end, before PTBN is a batch norm",
        )
        require(self.quant_steps >= 0, f"quant_steps must not be negative, but is {self.quant_steps}")
        require(
            0 < self.fraction_bits <= self.geometry.membrane_bits - 2,
            f"fraction_bits must be 1 to {self.geometry.membrane_bits - 2} for this geometry, not {self.fraction_bits}",
        )
        require(self.norm_schedule in SCHEDULES, f"norm_schedule must be one of {', '.join(SCHEDULES)}")
        turning = [name for name, kind in NORMS.items() if issubclass(kind, PTBN)]
        for name in ("norm", "norm_schedule", "norm_ratio", "norm_hold"):
            default = getattr(type(self), name)
            require(
                self.network == "spiking" or getattr(self, name) == default,
                f"{name} is about the spiking network: leave it at {default} for {self.network}",
            )
            require(
                name == "norm" or self.norm in turning or getattr(self, name) == default,
                f"{name} goes with {', '.join(turning)} alone: leave it at {default} for {self.norm}",
            )
        attention = self.geometry.attention
        try:
            self.structure.require(self.geometry)
        except ValueError as error:
            raise ConfigError(f"structure.{error}") from None
        require(attention != "lrf-ssa" or self.quant_steps == 0, "lrf-ssa has no integer form; set quant_steps to 0")
        sparsity = self.structure.sparsity
        require(
            sparsity == "dense" or self.quant_steps == 0,
            f"the sparsity {sparsity} has no integer form; set quant_steps to 0",
        )
        require(
            sparsity != "block" or self.inference == "stream",
            "the sparsity block counts blocks from an episode's first token, which recomputing does not see; set "
            "inference to stream",
        )
        for name in ("phase", "routing"):
            require(
                self.network == "spiking" or getattr(self.geometry, name) == "none",
                f"{name} is about the spiking network; choose a geometry without for {self.network}",
            )
        require(
            self.geometry.routing != "mlp" or self.quant_steps == 0,
            "routing mlp has no integer form; set quant_steps to 0, or choose count",
        )
        require(
            self.geometry.phase != "none" or self.structure.phase_soft,
            "structure.phase_soft is about phase codes: leave it at True, or choose a geometry with a phase",
        )
        require(
            self.geometry.phase_over == "steps" or self.inference == "stream",
            "a phase over tokens counts the steps of an episode, as a stream does; set inference to stream",
        )
        heads = self.structure.heads
        require(
            self.structure.taps != "head" or self.geometry.d_model % heads == 0,
            f"d_model {self.geometry.d_model} cannot be shared among {heads} heads; choose a divisor",
        )
        require(
            self.inference == "recompute" or self.structure.position == "relative",
            "absolute positions cannot stream; set inference to recompute and quant_steps to 0",
        )
        require(
            self.structure.position == "relative" or self.structure.positions >= self.length,
            f"structure.positions must be at least length {self.length}",
        )

    def to_json(self) -> str:
        """Return the configuration as JSON; without a later choice it is what it was before there was one."""
        choices = dataclasses.asdict(self)
        if self.structure.sparsity == "dense":
            for name in ("sparsity", *SPARSE_RANGES):
                del choices["structure"][name]
        if not self.geometry.adaptive:
            del choices["geometry"]["adaptive"], choices["step_cost"]
        if self.geometry.plasticity is None:
            del choices["geometry"]["plasticity"]
        for name in ("action_hidden", "plasticity"):
            if not choices[name]:
                del choices[name]
        return json.dumps(choices, indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "TrainConfig":
        """Read `to_json` text; missing fields keep defaults, `geometry` may name a preset. Raises `ConfigError`."""
        try:
            choices: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"the configuration is not JSON: {error}") from None
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(choices) - known) if isinstance(choices, dict) else ["(not an object)"]
        if unknown:
            raise ConfigError(f"unknown configuration field {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        try:
            geometry = choices["geometry"]
            structure = choices.get("structure", {})
            for name, part, kind in (("geometry", geometry, Geometry), ("structure", structure, Structure)):
                fields = {f.name for f in dataclasses.fields(kind) if f.init}
                if isinstance(part, dict) and (odd := sorted(set(part) - fields)):
                    raise ConfigError(f"unknown field {', '.join(odd)} of {name}; known: {', '.join(sorted(fields))}")
                if not isinstance(part, (dict, str) if kind is Geometry else dict):
                    raise ConfigError(f"{name} must be an object of its fields, not {part!r}")
            named = isinstance(geometry, str)
            choices["geometry"] = preset(geometry) if named else Geometry.from_json(json.dumps(geometry))
            choices["structure"] = Structure(**structure)
            return cls(**choices)
        except KeyError:
            raise ConfigError("the configuration lacks the field geometry") from None
        except ConfigError:
            raise
        except (TypeError, ValueError, GeometryError) as error:
            raise ConfigError(f"the configuration is not usable: {error}") from None


def _frugal(geometry: str, row_cost: float, **choices: Any) -> TrainConfig:
    """Return a run by the recipe of docs/studies.md: norms that freeze, averaged weights, a price on weight rows."""
    recipe: dict[str, Any] = {"norm_freeze": 0.33, "average": 0.998, "row_cost": row_cost}
    return TrainConfig(geometry=preset(geometry), **recipe | choices)


PRESETS = {
    "hopper": _frugal("HOPPER_Z2", 0.06, steps=4500, quant_steps=1500),
    "hopper-shallow": _frugal("HOPPER_Z2_SHALLOW", 0.06, batch=32, steps=3000, quant_steps=1000),
    "hopper-sssa": _frugal("HOPPER_Z2_SSSA", 0.04, batch=32, steps=3000, quant_steps=1000),
    "hopper-tssa": _frugal("HOPPER_Z2_TSSA", 0.04, batch=32, steps=3000, quant_steps=1000),
    "hopper-lrf": _frugal("HOPPER_Z2_LRF", 0.04, length=32, batch=32, steps=1000, quant_steps=400),
    "hopper-z2-256": _frugal("Z2_256", 0.04, steps=4904, quant_steps=708, symmetric_weights=True),
    "hopper-zcu104-256": _frugal("ZCU104_256", 0.04, length=32, steps=3083, quant_steps=1157),
    "hopper-medium-expert": _frugal("HOPPER_Z2", 0.04, steps=3500, quant_steps=1000),
    "halfcheetah": _frugal("HOPPER_Z2", 0.02, steps=4000, quant_steps=1500, target_return=12000.0, to_go_scale=8.0),
    "walker2d": _frugal("HOPPER_Z2", 0.02, steps=4000, quant_steps=1500, target_return=5000.0, to_go_scale=16.0),
    "cartpole": _frugal(
        "CLASSIC", 0.02, steps=1500, quant_steps=700, average=0.995, return_scale=250.0, target_return=500.0
    ),
    "pendulum": _frugal("CLASSIC", 0.02, steps=2500, quant_steps=1000, return_scale=500.0, target_return=-150.0),
    "tiny": TrainConfig(geometry=preset("TINY"), length=16, steps=4000, quant_steps=2000),
}
"""Runs by name; the shipped policies are theirs (docs/training.md). `tiny` is the test policy's."""


def find(name_or_path: str) -> TrainConfig:
    """Return the preset of that name or the configuration in that JSON file. Raises `ConfigError`."""
    if name_or_path in PRESETS:
        return PRESETS[name_or_path]
    path = Path(name_or_path)
    if not path.is_file():
        raise ConfigError(f"{name_or_path!r} is neither a preset ({', '.join(PRESETS)}) nor a JSON file")
    try:
        return TrainConfig.from_json(path.read_text())
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no JSON file") from None
