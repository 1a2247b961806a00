# SPDX-License-Identifier: MIT
"""What a tensor operation does in a spiking network: a sum of selected weights, an AND, a shift, a multiplication.

Every operand has a level: spikes, integers, integers over a power of two, reals. A rule says for an operation what kind
of work it is and which level its result has, from the levels of what depends on a token and the values of what does
not. So what it says holds for every token. `model.cost.observer` applies the rules to what PyTorch executes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SPIKE, REAL, UNWRITTEN = -1, 100, 127
"""Levels: 0 or 1; an integer over 2**level (levels 0 to 99); any real; memory that nobody was seen to write."""
LARGEST_FRACTION = 16
"""A constant with more binary places than this counts as real: every float has some."""

SELECT, AND, GATE, ADD = "sum of selected", "AND or OR", "gate", "addition"
SHIFT, COMPARE, SATURATE, LOOKUP = "shift", "comparison", "saturation", "table lookup"
MOVE, MULTIPLY, FLOAT, UNKNOWN = "move", "multiplication", "float function", "unknown"
"""Kinds of work. A gate lets a value through where there is a spike."""


def level_name(level: int) -> str:
    """Return a level in words."""
    names = {SPIKE: "spikes", 0: "integers", REAL: "reals", UNWRITTEN: "unwritten memory"}
    return names.get(level, f"integers/2^{level}")


def has_level(values: Tensor, level: int) -> bool:
    """Whether every value is what the level says."""
    if level == SPIKE:
        return bool(((values == 0) | (values == 1)).all())
    if level >= REAL or not values.is_floating_point():
        return level >= REAL or not values.is_complex()
    scaled = values.double() * 2.0**level
    return bool((scaled == torch.floor(scaled)).all())


def level_of(values: Tensor) -> int:
    """Return the lowest level that these values have, `REAL` beyond `LARGEST_FRACTION`."""
    return next((level for level in range(SPIKE, LARGEST_FRACTION + 1) if has_level(values, level)), REAL)


def shift_of(values: Tensor) -> int | None:
    """Return k where every value is 0 or a signed power of two, the smallest 2**-k; None where they are not."""
    if values.is_complex():
        return None
    mantissa, exponent = torch.frexp(values.double())
    used = mantissa != 0
    if bool((mantissa[used].abs() != 0.5).any()):
        return None
    return 1 - int(exponent[used].min()) if bool(used.any()) else 0


@dataclass
class Operand:
    """A tensor or number as an operation reads it; `sources` are the operations that made it, none for a constant."""

    values: Tensor
    level: int
    sources: frozenset[int]
    number: bool = False

    @property
    def data(self) -> bool:
        """Whether it depends on a token."""
        return bool(self.sources)

    @property
    def spikes(self) -> bool:
        """Whether it holds zeros and ones only."""
        return self.level == SPIKE

    @property
    def bits(self) -> int:
        """Signed width of what it holds; 32 for reals."""
        if self.spikes or self.level >= REAL or not self.values.numel():
            return 1 if self.spikes else 32
        low, high = (int(float(end) * 2.0**self.level) for end in (self.values.min(), self.values.max()))
        return 1 + max(high.bit_length() if high > 0 else 0, (-low - 1).bit_length() if low < 0 else 0)

    def __str__(self) -> str:
        shape = "x".join(map(str, self.values.shape)) or "number"
        return f"{'' if self.data else 'constant '}{level_name(self.level)} [{shape}]"


@dataclass
class Call:
    """One executed operation: its arguments (tensors and numbers as operands, the rest as given) and its result."""

    arguments: list[Any]
    keywords: dict[str, Any]
    output: Tensor

    @property
    def operands(self) -> list[Operand]:
        """Tensors among the arguments, lists opened."""
        flat = [part for value in self.arguments for part in (value if isinstance(value, list) else [value])]
        return [part for part in flat if isinstance(part, Operand) and not part.number]


@dataclass
class Verdict:
    """What a rule says.

    dense : elementary operations; real : those of them whose spike is there, None for all. bits : widths of two factors
    that are multiplied. complaint : what is wrong, if anything. selector : the spikes that select, each `fan_out`
    times. inputs, weights, outputs : elements that a product reads, of data and of constants, and that it makes.
    """

    kind: str
    level: int
    dense: int = 0
    real: int | None = None
    bits: tuple[int, int] = (0, 0)
    complaint: str = ""
    selector: Tensor | None = None
    fan_out: int = 1
    inputs: int = 0
    weights: int = 0
    outputs: int = 0


def _sized(verdict: Verdict, a: Operand, b: Operand, output: Tensor) -> Verdict:
    for operand in (a, b):
        size = operand.values.numel()
        verdict.inputs += size if operand.data else 0
        verdict.weights += 0 if operand.data else size
    verdict.outputs = output.numel()
    return verdict


def _number(level: int) -> int:
    return min(REAL, max(0, level))


def _most(call: Call) -> int:
    return max(operand.level for operand in call.operands)


def _ones(spikes: Tensor, shape: torch.Size) -> int:
    return int(spikes.expand(shape).count_nonzero())


def _product(a: Operand, b: Operand, output: Tensor) -> Verdict:
    """Elementwise a b."""
    dense = output.numel()
    for one, other in ((a, b), (b, a)):
        if one.spikes and one.data:
            ones = _ones(one.values, output.shape)
            if other.spikes and other.data:
                return Verdict(AND, SPIKE, dense)
            if other.data:
                return Verdict(GATE, other.level, dense, ones)
            selected = Verdict(SELECT, other.level, dense, ones, selector=one.values.expand(output.shape).bool())
            return _sized(selected, a, b, output)
    level = min(REAL, _number(a.level) + _number(b.level))
    for one, other in ((a, b), (b, a)):
        shift = None if one.data else shift_of(one.values)
        if shift is not None and one.spikes:
            return Verdict(MOVE, other.level)  # a mask
        if shift is not None:
            return Verdict(SHIFT, max(0, other.level + shift) if other.level < REAL else REAL, dense)
    return Verdict(MULTIPLY, level, dense, bits=(a.bits, b.bits))


def _mul(call: Call) -> Verdict:
    return _product(*call.arguments[:2], call.output)


def _div(call: Call) -> Verdict:
    value, by = call.arguments[:2]
    shift = None if by.data else shift_of(1.0 / by.values.double())
    if shift is None:
        return Verdict(MULTIPLY, REAL, call.output.numel(), bits=(value.bits, by.bits))
    return Verdict(SHIFT, _number(value.level + shift), call.output.numel())


def _scaled(level: int, factor: Any) -> int | None:
    """Return the level of a sum's term after its `alpha`, `beta` or `value`; None where that is no shift."""
    shift = shift_of(torch.as_tensor(float(factor)))
    return None if shift is None else _number(level + shift) if level < REAL else REAL


def _add(call: Call) -> Verdict:
    a, b = call.arguments[:2]
    scaled = _scaled(b.level, call.keywords.get("alpha", 1))
    if scaled is None:
        return Verdict(MULTIPLY, REAL, call.output.numel(), bits=(b.bits, 32))
    return Verdict(ADD, max(0, a.level, scaled), call.output.numel())


def _addcmul(call: Call) -> Verdict:
    base, a, b = call.arguments[:3]
    product = _product(a, b, call.output)
    scaled = _scaled(product.level, call.keywords.get("value", 1))
    if scaled is None:
        return Verdict(MULTIPLY, REAL, call.output.numel(), bits=(max(a.bits, b.bits), 32))
    product.level = max(0, base.level, scaled)
    product.kind = GATE if product.kind == AND else ADD if product.kind == MOVE else product.kind
    return product


def _sum(call: Call) -> Verdict:
    (a, *_) = call.operands
    return Verdict(ADD, _number(a.level), max(0, a.values.numel() - call.output.numel()))


def _running_sum(call: Call) -> Verdict:
    return Verdict(ADD, _number(call.operands[0].level), call.output.numel())


def _mean(call: Call) -> Verdict:
    (a, *_) = call.operands
    total, count = _sum(call), a.values.numel() // max(1, call.output.numel())
    if count & (count - 1):
        return Verdict(MULTIPLY, REAL, call.output.numel(), bits=(a.bits, 32))
    total.level = _number(total.level + count.bit_length() - 1)
    return total


def _matrix(a: Operand, b: Operand, output: Tensor) -> Verdict:
    """[.., m, k] times [.., k, n]."""
    inner = a.values.shape[-1]
    dense, level = output.numel() * inner, min(REAL, _number(a.level) + _number(b.level))
    if a.spikes and a.data and b.spikes and b.data:
        return Verdict(SELECT, 0, dense, int((a.values.double() @ b.values.double()).sum()))
    for one, other, fan_out in ((a, b, output.shape[-1]), (b, a, output.shape[-2] if output.dim() > 1 else 1)):
        if one.spikes and one.data:
            ones = int(one.values.count_nonzero()) * fan_out
            selected = Verdict(SELECT, _number(other.level), dense, ones, selector=one.values.bool(), fan_out=fan_out)
            return _sized(selected, a, b, output)
        if not one.data and one.level < REAL and (shift := shift_of(one.values)) is not None:
            used = int(one.values.count_nonzero()) * fan_out
            level = REAL if other.level >= REAL else _number(other.level + shift)
            return Verdict(ADD if one.spikes else SHIFT, level, dense, used)
    return _sized(Verdict(MULTIPLY, level, dense, bits=(a.bits, b.bits)), a, b, output)


def _mm(call: Call) -> Verdict:
    return _matrix(*call.arguments[:2], call.output)


def _addmm(call: Call) -> Verdict:
    base, a, b = call.arguments[:3]
    if (call.keywords.get("beta", 1), call.keywords.get("alpha", 1)) != (1, 1):
        return Verdict(UNKNOWN, REAL, call.output.numel(), complaint="scales a matrix product")
    product = _matrix(a, b, call.output)
    product.level = max(base.level, product.level)
    return product


def _compare(call: Call) -> Verdict:
    return Verdict(COMPARE, SPIKE, call.output.numel())


def _logic(call: Call) -> Verdict:
    if all(operand.spikes for operand in call.operands):
        return Verdict(AND, SPIKE, call.output.numel())
    return Verdict(UNKNOWN, REAL, call.output.numel(), complaint="is a logic operation on more than spikes")


def _largest(call: Call) -> Verdict:
    """Of spikes an OR (or AND), of numbers comparisons."""
    level = _most(call)
    return Verdict(AND if level == SPIKE else COMPARE, level, max(o.values.numel() for o in call.operands))


def _saturate(call: Call) -> Verdict:
    bounds = [part.level for part in call.arguments if isinstance(part, Operand)]
    return Verdict(SATURATE, max(0, *bounds), call.output.numel())


def _floor(call: Call) -> Verdict:
    return Verdict(SHIFT, 0, call.output.numel())


def _move(call: Call) -> Verdict:
    return Verdict(MOVE, _most(call))


def _index(call: Call) -> Verdict:
    source, *indices = call.operands
    if source.data:
        return Verdict(MOVE, source.level)
    if all(index.level <= 0 for index in indices):
        return Verdict(LOOKUP, source.level, call.output.numel())
    return Verdict(UNKNOWN, REAL, call.output.numel(), complaint="looks up by what is no integer")


def _where(call: Call) -> Verdict:
    condition, a, b = call.operands
    level = max(a.level, b.level)
    return Verdict(GATE if condition.data else MOVE, level, call.output.numel() if condition.data else 0)


def _masked_fill(call: Call) -> Verdict:
    a, _, value = call.arguments[:3]
    return Verdict(MOVE, max(a.level, value.level))


def _float(call: Call) -> Verdict:
    return Verdict(FLOAT, REAL, call.output.numel(), complaint="is a function of real numbers")


def _attention(call: Call) -> Verdict:
    """PyTorch's fused attention: query, key, value [.., tokens, width]; two matrix products and a softmax."""
    query, key = call.operands[:2]
    dense = 2 * query.values.numel() * key.values.shape[-2]
    product = Verdict(MULTIPLY, REAL, dense, bits=(32, 32), outputs=call.output.numel())
    product.inputs = sum(operand.values.numel() for operand in call.operands[:3])
    return product


Rule = Callable[[Call], Verdict]

_MOVES = (
    "alias cat clone contiguous copy detach expand fill flip gather index_copy index_fill index_select pad permute "
    "constant_pad_nd repeat repeat_interleave reshape roll select select_scatter slice slice_scatter squeeze stack t "
    "transpose tril triu unfold unsqueeze view diagonal _reshape_alias _to_copy _unsafe_view"
)
_FLOATS = (
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training batch_norm native_layer_norm "
    "layer_norm _softmax softmax tanh exp exp2 log sqrt rsqrt reciprocal sigmoid gelu silu erf pow lerp round "
    "native_dropout var_mean _fft_r2c _fft_c2r _fft_c2c linalg_vector_norm embedding abs sin cos"
)
RULES: dict[str, Rule] = {
    **dict.fromkeys(_MOVES.split(), _move),
    **dict.fromkeys(_FLOATS.split(), _float),
    **dict.fromkeys(("gt", "ge", "lt", "le", "eq", "ne"), _compare),
    **dict.fromkeys(("logical_and", "logical_or", "logical_not", "bitwise_and", "bitwise_or", "bitwise_not"), _logic),
    **dict.fromkeys(("any", "all", "amax", "amin"), _largest),
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max", "relu", "minimum", "maximum", "hardtanh"), _saturate),
    **dict.fromkeys(("mm", "bmm", "mv", "dot"), _mm),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _addmm),
    **dict.fromkeys(("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math"), _attention),
    **dict.fromkeys(("add", "sub", "rsub"), _add),
    "mul": _mul,
    "div": _div,
    "addcmul": _addcmul,
    "neg": _running_sum,
    "sum": _sum,
    "cumsum": _running_sum,
    "mean": _mean,
    "floor": _floor,
    "index": _index,
    "where": _where,
    "masked_fill": _masked_fill,
}
"""PyTorch's name of an operation (without a trailing underscore) -> what it does. What is not here is unknown."""
