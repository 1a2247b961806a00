# SPDX-License-Identifier: MIT
"""What a decision of sparse matching costs over windows of N tokens, beside dense: fitted exponents of N."""

import copy
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from model.deployed.geometry import Geometry
from model.network.attention import Rows
from model.network.layers import float_network
from model.network.match import Match
from model.network.network import Network, Record
from model.network.sparse import SPARSITIES, HashMatch
from model.studies import plots
from model.studies.runs import QUIET, Bench, Row, Study
from model.studies.sparse import structure

TOKENS = (32, 64, 128, 256, 500)
COSTS = {
    "pairs": "tokens looked at",
    "operations": "spike operations",
    "state_bits": "state (bits)",
    "peak_kib": "memory, state included (KiB)",
    "attention_us": "latency of attention (µs)",
    "decision_us": "latency of a decision (µs)",
}
"""Columns and what they are: the first three per layer, the rest of all layers."""
HEADS = 4
"""Of SSSA: with fewer, 500 tokens of 128 channels are beyond the accumulators."""
COUNTED, TIMED = 16, 60
"""Decisions whose spikes are counted, and that are timed, behind as many as fill the window."""
DEVIATION = 3.4
"""Of a sum of `d_model` weights: with it a good part of the neurons fire."""


def network_of(geometry: Geometry, sparsity: str, inputs: int, actions: int, seed: int) -> Network:
    """Return an untrained network whose neurons fire, with windows of `geometry.window` tokens."""
    torch.manual_seed(seed)
    network = float_network(geometry, inputs, actions, structure(sparsity, geometry.window))
    nn.init.normal_(network.embed.linear.weight)
    for block in network.blocks:
        for layer in (block.kvq, block.proj, block.fc1, block.fc2):
            nn.init.normal_(layer.linear.weight, std=DEVIATION / geometry.d_model**0.5)
    return network.eval()


def operations(match: Match, key: Tensor, value: Tensor, query: Tensor) -> int:
    """Count what spikes add up at a token: query [steps, 1, d] against keys and values looked at [steps, 1, tokens, d].

    A query spike that meets a key spike counts one; a value spike of a token that has a match adds its count; with
    hashes, a spike of the query or of a key that is filed adds its sign once for each bit.
    """
    counts = match.counts(query[:, :, None], key)[..., 0, :]
    values = value.unflatten(3, (match.geometry.heads, -1)).sum(4).transpose(2, 3)
    total = int(counts.sum()) + int((values * (counts > 0)).sum())
    if isinstance(match, HashMatch):
        # a token is filed at each decision: take the newest for it
        total += int(query.sum() + key[:, :, -1].sum()) * len(match.signs)
    return total


@torch.no_grad()
def counted(network: Network, tokens: Tensor) -> dict[str, float]:
    """Return pairs and operations per layer and decision over the last `COUNTED` of tokens [n, inputs], streamed."""
    stream, record, spent = network.stream(), Record(), 0
    spikes: dict[str, list[Tensor]] = {}
    for n, token in enumerate(tokens):
        with _looking(network, n >= len(tokens) - COUNTED) as done:
            stream.decide(token[None], record)
        spent += sum(done)
        for name, fired in record.spikes.items():
            spikes.setdefault(name, []).append(fired)
    pairs = 0.0
    for layer, block in enumerate(network.blocks):
        key, query = (torch.stack(spikes[f"layer{layer}.{name}"], 2) for name in ("key", "query"))
        pairs += block.attention.looked(key, query, Rows(None, 1, len(tokens)))[..., -COUNTED:, :].sum().item()
    per = COUNTED * len(network.blocks)
    return {"pairs": pairs / per, "operations": spent / per}


@contextmanager
def _looking(network: Network, really: bool) -> Iterator[list[int]]:
    """Note the operations of every attention within."""
    done: list[int] = []

    def watched(match: Match, look: Callable[..., Any]) -> Callable[..., Any]:
        def call(key: Tensor, value: Tensor, query: Tensor, state: Any) -> Any:
            k, v, after = look(key, value, query, state)
            done.append(operations(match, k, v, query))
            return k, v, after

        return call

    matches = [block.attention for block in network.blocks] if really else []
    for match in matches:
        match.look = watched(match, match.look)
    try:
        yield done
    finally:
        for match in matches:
            del match.look


def timed(network: Network, tokens: Tensor) -> dict[str, float]:
    """Return a decision's CPU time and attention's in it, medians over the last `TIMED` of tokens, and its memory."""
    stream, spent = network.stream(), [0.0]

    def clocked(advance: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.thread_time()
            result = advance(*arguments)
            spent[0] += time.thread_time() - start
            return result

        return call

    for block in network.blocks:
        block.attention.advance = clocked(block.attention.advance)
    decisions, attentions = [], []
    for token in tokens:
        spent[0], start = 0.0, time.thread_time()
        stream.decide(token[None])
        decisions.append(1e6 * (time.thread_time() - start))
        attentions.append(1e6 * spent[0])
    for block in network.blocks:
        del block.attention.advance
    before = stream.state

    def again() -> None:
        # a state of its own, so that all of what is freed was seen to be taken
        stream.state = copy.deepcopy(before)
        stream.decide(tokens[:1])

    return {
        "attention_us": statistics.median(attentions[-TIMED:]),
        "decision_us": statistics.median(decisions[-TIMED:]),
        "peak_kib": peak_bytes(again) / 1024,
    }


def peak_bytes(work: Callable[[], Any]) -> int:
    """Return the most bytes of tensors that `work` holds at a time, beyond what was held before."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it tells the console when it starts
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        kept = work()
    del kept
    changes = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        held += change.nbytes()
        peak = max(peak, held)
    return peak


def measure(bench: Bench) -> list[Row]:
    """Stream random tokens through untrained networks of every window; then fit the exponents of each seed."""
    budget, episodes = bench.budget, bench.episodes
    actions = episodes.actions.shape[1]
    inputs = episodes.observations.shape[1] + actions + 1
    base = dataclasses.replace(budget.geometry.with_attention("sssa"), heads=HEADS)
    rows: list[Row] = []
    for sparsity in SPARSITIES:
        mine: list[Row] = []
        for window in tqdm(TOKENS, desc=sparsity, disable=QUIET):
            geometry = dataclasses.replace(base, window=window)
            for seed in range(budget.seeds):
                network = network_of(geometry, sparsity, inputs, actions, seed)
                tokens = torch.randn(window + max(COUNTED, TIMED), inputs)
                match = network.blocks[0].attention
                state_bits = geometry.state_bits if sparsity == "dense" else match.state_bits
                cost = counted(network, tokens) | {"state_bits": state_bits} | timed(network, tokens)
                mine.append({"matching": sparsity, "tokens": window, "seed": seed} | cost)
        rows += mine + [fitted(mine, seed) for seed in range(budget.seeds)]
    return rows


def fitted(rows: list[Row], seed: int) -> Row:
    """Return the exponents of a seed's costs: least squares of log cost on log N."""
    mine = [row for row in rows if row["seed"] == seed]
    tokens = np.log([row["tokens"] for row in mine])
    exponents = {cost: float(np.polyfit(tokens, np.log([row[cost] for row in mine]), 1)[0]) for cost in COSTS}
    return {"matching": mine[0]["matching"], "tokens": "exponent", "seed": seed} | exponents


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draw every cost over N, a dot a seed, and the fitted power law with its exponent."""
    for axes, (cost, label) in zip(figure.subplots(2, 3).flat, COSTS.items(), strict=True):
        for number, name in enumerate(plots.names(rows, "matching")):
            mine = [row for row in rows if row["matching"] == name]
            points = [(row["tokens"], row[cost]) for row in mine if row["tokens"] != "exponent"]
            exponent = float(np.mean([row[cost] for row in mine if row["tokens"] == "exponent"]))
            tokens, costs = (np.array(column, float) for column in zip(*points, strict=True))
            middle = np.exp(np.log(costs).mean() - exponent * np.log(tokens).mean())
            ends = np.array([tokens.min(), tokens.max()])
            axes.plot(tokens, costs, ".", color=plots.COLOURS[number], alpha=0.6)
            axes.plot(ends, middle * ends**exponent, color=plots.COLOURS[number], label=f"{name}: N^{exponent:.2f}")
        axes.set(xscale="log", yscale="log", xlabel="window N (tokens)", ylabel=label)
        ticks = sorted({row["tokens"] for row in rows if row["tokens"] != "exponent"})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.xaxis.minorticks_off()
        if cost.endswith("_us"):
            # these span less than a decade
            axes.yaxis.set_minor_formatter("{x:.0f}")
        axes.legend()


STUDY = Study(
    "sparse-cost",
    "what a decision of sparse matching costs over windows of 32 to 500 tokens, beside dense; exponents of N",
    measure,
    draw,
    keys=("matching", "tokens"),
    values=tuple(COSTS),
    size=(12.0, 6.4),
)
