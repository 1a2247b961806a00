# SPDX-License-Identifier: MIT
"""What the network does between its matrix products, compiled: several times faster than one torch operation each.

model/kernels.cpp is compiled once per processor, compiler and version of the source, and kept under build/kernels/.
Without a compiler, on other devices and types, and with SPIKELOOP_KERNELS=off everything runs in plain PyTorch.
"""

import ctypes
import functools
import os
import platform
import subprocess
from pathlib import Path

import torch
from torch import Tensor

from model.compiled import call, compiled

SWITCH = "SPIKELOOP_KERNELS"
SOURCE = Path(__file__).with_suffix(".cpp")
CACHE = Path(__file__).resolve().parents[2] / "build" / "kernels"
FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-std=c++17", "-shared", "-fPIC"]
# contraction would change last bits
FLAGS += ["-ffp-contract=off"]
if platform.machine() in ("x86_64", "AMD64"):
    # not gcc's choice on every processor that has vectors so wide
    FLAGS += ["-mprefer-vector-width=512"]

POINTER, LONG, FLOAT = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
SIGNATURES = {
    "lif_forward": "p l pp lll",
    "lif_backward": "p l ppp lll",
    "statistics": "ppp ll",
    "has_product": "",
    "product": "pp l ppp lll",
    "norm_forward": "ppppp f pp l p lll",
    "norm_backward": "ppppp f pp pp pp lll",
    "window_forward": "ppp ll ppp llll",
    "window_backward": "ppp ll ppp ppp ll p llll",
}


def build(cache: Path = CACHE) -> Path:
    """Return the shared library, compiled if it is not kept. Raises `OSError` or `CalledProcessError`."""
    # what the compiler would run names its version and all that it found the processor to be
    target = call("g++", *FLAGS, "-###", "-E", "-x", "c++", "-")
    return compiled(SOURCE, ["g++", *FLAGS], cache, target)


@functools.cache
def _load() -> ctypes.CDLL | None:
    try:
        loaded = ctypes.CDLL(str(build()))
    except (OSError, subprocess.CalledProcessError):
        return None
    kinds = {"p": POINTER, "l": LONG, "f": FLOAT}
    for name, signature in SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype = LONG if name == "has_product" else None
        function.argtypes = [kinds[kind] for kind in signature.replace(" ", "")]
    return loaded


def library() -> ctypes.CDLL | None:
    """Return the compiled functions, or None where there are none or the environment switches them off."""
    return None if os.environ.get(SWITCH) == "off" else _load()


def fit(*tensors: Tensor | None) -> bool:
    """Return whether the compiled functions exist and take these tensors (None is left out).

    They take float32 on the CPU, contiguous but for the first axis.
    """
    return all(
        t is None or (t.dtype == torch.float32 and t.device.type == "cpu" and (t.is_contiguous() or _by_steps(t)))
        for t in tensors
    ) and (library() is not None)


def _by_steps(t: Tensor) -> bool:
    return t.dim() == 3 and t[0].is_contiguous()


def multiply(rows: int, inputs: int, outputs: int) -> bool:
    """Return whether `product` is the fastest for [rows, inputs] and a matrix [outputs, inputs], forward and backward.

    It rounds to bfloat16, so `torch.set_float32_matmul_precision("medium")` has to allow that.
    """
    loaded = library()
    return (
        torch.get_float32_matmul_precision() == "medium"
        and inputs % 16 == outputs % 16 == 0
        and rows >= 64  # the matrix is rearranged first
        and loaded is not None
        and bool(loaded.has_product())
    )


def run(name: str, *arguments: Tensor | int | float | None) -> None:
    """Call a compiled function; tensors are passed by address and must outlive the call."""
    loaded = library()
    assert loaded is not None
    getattr(loaded, name)(*(a.data_ptr() if isinstance(a, Tensor) else a for a in arguments))


def product(
    x: Tensor, matrix: Tensor, transposed: bool, mean: Tensor | None = None, variance: Tensor | None = None
) -> Tensor:
    """Return x matrix, or x matrix^T, where `multiply` allows it; fill mean and variance [channels] with the result's.

    x [..., depth] bfloat16, contiguous -> float32 [..., channels], summed in single precision.
    """
    depth, channels = x.shape[-1], matrix.shape[0 if transposed else 1]
    result = torch.empty(*x.shape[:-1], channels)
    run("product", x, matrix, transposed, result, mean, variance, x.numel() // depth, depth, channels)
    return result
