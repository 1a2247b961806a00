# SPDX-License-Identifier: MIT
"""Training speed, memory and latency of the network, beside the same network as a plain autograd loop.

The loop (`model.network.plain`) is what one writes first. It has the same weights and computes the same loss.
Nothing is kept of an interrupted measurement; give the command again.

  python -m model.bench
  python -m model.bench --repetitions 20 --json bench.json
"""

import argparse
import dataclasses
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from model.command import check_least, ended
from model.deployed.geometry import Geometry, GeometryError
from model.deployed.presets import HOPPER_Z2
from model.files import WriteError, ready, write_json
from model.network import kernels
from model.network.layers import Structure, float_network
from model.network.network import Network
from model.network.norm import set_mixing
from model.network.plain import PlainNetwork, PlainNorm

INPUTS, ACTIONS = 15, 3
"""Of Hopper."""

STRUCTURE = Structure(taps="shared")
"""Taps that all channels share: the one choice that the plain loop's matrix of tokens times tokens can express."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained: sizes, and random tokens and actions of a fixed seed."""

    d_model: int
    batch: int
    tokens: int
    device: str

    @property
    def geometry(self) -> Geometry:
        """The deployed network's, at this width."""
        return dataclasses.replace(HOPPER_Z2, d_model=self.d_model)

    def network(self) -> Network:
        """Return the network; the same one every time."""
        torch.manual_seed(0)
        return float_network(self.geometry, INPUTS, ACTIONS, STRUCTURE).train().to(self.device)

    def data(self) -> tuple[Tensor, Tensor]:
        """Return tokens and the actions to learn."""
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randn(self.batch, self.tokens, INPUTS, generator=generator)
        return tokens.to(self.device), torch.tanh(tokens[..., :ACTIONS]).to(self.device)


def _theta(network: nn.Module, theta: float) -> None:
    set_mixing(network, theta)
    for part in network.modules():
        if isinstance(part, PlainNorm):
            part.theta = theta


def _update(network: nn.Module, task: Task) -> Callable[[], float]:
    """Return what does one update of training and returns the loss."""
    tokens, actions = task.data()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-4)

    def update() -> float:
        loss = (network(tokens) - actions).square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.25)
        optimiser.step()
        return loss.item()

    return update


def _clock(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    # of one thread on a CPU that others use, too
    return time.process_time()


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to train: which network, at which precision of products, compiled functions or not."""

    name: str
    plain: bool
    precision: str
    compiled: bool

    def enter(self) -> None:
        """Set the process's switches."""
        torch.set_float32_matmul_precision(self.precision)
        os.environ[kernels.SWITCH] = "on" if self.compiled else "off"


OURS = Way("this network", False, "medium", True)
WAYS = (
    OURS,
    Way("this network, uncompiled", False, "medium", False),
    Way("plain loop, same precision", True, "medium", False),
    Way("plain loop, PyTorch's default precision", True, "highest", False),
)


def compare_losses(task: Task) -> dict[str, dict[str, float]]:
    """Return the first losses of both networks, and how far all gradients are apart relative to their norm.

    In float32 with compiled functions, and in float64, where a membrane that meets its threshold to the last bit cannot
    fire in one and not in the other.
    """
    OURS.enter()
    torch.set_float32_matmul_precision("highest")
    results = {}
    tokens, actions = task.data()
    for kind in (torch.float32, torch.float64):
        network = task.network()
        plain = PlainNetwork(network).train().to(task.device)
        losses, gradients = [], []
        for model in (network.to(kind), plain.to(kind)):
            loss = (model(tokens.to(kind)) - actions).square().mean()
            loss.backward()
            losses.append(loss.item())
            gradients.append(torch.cat([matrix.grad.flatten() for matrix in _matrices(model)]))
        apart = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
        results[str(kind).removeprefix("torch.")] = {
            "loss": losses[0],
            "plain_loss": losses[1],
            "gradient_difference": apart.item(),
        }
    return results


def _matrices(network: nn.Module) -> list[nn.Parameter]:
    if isinstance(network, PlainNetwork):
        return network.matrices()
    layers = [network.embed]
    for block in network.blocks:
        layers += [block.kvq, block.proj, block.fc1, block.fc2]
    return [layer.linear.weight for layer in layers]


def time_updates(task: Task, repetitions: int, progress: bool) -> list[dict[str, Any]]:
    """Return per PTBN mixing and way the milliseconds of an update: median and all, repetitions interleaved."""
    network = task.network()
    updates = {}
    for way in WAYS:
        model = PlainNetwork(network).train().to(task.device) if way.plain else task.network()
        updates[way] = (model, _update(model, task))
    rows = []
    with tqdm(total=2 * (repetitions + 1) * len(WAYS), desc="updates", disable=not progress, mininterval=2) as bar:
        for theta in (0.0, 0.5):
            times: dict[Way, list[float]] = {way: [] for way in WAYS}
            for _ in range(repetitions + 1):  # the first one warms up
                for way, (model, update) in updates.items():
                    way.enter()
                    _theta(model, theta)
                    start = _clock(task.device)
                    update()
                    times[way].append((_clock(task.device) - start) * 1e3)
                    bar.update()
            for way, all_ms in times.items():
                median = statistics.median(all_ms[1:])
                ratio = median / statistics.median(times[OURS][1:])
                rows.append(
                    {"theta": theta, **dataclasses.asdict(way), "ms": median, "over_ours": ratio, "all_ms": all_ms[1:]}
                )
    return rows


def latency_us(task: Task, decisions: int) -> dict[str, float]:
    """Return p50 and p99 of streaming one episode, wall clock, microseconds per decision."""
    OURS.enter()
    stream = task.network().eval().stream(1)
    tokens = torch.randn(decisions + 50, 1, INPUTS, generator=torch.Generator().manual_seed(2)).to(task.device)
    times = []
    for token in tokens:
        start = time.perf_counter()
        stream.decide(token).tolist()
        times.append((time.perf_counter() - start) * 1e6)
    percentiles = statistics.quantiles(times[50:], n=100)
    return {"p50": percentiles[49], "p99": percentiles[98], "decisions": decisions}


def _peak(task: Task, plain: bool) -> int:
    """Return the largest resident size in bytes of this process over three updates; run it in one of its own."""
    way = WAYS[2] if plain else OURS
    way.enter()
    network = task.network()
    update = _update(PlainNetwork(network).train() if plain else network, task)
    for _ in range(3):
        update()
    status = Path("/proc/self/status")
    if status.exists():
        # Linux: the resource usage of a new process starts at its parent's peak
        return 1024 * int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_memory_mib(task: Task, plain: bool) -> float:
    """Return the peak memory of training in a fresh process on the CPU, interpreter and libraries included, MiB."""
    sizes = ", ".join(map(repr, (task.d_model, task.batch, task.tokens)))
    program = (
        "import torch; torch.set_num_threads(1); from model.bench import Task, _peak; "
        f"print(_peak(Task({sizes}, 'cpu'), {plain}))"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    return int(done.stdout) / 2**20


def machine(device: str) -> dict[str, Any]:
    """Return what the figures depend on."""
    cpu = next((line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")), "")
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu or platform.processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "compiled": kernels.library() is not None,
        "bfloat16_products": kernels.multiply(64, 16, 16),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def measure(options: argparse.Namespace, progress: bool) -> dict[str, Any]:
    """Run the bench."""
    task = Task(options.d_model, options.batch, options.tokens, "cuda" if torch.cuda.is_available() else "cpu")
    wide = dataclasses.replace(task, d_model=2 * task.d_model)
    OURS.enter()
    return {
        "machine": machine(task.device),
        "sizes": dataclasses.asdict(task) | {"layers": task.geometry.layers, "steps": task.geometry.steps},
        "losses": compare_losses(task),
        "updates": time_updates(task, options.repetitions, progress),
        "peak_memory_mib": [
            {"d_model": t.d_model, "ours": peak_memory_mib(t, False), "plain": peak_memory_mib(t, True)}
            for t in (task, wide)
        ],
        "latency_us": latency_us(task, 1000),
    }


def show(result: dict[str, Any]) -> str:
    """Return the result as text."""
    m, sizes = result["machine"], result["sizes"]
    compiled = "compiled functions" if m["compiled"] else "no compiled functions (no compiler or switched off)"
    clock = "wall clock" if sizes["device"] == "cuda" else "CPU time"
    lines = [
        f"{m['device']}, {m['threads']} thread(s), torch {m['torch']}, {compiled}"
        + (", own bfloat16 products" if m["bfloat16_products"] else ""),
        "PSSA, d_model {d_model}, {layers} layers, T {steps}, batch {batch} x {tokens} tokens".format(**sizes),
        "",
    ]
    for kind, row in result["losses"].items():
        lines.append(
            f"loss in {kind}: {row['loss']:.9f}, plain loop {row['plain_loss']:.9f}; "
            f"gradients differ by {row['gradient_difference']:.1e} of their norm"
        )
    lines += ["", f"{'an update, ' + clock + ', median':64}{'products':>10}{'ms':>8}{'over ours':>11}"]
    for row in result["updates"]:
        norm = "batch norm" if row["theta"] == 0 else "layer and batch norm"
        lines.append(f"{row['name'] + ', ' + norm:64}{row['precision']:>10}{row['ms']:8.1f}{row['over_ours']:10.2f}x")
    lines.append("")
    for row in result["peak_memory_mib"]:
        lines.append(
            f"peak memory of training at d_model {row['d_model']}: {row['ours']:.0f} MiB, plain loop {row['plain']:.0f}"
        )
    us = result["latency_us"]
    lines.append(
        f"streaming, one episode: p50 {us['p50']:.0f} us, p99 {us['p99']:.0f} us over {us['decisions']} decisions"
    )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m model.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--d-model", type=int, default=128, help="width; memory is also measured at twice it (128)")
    parser.add_argument("--batch", type=int, default=64, help="windows per update (64)")
    parser.add_argument("--tokens", type=int, default=20, help="tokens per window (20)")
    parser.add_argument("--repetitions", type=int, default=10, help="timed updates of each way (10)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch; compiled functions use one (1)")
    parser.add_argument("--json", type=Path, help="also write the result, every repetition in it, to this file")
    options = parser.parse_args(arguments)
    check_least(parser, options, d_model=1, batch=1, tokens=1, repetitions=1, threads=1)
    torch.set_num_threads(options.threads)
    try:
        ready(options.json)
        result = measure(options, os.environ.get("TERM") != "dumb")
        sys.stdout.write(show(result))
        if options.json:
            write_json(options.json, result)
    except (GeometryError, WriteError, KeyboardInterrupt) as error:
        return ended(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
