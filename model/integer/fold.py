# SPDX-License-Identifier: MIT
"""From the float network to the integer one (fold the norms, choose every channel's grid), and from a policy back."""

import numpy as np
import torch
from torch import Tensor

from model.deployed.artifact import Policy
from model.deployed.geometry import Geometry
from model.integer import quant_phase, quant_routing
from model.integer.fold_attention import form, thresholds
from model.integer.quant_gate import load_gate, quantise_gate
from model.integer.quantize import (
    QuantEmbedding,
    QuantHead,
    QuantResidual,
    QuantSpiking,
    best_unit,
    tanh_table,
)
from model.network.layers import Head, Normed, Spiking
from model.network.network import Block, Network

HEAD_SPAN = 8.0
"""Width of the argument range that the action table covers: -4..4."""


def quantise(network: Network, input_scale: Tensor, fraction_bits: int, symmetric: bool = False) -> Network:
    """Return the integer network nearest to a float network, its norms frozen at their running statistics.

    input_scale [inputs] : integer steps per unit of a normalised token component.
    fraction_bits : of the residual stream; its entry threshold becomes 2**fraction_bits / 2.
    symmetric : whether the weights of spiking linears and taps leave their lowest integer out (2 bits: -1, 0, 1).
    Raises `ValueError` for networks that have no integer form (lrf-ssa, absolute positions, routing mlp).
    """
    g = network.geometry
    attention = form(g)
    one = float(1 << fraction_bits)
    blocks = []
    for block in network.blocks:
        blocks.append(
            Block(
                kvq=_spiking(block.kvq, g, symmetric),
                attention=attention.quantise(block.attention, g, symmetric),
                proj=_residual(block.proj, g, one, symmetric),
                fc1=_spiking(block.fc1, g, symmetric),
                fc2=_residual(block.fc2, g, one, symmetric),
                phase=quant_phase.quantise(block.phase, g, one),
                routing=quant_routing.quantise(block.routing),
                gate=quantise_gate(block.gate, g, one) if g.adaptive else None,
            )
        )
    embed = _embedding(network.embed, g, one, input_scale)
    head = _head(network.head, g, one)
    return Network(g, embed, blocks, head, one / 2, input_scale=input_scale)


def _spiking(layer: Spiking, g: Geometry, symmetric: bool) -> QuantSpiking:
    weight, bias = layer.folded()
    threshold = thresholds(weight, g, symmetric=symmetric)
    return QuantSpiking(
        weight, bias, 2 * threshold, 2 * threshold, g.weight_bits, g.bias_bits, symmetric, threshold=threshold
    )


def _residual(layer: Normed, g: Geometry, one: float, symmetric: bool) -> QuantResidual:
    weight, bias = layer.folded()
    units = one / torch.exp2(torch.arange(float(1 << g.residual_shift_bits)))
    shift = best_unit(weight, units, g.weight_bits, symmetric)
    return QuantResidual(
        weight,
        bias,
        units[shift],
        torch.full_like(bias, one),
        g.weight_bits,
        g.bias_bits,
        symmetric,
        shift=shift,
        membrane_bits=g.membrane_bits,
    )


def _embedding(layer: Normed, g: Geometry, one: float, input_scale: Tensor) -> QuantEmbedding:
    weight, bias = layer.folded()
    units = one * torch.exp2(torch.arange(float(1 << g.embed_shift_bits)))
    shift = best_unit(weight / input_scale, units, g.dense_weight_bits)
    # floor takes half a unit off on average; the bias gives it back
    bias = bias + torch.where(shift > 0, 0.5 / one, 0.0)
    return QuantEmbedding(
        weight,
        bias,
        units[shift][:, None] / input_scale,
        torch.full_like(bias, one),
        g.dense_weight_bits,
        g.bias_bits,
        shift=shift,
        membrane_bits=g.membrane_bits,
    )


def _head(layer: Head, g: Geometry, one: float) -> QuantHead:
    weight, bias = layer.folded()
    entries = 1 << g.table_log2
    units = entries / HEAD_SPAN * torch.exp2(torch.arange(32, dtype=torch.float64))
    # the head sums integers over the steps where the float network takes the mean of reals
    scale = one * g.steps
    shift = best_unit(weight / scale, units, g.dense_weight_bits)
    return QuantHead(
        weight,
        bias,
        units[shift] / scale,
        units[shift],
        g.dense_weight_bits,
        g.head_bits - 1,
        shift=shift,
        table=tanh_table(entries, HEAD_SPAN),
        span=HEAD_SPAN,
    )


def integer_tensors(network: Network) -> dict[str, np.ndarray]:
    """Return a quantised network's integers under the artifact's names."""
    g = network.geometry
    tensors: dict[str, Tensor] = {
        "embed.shift": network.embed.shift,
        "entry.threshold": network.entry[:1],
        "head.shift": network.head.shift,
        "head.table": network.head.table,
    }
    tensors["embed.weight"], tensors["embed.bias"] = network.embed.integers()
    tensors["head.weight"], tensors["head.bias"] = network.head.integers()
    for number, block in enumerate(network.blocks):
        at = f"layer{number}"
        own = form(g).integers(block.attention) | quant_routing.integers(block.routing)
        if block.phase is not None:
            own |= block.phase.integers()
        tensors |= {f"{at}.{name}": tensor for name, tensor in own.items()}
        if g.adaptive:
            tensors[f"{at}.gate.weight"], tensors[f"{at}.gate.threshold"] = block.gate.integers()
        kvq = [t.chunk(len(g.projections)) for t in (*block.kvq.integers(), block.kvq.threshold)]
        for name, parts in zip(g.projections, zip(*kvq, strict=True), strict=True):
            for part, tensor in zip(("weight", "bias", "threshold"), parts, strict=True):
                tensors[f"{at}.{name}.{part}"] = tensor
        tensors[f"{at}.fc1.weight"], tensors[f"{at}.fc1.bias"] = block.fc1.integers()
        tensors[f"{at}.fc1.threshold"] = block.fc1.threshold
        for name, layer in (("proj", block.proj), ("fc2", block.fc2)):
            tensors[f"{at}.{name}.weight"], tensors[f"{at}.{name}.bias"] = layer.integers()
            tensors[f"{at}.{name}.shift"] = layer.shift
    return {name: np.rint(tensor.detach().double().numpy()).astype(np.int64) for name, tensor in tensors.items()}


def from_policy(policy: Policy) -> Network:
    """Return the network, in evaluation mode, that computes a policy's integers in PyTorch.

    Its tokens are the quantised ones; its actions times 2**15 are the action words. Single precision holds every value
    of the usual geometries exactly; where a membrane could outgrow its 24 bits the network is in double precision.
    Raises `ValueError` for an attention that has no integer form.
    """
    g = policy.geometry
    p = {name: torch.from_numpy(np.asarray(t, np.float64)) for name, t in policy.tensors.items()}

    def layer(name: str, weight_bits: int = g.weight_bits, bias_bits: int = g.bias_bits) -> list[object]:
        unit = torch.ones(len(p[f"{name}.weight"]))
        return [p[f"{name}.weight"], p.get(f"{name}.bias"), unit, unit, weight_bits, bias_bits]

    def residual(name: str) -> QuantResidual:
        return QuantResidual(*layer(name), shift=p[f"{name}.shift"], membrane_bits=g.membrane_bits)

    blocks = []
    for number in range(g.layers):
        at = f"layer{number}"
        for part in ("weight", "bias", "threshold"):
            p[f"{at}.kvq.{part}"] = torch.cat([p[f"{at}.{name}.{part}"] for name in g.projections])
        own = {name.removeprefix(f"{at}."): tensor for name, tensor in p.items() if name.startswith(f"{at}.")}
        blocks.append(
            Block(
                kvq=QuantSpiking(*layer(f"{at}.kvq"), threshold=p[f"{at}.kvq.threshold"]),
                attention=form(g).load(own, g),
                proj=residual(f"{at}.proj"),
                fc1=QuantSpiking(*layer(f"{at}.fc1"), threshold=p[f"{at}.fc1.threshold"]),
                fc2=residual(f"{at}.fc2"),
                phase=quant_phase.load(own, g),
                routing=quant_routing.load(own, g),
                gate=load_gate(own, g) if g.adaptive else None,
            )
        )
    embed = QuantEmbedding(*layer("embed", g.dense_weight_bits), shift=p["embed.shift"], membrane_bits=g.membrane_bits)
    head = QuantHead(
        *layer("head", g.dense_weight_bits, g.head_bits - 1),
        shift=p["head.shift"],
        table=p["head.table"],
        span=HEAD_SPAN,
    )
    network = Network(
        g, embed, blocks, head, float(p["entry.threshold"]), input_scale=torch.from_numpy(policy.input_scale)
    )
    network = network.to(torch.float32 if g.lif_bits + g.gain_places <= 24 else torch.float64)
    head.double()
    for block in blocks:
        if block.gate is not None:
            block.gate.double()
    return network.eval()
