# SPDX-License-Identifier: MIT
"""Streaming against recompute: from which window on do the two make the same decision, and does it matter before?"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from model.network.network import Network
from model.network.product import unrounded
from model.scores.rollout import Brain, RecomputeBrain, StreamBrain, run
from model.studies import plots
from model.studies.runs import QUIET, Bench, Row, Study

DIFFERENT = 1e-4
"""Actions, in -1..1, count as different above this; single precision alone differs by less than 1e-5."""
WATCHED = 4
"""Episodes whose every decision is compared."""


def lengths(window: int, context: int) -> list[int]:
    """Return the tokens K to recompute: from the window up to beyond the context 1 + M (S - 1), dense around it."""
    return sorted({window, (window + context) // 2, context - 2, context - 1, context, context + 2})


class Watched:
    """A brain, with the tokens that every episode showed it."""

    def __init__(self, brain: Brain) -> None:
        self.brain = brain

    def begin(self, batch: int) -> None:
        """Start `batch` episodes."""
        self.tokens: list[list[Any]] = [[] for _ in range(batch)]
        self.brain.begin(batch)

    def decide(self, tokens: Any, live: Sequence[int]) -> Any:
        """Return the brain's actions [batch, actions] for tokens [batch, inputs]."""
        for row in live:
            self.tokens[row].append(tokens[row])
        return self.brain.decide(tokens, live)


@torch.no_grad()
def streamed(network: Network, tokens: Tensor) -> Tensor:
    """Decide one episode's tokens [n, inputs] one by one -> actions [n, actions]."""
    stream = network.stream()
    return torch.cat([stream.decide(token[None]) for token in tokens])


@torch.no_grad()
def recomputed(network: Network, tokens: Tensor, length: int, batch: int = 128) -> Tensor:
    """Decide one episode's tokens [n, inputs], each from the last `length` tokens alone -> actions [n, actions]."""
    before = torch.cat([tokens.new_zeros(length - 1, tokens.shape[1]), tokens])
    windows = before.unfold(0, length, 1).transpose(1, 2)
    real = torch.arange(length)[None] >= length - 1 - torch.arange(len(tokens))[:, None]
    parts = zip(windows.split(batch), real.split(batch), strict=True)
    return torch.cat([network(part.contiguous(), mask)[:, -1] for part, mask in parts])


@unrounded()
def differences(network: Network, episodes: Sequence[Tensor], length: int) -> Row:
    """Compare both on the same tokens: share of decisions that differ, and by how much."""
    gaps = torch.cat([(streamed(network, e) - recomputed(network, e, length)).abs().amax(1) for e in episodes])
    return {
        "decisions": len(gaps),
        "share_different": (gaps > DIFFERENT).double().mean().item(),
        "largest_difference": gaps.max().item(),
        "mean_difference": gaps.mean().item(),
    }


def measure(bench: Bench) -> list[Row]:
    """Stream each seed's network, then decide the same tokens, and whole episodes, by recomputing K tokens."""
    budget, rows = bench.budget, []
    for trained in bench.train(bench.each_seed([{}])):
        saved = trained.load()
        network, seeds = saved.network, range(budget.episodes)

        @unrounded()
        def fly(brain: Any, saved: Any = saved, seeds: Any = seeds) -> float:
            arguments = (saved.facts["environment"], saved.normaliser, saved.config.target_return, seeds)
            return float(np.mean([sum(episode.rewards) for episode in run(brain, *arguments)]))

        watched = Watched(StreamBrain(network))
        streaming = fly(watched)
        flown = [network.prepare(torch.tensor(np.array(tokens), dtype=torch.float32)) for tokens in watched.tokens]
        common = {"seed": trained.config.seed, "context": budget.geometry.context}
        rows.append({"inference": "stream", "tokens": None, "return": streaming, **common})
        for length in tqdm(lengths(budget.geometry.window, budget.geometry.context), desc="recompute", disable=QUIET):
            gap = differences(network, flown[:WATCHED], length)
            rows.append(
                {"inference": "recompute", "tokens": length, "return": fly(RecomputeBrain(network, length))}
                | common
                | gap
            )
    return rows


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draw the share that differs and the largest difference over K, and the returns of both."""
    left, middle, right = figure.subplots(1, 3)
    context = rows[0]["context"]
    for number, seed in enumerate(plots.names(rows, "seed")):
        again = [row for row in rows if row["seed"] == seed and row["inference"] == "recompute"]
        tokens = [row["tokens"] for row in again]
        style = {"color": plots.COLOURS[number], "marker": ".", "label": f"training seed {seed}"}
        left.plot(tokens, [100 * row["share_different"] for row in again], **style)
        # a difference of exactly nothing has no place on a logarithmic axis
        middle.plot(tokens, [max(row["largest_difference"], 1e-8) for row in again], **style)
        right.plot(tokens, [row["return"] for row in again], **style)
        streaming = next(row["return"] for row in rows if row["seed"] == seed and row["inference"] == "stream")
        right.axhline(streaming, color=plots.COLOURS[number], linestyle=":", linewidth=1)
    left.set(ylabel=f"decisions that differ by > {DIFFERENT:g} (%)", ylim=(-3, 103))
    middle.set(ylabel="largest difference of an action (-1..1)", yscale="log")
    right.set(ylabel="return (dotted: streaming)")
    for axes in (left, middle, right):
        axes.axvline(context, color="#5f6b7a", linestyle="--", linewidth=1)
        axes.set_xlabel(f"tokens recomputed, K (dashed: {context})")
    left.legend()


STUDY = Study(
    "streaming",
    "streaming against recomputing the last K tokens, K below, at and above 1 + M(S-1)",
    measure,
    draw,
    keys=("inference", "tokens"),
    values=("share_different", "largest_difference", "return"),
    size=(11.0, 3.6),
)
