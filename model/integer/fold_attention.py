# SPDX-License-Identifier: MIT
"""Attentions between their three forms: float, integers that still train, the policy's tensors."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from model.deployed.geometry import Geometry
from model.integer.quant_dynamics import LARGEST_SHARE, QuantDendrites, QuantLocal, from_code
from model.integer.quantize import QuantTaps, best_unit, limits
from model.network.attention import PSSA, Attention
from model.network.dynamics import Coefficients, Dynamics, multiply
from model.network.match import Match

LARGEST_THRESHOLD = 64
"""Thresholds tried per channel; a unit finer than 1/128 is beyond what a few weight bits can use."""
LARGEST_LOCAL_THRESHOLD = 16
"""The same, in units of local taps, where dendrites need the currents' range too."""
FULL_SCALE_SHARE = 0.25
"""Share of the tokens that may spike for ever without a dendrite reaching its limit."""
SETTLED = 1024
"""Tokens after which the slowest dendrite has forgotten a spike."""


def thresholds(weight: Tensor, g: Geometry, largest: int = LARGEST_THRESHOLD, symmetric: bool = False) -> Tensor:
    """Choose per channel the integer threshold N [channels]: the float threshold 0.5 is N units, so a unit is 0.5 / N.

    weight [channels, inputs]; largest : N at most; symmetric : as in `fold.quantise`.
    """
    candidates = torch.arange(1, min(largest, (1 << g.threshold_bits) - 1) + 1)
    return candidates[best_unit(weight, 2.0 * candidates, g.weight_bits, symmetric)]


class Form(NamedTuple):
    """What an attention is folded and stored by.

    quantise : (float attention, geometry, whether taps are symmetric) -> the same in trainable integers.
    integers : (that) -> its tensors, names within the layer.
    load : (those tensors as floating point, geometry) -> the attention that computes them.
    """

    quantise: Callable[..., Attention]
    integers: Callable[..., dict[str, Tensor]]
    load: Callable[[Mapping[str, Tensor], Geometry], Attention]


def _window(attention: PSSA, g: Geometry, symmetric: bool = False) -> PSSA:
    if attention.absolute:
        raise ValueError("only a network with relative positions has an integer form; train with position='relative'")
    taps = attention.taps().detach()
    threshold = thresholds(taps, g, symmetric=symmetric)
    units = (2 * threshold, 2 * threshold, g.weight_bits, g.bias_bits, symmetric)
    return PSSA(g, QuantTaps(taps, None, *units, threshold=threshold))


def _window_integers(attention: PSSA) -> dict[str, Tensor]:
    return {"window.weight": attention.taps(), "window.threshold": attention.threshold}


def _load_window(tensors: Mapping[str, Tensor], g: Geometry) -> PSSA:
    unit = torch.ones(g.d_model)
    taps = QuantTaps(
        tensors["window.weight"], None, unit, unit, g.weight_bits, g.bias_bits, threshold=tensors["window.threshold"]
    )
    return PSSA(g, taps)


def _match(attention: Match, g: Geometry, symmetric: bool = False) -> Match:
    if type(attention) is not Match:
        raise ValueError("sparse matching has no integer form; train with the sparsity dense")
    # counts are integers, so a threshold between two of them is the lower
    threshold = torch.floor(attention.threshold / attention.scale).clamp(max=(1 << g.threshold_bits) - 1)
    return Match(g, threshold, 1.0, attention.joint)


def _match_integers(attention: Match) -> dict[str, Tensor]:
    return {"window.threshold": attention.threshold}


def _load_match(tensors: Mapping[str, Tensor], g: Geometry) -> Match:
    return Match(g, tensors["window.threshold"], 1.0, g.attention == "tssa")


def _dynamics(attention: Dynamics, g: Geometry, symmetric: bool = False) -> Dynamics:
    with torch.no_grad():
        c, local = attention.dendrites.coefficients(), attention.local()
        threshold = thresholds(local, g, LARGEST_LOCAL_THRESHOLD, symmetric)
        current_unit = 2 * threshold << g.local_shift
        # dendrites may be scaled at will where drive, read-out and couplings follow: read-outs become powers of two
        most = (1 << g.dendrite_shift_bits) - 1
        exponent = torch.round(torch.log2(c.readout.abs().clamp_min(2.0**-most)))
        gauge = torch.where(c.readout == 0, 1.0, c.readout.abs() / torch.exp2(exponent))
        readout = torch.sign(c.readout) * torch.exp2(exponent)
        leak, drive = 1 - c.decay, c.drive * gauge
        upper = c.upper * gauge[:, :-1] / gauge[:, 1:] / leak[:, :-1]
        lower = c.lower * gauge[:, 1:] / gauge[:, :-1] / leak[:, 1:]
        coupled = Coefficients(c.decay, upper * leak[:, :-1], lower * leak[:, 1:], drive, readout)
        # the finest unit in which a spike's drive and what it adds up to over time fit
        finest = torch.minimum(
            limits(g.gain_bits)[1] / drive.abs().amax(1),
            limits(g.dendrite_bits)[1] / (FULL_SCALE_SHARE * _added_up(coupled).amax(1)),
        )
        unit = current_unit * torch.exp2(torch.floor(torch.log2(finest / current_unit)))
        dendrites = QuantDendrites(
            g, -torch.log2(leak), upper, lower, drive, readout, unit, current_unit.to(unit), LARGEST_SHARE
        )
    units = (2 * threshold, 2 * threshold, g.weight_bits, g.bias_bits, symmetric)
    taps = QuantLocal(local, None, *units, shift=g.local_shift)
    return Dynamics(g, dendrites, taps, (threshold << g.local_shift).to(local))


def _added_up(c: Coefficients) -> Tensor:
    """Return what a spike moves each dendrite by, all tokens after it added up [d, k]."""
    x = c.drive.t()
    total = x.abs()
    for _ in range(SETTLED):
        x = multiply(c, x)
        total = total + x.abs()
    return total.t()


def _dynamics_integers(attention: Dynamics) -> dict[str, Tensor]:
    tensors = {f"dynamics.{name}": tensor for name, tensor in attention.dendrites.integers().items()}
    tensors["dynamics.local"] = attention.local.integers()[0]
    return tensors | {"window.threshold": attention.threshold}


def _load_dynamics(tensors: Mapping[str, Tensor], g: Geometry) -> Dynamics:
    decay, upper, lower, gain, readout, local = (
        tensors[f"dynamics.{name}"] for name in ("decay", "upper", "lower", "gain", "readout", "local")
    )
    leak, unit = torch.exp2(-decay), torch.ones(g.d_model)
    dendrites = QuantDendrites(
        g,
        decay,
        from_code(upper) / leak[:, :-1],
        from_code(lower) / leak[:, 1:],
        gain,
        from_code(readout, g.least_readout_shift),
        unit,
        unit,
        math.inf,
    )
    taps = QuantLocal(local, None, unit, unit, g.weight_bits, g.bias_bits, shift=g.local_shift)
    return Dynamics(g, dendrites, taps, tensors["window.threshold"])


_MATCH = Form(_match, _match_integers, _load_match)
FORMS = {
    "pssa": Form(_window, _window_integers, _load_window),
    "sssa": _MATCH,
    "tssa": _MATCH,
    "lrf-dyn": Form(_dynamics, _dynamics_integers, _load_dynamics),
}


def form(g: Geometry) -> Form:
    """Return the form of a geometry's attention. Raises `ValueError` where it has none."""
    if g.attention not in FORMS:
        raise ValueError(f"{g.attention} has no integer form; set quant_steps to 0, or choose {', '.join(FORMS)}")
    return FORMS[g.attention]
