# SPDX-License-Identifier: MIT
"""The float layers of the network: linear, norm and neuron, and the ways to weigh a window."""

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.deployed.geometry import ATTENTIONS, Geometry
from model.network.attention import PSSA, Attention
from model.network.dynamics import Dendrites, Dynamics
from model.network.gate import StepGate
from model.network.local import LocalTaps
from model.network.match import Match
from model.network.network import Block, Network
from model.network.norm import NORMS, linear_norm
from model.network.phase import LearnedPhase
from model.network.routing import routing
from model.network.sparse import SPARSITIES, BlockMatch, HashMatch

THRESHOLD = 0.5
TAPS = ("channel", "head", "shared", "or")
POSITIONS = ("relative", "absolute")
SPARSE_RANGES = {"block": (2, 256), "hash_bits": (1, 12), "hash_rounds": (1, 8), "hash_seed": (0, 2**32 - 1)}
"""Least and greatest values of the choices of sparse matching."""
FITS = {
    **dict.fromkeys(("position", "taps", "heads", "tap_floor", "positions"), ("pssa",)),
    "tap_init": ("pssa", "lrf-ssa", "lrf-dyn"),
    "scale": ("sssa", "tssa", "lrf-ssa"),
    **dict.fromkeys(("sparsity", "block", "hash_bits", "hash_rounds", "hash_seed"), ("sssa", "tssa")),
    "phase_soft": ATTENTIONS,
}
"""Which attentions each choice of `Structure` goes with."""


@dataclass(frozen=True)
class Structure:
    """Choices about the network that the geometry leaves open; each goes with some attentions (`FITS`).

    position : "relative" taps by distance (streams), or "absolute", the authors' matrix over window positions.
    taps : weights per "channel", per "head", "shared" by all, or "or": no weights, an OR over the window. The authors'
    are absolute and shared.
    heads : how many heads share taps where taps is "head".
    tap_init : taps start uniform in tap_floor..tap_init. At 1, the authors' constant, they get no gradient at this
    threshold.
    tap_floor : where that range starts; 1 with tap_init 1 is the authors'.
    positions : rows of the absolute matrix, the length of a training window.
    scale : current of one match of query and key, a power of two. At 1, the authors' value, the neurons behind fire at
    any match and neither query, key nor value gets a gradient through them.
    sparsity : which tokens of the window a token is matched with: "dense" all of them, "block" by blocks, or "lsh" by
    buckets of hashes (`model.network.sparse`).
    block : tokens of a block, and of a bucket.
    hash_bits, hash_rounds, hash_seed : signs of a hash, hash tables, and what the signs are drawn from; lsh alone.
    phase_soft : whether phase codes are soft in training, as in the paper; else training sees their bits.
    """

    position: str = "relative"
    taps: str = "channel"
    heads: int = 8
    tap_init: float = 0.6
    tap_floor: float = 0.0
    positions: int = 24
    scale: float = 0.03125
    sparsity: str = "dense"
    block: int = 16
    hash_bits: int = 4
    hash_rounds: int = 2
    hash_seed: int = 0
    phase_soft: bool = True

    def __post_init__(self) -> None:
        if self.position not in POSITIONS:
            raise ValueError(f"position must be one of {', '.join(POSITIONS)}, not {self.position!r}")
        if self.taps not in TAPS:
            raise ValueError(f"taps must be one of {', '.join(TAPS)}, not {self.taps!r}")
        if not 0 <= self.tap_floor <= self.tap_init:
            raise ValueError(f"tap_floor must be 0 to tap_init ({self.tap_init}), not {self.tap_floor}")
        if not 0 < self.scale <= 1 or not math.log2(self.scale).is_integer():
            raise ValueError(f"scale must be a power of two, at most 1, not {self.scale}")
        if self.sparsity not in SPARSITIES:
            raise ValueError(f"sparsity must be one of {', '.join(SPARSITIES)}, not {self.sparsity!r}")
        for name, (low, high) in SPARSE_RANGES.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{name} must be a whole number from {low} to {high}, not {value!r}")
            fits = SPARSITIES[1:] if name == "block" else ("lsh",)
            default = getattr(type(self), name)
            if self.sparsity not in fits and value != default:
                raise ValueError(f"{name} goes with the sparsity {' or '.join(fits)}: leave it at {default}")

    def require(self, geometry: Geometry) -> None:
        """Raise `ValueError` where a choice would do nothing with this geometry, or not what it is for."""
        attention = geometry.attention
        for field in dataclasses.fields(self):
            fits, default = FITS[field.name], field.default
            if attention not in fits and getattr(self, field.name) != default:
                raise ValueError(
                    f"{field.name} goes with {', '.join(fits)} alone: leave it at {default} for {attention}"
                )
        if self.sparsity != "dense" and self.block >= geometry.window:
            raise ValueError(
                f"block {self.block} leaves out no token of a window of {geometry.window}: lower it, or choose the "
                "sparsity dense"
            )
        if self.sparsity == "block" and geometry.layers < 2:
            raise ValueError(
                "sparsity block reaches the tokens within a block through its last one, which takes 2 layers: raise "
                "layers, or choose lsh"
            )


def _linear(inputs: int, outputs: int, bias: bool = False) -> nn.Linear:
    # a linear before a norm needs no bias: the norm would subtract it
    linear = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(linear.weight, std=0.02)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


class Normed(nn.Module):
    """Linear and norm (a name of `model.network.norm.NORMS`) on rows of a single step: [rows, in] -> [rows, out]."""

    def __init__(self, inputs: int, outputs: int, norm: str, groups: int = 1) -> None:
        super().__init__()
        self.linear, self.norm = _linear(inputs, outputs), NORMS[norm](outputs, groups)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both."""
        return self.norm(self.linear(x))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return weight [out, in] and bias [out] of the evaluation's linear and norm in one."""
        gain, offset = self.norm.gain_and_offset()
        return self.linear.weight.detach() * gain[:, None], offset


class Spiking(Normed):
    """Linear, norm and neuron: spikes [steps, rows, in] -> spikes [steps, rows, out]."""

    def __init__(self, inputs: int, outputs: int, norm: str, groups: int = 1) -> None:
        super().__init__(inputs, outputs, norm, groups)
        self.threshold: Tensor
        self.register_buffer("threshold", torch.full((outputs,), THRESHOLD))

    def forward(self, x: Tensor) -> Tensor:
        """Fire."""
        return linear_norm(x, self.linear.weight, self.norm, threshold=self.threshold)


class Residual(Normed):
    """Linear and norm, added to the shortcut: (spikes [steps, rows, in], x [steps, rows, out]) -> x."""

    def forward(self, spikes: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        """Add."""
        return linear_norm(spikes, self.linear.weight, self.norm, shortcut=x)


class Taps(nn.Module):
    """Window weights of one layer, with the threshold of the neurons behind them."""

    def __init__(self, geometry: Geometry, structure: Structure) -> None:
        super().__init__()
        d, s, n = geometry.d_model, geometry.window, structure.positions
        if structure.taps == "head" and d % structure.heads:
            raise ValueError(f"d_model {d} cannot be shared among {structure.heads} heads; choose a divisor")
        groups = {"channel": d, "head": structure.heads}.get(structure.taps, 1)
        if structure.position == "absolute":
            shape: tuple[int, ...] = (groups, n, n)
            distance = torch.arange(n)[:, None] - torch.arange(n)[None]
            self.register_buffer("live", ((distance >= 0) & (distance < s)).float())
        else:
            shape = (groups, s)
            self.register_buffer("live", None)
        self.copies = d // groups
        self.threshold: Tensor
        self.register_buffer("threshold", torch.full((d,), THRESHOLD))
        if structure.taps == "or":
            # any count of ones exceeds the threshold
            self.register_buffer("weight", torch.ones(shape))
        else:
            low, high = structure.tap_floor, structure.tap_init
            self.weight = nn.Parameter(low + torch.rand(shape) * (high - low))

    def forward(self) -> Tensor:
        """Return the weights [d, window], or [groups, positions, positions] if they are absolute."""
        if self.live is not None:
            return self.weight * self.live
        return self.weight.repeat_interleave(self.copies, dim=0)


class Head(nn.Module):
    """Norm, mean over the SNN steps, linear, tanh: membranes [steps, rows, d] -> actions [rows, actions]."""

    def __init__(self, d_model: int, actions: int, norm: str) -> None:
        super().__init__()
        self.norm, self.linear = NORMS[norm](d_model), _linear(d_model, actions, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Predict."""
        return torch.tanh(self.linear(self.norm(x).mean(0)))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return weight [actions, d] and bias [actions] of `tanh(weight mean_t(x) + bias)`, in double precision."""
        gain, offset = (t.double() for t in self.norm.gain_and_offset())
        weight = self.linear.weight.detach().double()
        return weight * gain, weight @ offset + self.linear.bias.detach().double()


def attention(geometry: Geometry, structure: Structure) -> Attention:
    """Return the geometry's attention, to train."""
    if geometry.attention == "pssa":
        return PSSA(geometry, Taps(geometry, structure), structure.position == "absolute")
    threshold = torch.full((geometry.d_model,), THRESHOLD)
    local = LocalTaps(geometry, structure.tap_init) if geometry.local_distances else None
    if geometry.attention == "lrf-dyn":
        return Dynamics(geometry, Dendrites(geometry, structure.tap_init), local, threshold)
    joint, block = geometry.attention == "tssa", structure.block
    if structure.sparsity == "block":
        return BlockMatch(geometry, threshold, structure.scale, joint, block)
    if structure.sparsity == "lsh":
        hashes = structure.hash_bits, structure.hash_rounds, structure.hash_seed
        return HashMatch(geometry, threshold, structure.scale, joint, block, *hashes)
    return Match(geometry, threshold, structure.scale, joint, local)


def float_network(geometry: Geometry, inputs: int, actions: int, structure: Structure, norm: str = "ptbn") -> Network:
    """Return a network to train, drawn from torch's random generator.

    `inputs` = observation + action + 1 and `actions` are the environment's own sizes, at most the geometry's.
    `norm` is a name of `model.network.norm.NORMS`. Raises `ValueError` for a structure that does not fit the attention.
    """
    structure.require(geometry)
    d, h, projections = geometry.d_model, geometry.d_mlp, len(geometry.projections)
    blocks = [
        Block(
            kvq=Spiking(d, projections * d, norm, groups=projections),
            attention=attention(geometry, structure),
            proj=Residual(d, d, norm),
            fc1=Spiking(d, h, norm),
            fc2=Residual(h, d, norm),
            phase=None if geometry.phase == "none" else LearnedPhase(geometry, structure.phase_soft),
            routing=routing(geometry),
            gate=StepGate(geometry) if geometry.adaptive else None,
        )
        for _ in range(geometry.layers)
    ]
    return Network(geometry, Normed(inputs, d, norm), blocks, Head(d, actions, norm), THRESHOLD)
