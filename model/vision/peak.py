# SPDX-License-Identifier: MIT
"""The most memory that the tensors of one call hold at a time."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.network.attention import Rows


class Peak(TorchDispatchMode):
    """Counts the bytes of the storages that operations in here make, while they live; `peak` is the most."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak, self.seen = 0, 0, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        old = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._note(tensor, old)
        return result

    def _note(self, tensor: Tensor, old: set[int]) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen or key in old:
            return
        self.seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)

        def gone() -> None:
            self.now -= size
            self.seen.discard(key)

        weakref.finalize(storage, gone)


def peak_of(call: Callable[[], object]) -> int:
    """Return the most bytes that the tensors a call makes hold at a time, its arguments not counted."""
    with torch.no_grad(), Peak() as peak:
        call()
    return peak.peak


def peak_bytes(attention: nn.Module, key: Tensor, value: Tensor, query: Tensor) -> int:
    """Return that of one image's attention: spikes [steps, tokens, d]."""
    return peak_of(lambda: attention(key, value, query, Rows(None, 1, key.shape[1])))
