# SPDX-License-Identifier: MIT
"""Watch a network compute: every tensor operation between its tokens and its actions, and what kind of work it is.

The observer sees what PyTorch really executes, below modules and autograd. Beside every tensor it keeps what its
elements are and which operations made them; `model.cost.operations` says what comes out of an operation. The values
that pass by are compared with that, so a wrong rule is found out. Compiled kernels are switched off meanwhile: they
work on addresses, and what they write would be reported as memory that nobody was seen to write.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from model.cost.operations import (
    MOVE,
    REAL,
    RULES,
    SPIKE,
    UNKNOWN,
    UNWRITTEN,
    Call,
    Operand,
    Verdict,
    has_level,
    level_name,
    level_of,
)
from model.network.kernels import SWITCH

CONSTANT, TOKEN = -1, 0
"""Sources: what depends on no token, and the tokens themselves, operation 0."""

EMPTY = frozenset({"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"})
CREATE = frozenset(
    {"zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "arange"}
    | {"scalar_tensor", "zero_", "eye", "linspace", "lift_fresh"}
)
"""`lift_fresh` is what `torch.tensor` ends in: its numbers come from Python, and `ESCAPES` has seen to that."""
OVERWRITE = frozenset({"copy_", "fill_", "zero_"})
ESCAPES = ("tolist", "numpy", "__array__", "data_ptr", "__dlpack__")
"""Methods of a tensor by which a value leaves PyTorch unseen; `item` is an operation."""


@dataclass(frozen=True)
class Operation:
    """One executed operation on values that depend on a token.

    layer : where in the network, "layer0.kvq"; name : PyTorch's; operands : in words; verdict : what it did.
    sources : the operations that made its operands.
    """

    layer: str
    name: str
    operands: str
    sources: frozenset[int]
    verdict: Verdict


class _Shadow:
    """Levels and sources of the elements of one storage: one value for all until a part is written."""

    def __init__(self, tensor: Tensor, level: int, source: int) -> None:
        self.keep = tensor  # its storage's address is the key
        self.whole: tuple[int, int] | None = (level, source)

    def read(self, view: Tensor) -> tuple[int, frozenset[int]]:
        if self.whole is not None:
            return self.whole[0], frozenset({self.whole[1]} - {CONSTANT})
        levels, sources = (part.as_strided(*_place(view)) for part in self.parts)
        if not levels.numel():
            return SPIKE, frozenset()
        return int(levels.max()), frozenset(map(int, sources.unique())) - {CONSTANT}

    def write(self, view: Tensor, level: int, source: int) -> None:
        elements = view.untyped_storage().nbytes() // view.element_size()
        if view.numel() == elements:
            self.whole = (level, source)
            return
        if self.whole is not None:
            self.parts = [torch.full((elements,), value, dtype=torch.int32) for value in self.whole]
            self.whole = None
        for part, value in zip(self.parts, (level, source), strict=True):
            part.as_strided(*_place(view)).fill_(value)


def _place(view: Tensor) -> tuple[Any, Any, int]:
    return view.size(), view.stride(), int(view.storage_offset())


class Observer(TorchDispatchMode):
    """Record the operations of `network` while active.

    operations : all that were executed on values that depend on a token, in order; the first stands for the tokens.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.operations = [Operation("token", "token", "", frozenset(), Verdict(MOVE, 0))]
        self._shadows: dict[int, _Shadow] = {}
        self._names = {id(part): re.sub(r"^blocks\.(\d+)", r"layer\1", name) for name, part in network.named_modules()}
        self._at = ["network"]
        for tensor in [*network.parameters(), *network.buffers()]:
            self._keep(tensor.detach(), level_of(tensor.detach()), CONSTANT)
        self._fixed = set(self._shadows)
        self._escaped: set[int] = set()

    def __enter__(self) -> "Observer":
        self._patches: list[Any] = [mock.patch.dict(os.environ, {SWITCH: "off"})]
        for part in self.network.modules():
            if hasattr(part, "advance"):
                self._patches.append(mock.patch.object(part, "advance", self._inside(part, part.advance)))
        for name in ESCAPES:
            self._patches.append(mock.patch.object(Tensor, name, self._watched(name, getattr(Tensor, name))))
        for patch in self._patches:
            patch.start()
        self._hooks = [
            module_hooks.register_module_forward_pre_hook(lambda part, _: self._at.append(self._name(part))),
            module_hooks.register_module_forward_hook(lambda *_: self._leave(), always_call=True),
        ]
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        for hook in self._hooks:
            hook.remove()
        for patch in reversed(self._patches):
            patch.stop()

    def _name(self, part: nn.Module) -> str:
        return self._names.get(id(part)) or self._at[-1]

    def _leave(self) -> None:
        self._at.pop()

    def _inside(self, part: nn.Module, method: Callable[..., Any]) -> Callable[..., Any]:
        # a stream calls `advance`, which no module hook sees
        def named(*arguments: Any) -> Any:
            self._at.append(self._name(part))
            try:
                return method(*arguments)
            finally:
                self._leave()

        return named

    def _watched(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def watched(tensor: Tensor, *arguments: Any, **keywords: Any) -> Any:
            self._escape(name, self._operand(tensor))
            return method(tensor, *arguments, **keywords)

        return watched

    def _escape(self, name: str, operand: Operand) -> None:
        if operand.data:
            call = Call([operand], {}, operand.values)
            verdict = Verdict(UNKNOWN, REAL, operand.values.numel(), complaint="takes a value out of the network")
            self._escaped.add(self._note(name, call, verdict))

    def token(self, values: Tensor, level: int = 0) -> Tensor:
        """Declare these values to be tokens, integers unless said, and return them."""
        self._keep(values, level, TOKEN)
        return values

    def forget(self, alive: Iterable[Tensor]) -> None:
        """Let go of all tensors but the network's and these; call it between decisions, or memory grows."""
        kept = self._fixed | {tensor.untyped_storage()._cdata for tensor in alive}
        self._shadows = {key: shadow for key, shadow in self._shadows.items() if key in kept}

    def live(self, results: Iterable[Tensor]) -> list[Operation]:
        """Return the operations that these results depend on, and those that took values out of sight.

        The rest reaches no action: the smooth functions that only lend a rounding their gradient.
        """
        reached: set[int] = set()
        waiting = list(self._escaped) + [source for tensor in results for source in self._operand(tensor).sources]
        while waiting:
            source = waiting.pop()
            if source not in reached:
                reached.add(source)
                waiting.extend(self.operations[source].sources)
        return [self.operations[source] for source in sorted(reached - {TOKEN})]

    def _keep(self, tensor: Tensor, level: int, source: int) -> None:
        self._shadows[tensor.untyped_storage()._cdata] = _Shadow(tensor, level, source)

    def _operand(self, value: Tensor | float) -> Operand:
        if not isinstance(value, Tensor):
            return Operand(torch.as_tensor(value), level_of(torch.as_tensor(value)), frozenset(), number=True)
        shadow = self._shadows.get(value.untyped_storage()._cdata)
        if shadow is None:
            return Operand(value, UNWRITTEN, frozenset({TOKEN}))
        level, sources = shadow.read(value)
        # of a constant the values are the proof
        return Operand(value, level if sources or level == UNWRITTEN else level_of(value), sources)

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        keywords = keywords or {}
        name = function._schema.name.removeprefix("aten::")
        written = [t for t in _written(function._schema, arguments, keywords) if isinstance(t, Tensor)]
        skipped = arguments[0] if name in OVERWRITE else None
        read = [self._read(value, bool(written)) for value in arguments if value is not skipped]
        call = Call(read, keywords, torch.empty(0))
        result = function(*arguments, **keywords)
        outputs = list(_tensors(result))
        fresh = [t for t in outputs if t.untyped_storage()._cdata not in self._shadows and t.numel()]
        if name in EMPTY:
            level, source = UNWRITTEN, CONSTANT
        elif name in CREATE or not any(operand.data for operand in call.operands):
            if not fresh and not written:
                return result
            level, source = level_of((fresh + written)[0]), CONSTANT
            unwritten = any(operand.level == UNWRITTEN and operand.values.numel() for operand in call.operands)
            if unwritten and name not in CREATE:
                level = UNWRITTEN
        elif fresh or written:
            call.output = (fresh + written)[0]
            verdict = self._judge(name, call)
            level, source = verdict.level, self._note(name, call, verdict)
        else:
            if not outputs:
                self._escape(name, next(operand for operand in call.operands if operand.data))
            return result  # a view of what is known
        for tensor in fresh:
            self._keep(tensor, level, source)
        if name == "cat" and source != CONSTANT:
            self._join(call, outputs[0], source)
        for tensor in written:
            key = tensor.untyped_storage()._cdata
            if key in self._shadows:
                self._shadows[key].write(tensor, level, source)
        return result

    def _join(self, call: Call, result: Tensor, source: int) -> None:
        """Give each part of a concatenation its own level."""
        dimension = call.arguments[1].values.item() if len(call.arguments) > 1 else 0
        shadow, start = self._shadows[result.untyped_storage()._cdata], 0
        for part in call.operands:
            size = part.values.shape[dimension]
            if part.values.numel():
                shadow.write(result.narrow(dimension, start, size), part.level, source)
            start += size

    def _read(self, value: Any, copy: bool) -> Any:
        if isinstance(value, list | tuple):
            return [self._read(part, copy) for part in value] if any(isinstance(p, Tensor) for p in value) else value
        if not isinstance(value, Tensor | bool | int | float):
            return value
        operand = self._operand(value)
        if copy and operand.data:
            # the operation may write over it before the rule looks
            operand.values = operand.values.clone()
        return operand

    def _judge(self, name: str, call: Call) -> Verdict:
        size = call.output.numel()
        for operand in call.operands:
            if operand.level == UNWRITTEN and operand.values.numel():
                return Verdict(UNKNOWN, REAL, size, complaint="reads memory that no observed operation wrote")
            if operand.data and not has_level(operand.values, operand.level):
                complaint = f"an operand should hold {level_name(operand.level)} and does not"
                return Verdict(UNKNOWN, REAL, size, complaint=complaint)
        rule = RULES.get(name) or RULES.get(name.removesuffix("_"))
        if rule is None:
            return Verdict(UNKNOWN, REAL, size, complaint="is an operation without a rule")
        verdict = rule(call)
        if not has_level(call.output, verdict.level):
            return Verdict(UNKNOWN, REAL, size, complaint=f"should give {level_name(verdict.level)} and does not")
        return verdict

    def _note(self, name: str, call: Call, verdict: Verdict) -> int:
        sources = frozenset().union(*(operand.sources for operand in call.operands))
        self.operations.append(Operation(self._at[-1], name, ", ".join(map(str, call.operands)), sources, verdict))
        return len(self.operations) - 1


def _written(schema: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Iterator[Any]:
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield keywords.get(argument.name) if argument.kwarg_only else arguments[position]


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
