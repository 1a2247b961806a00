# SPDX-License-Identifier: MIT
"""Window weights P: absolute, relative or none, and the gradient they lack where they start as the authors' do.

The neurons behind a window fire above 0.5 and their surrogate is a rectangle over the currents between 0 and 1. With P
at 1 every current is a whole number, so none lies there: neither P nor query, key and value get a gradient through the
attention, exactly. Below 1 they do.
"""

import copy

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from model.data import offline
from model.network.attention import PSSA
from model.network.layers import Structure
from model.network.network import Network
from model.network.norm import set_mixing
from model.studies import plots
from model.studies.runs import Bench, Row, Run, Study, relate, whole_windows
from model.training.checkpoint import build
from model.training.config import TrainConfig

AUTHORS = {"tap_floor": 1.0, "tap_init": 1.0}
VARIANTS: dict[str, Row] = {
    "relative, channel": {},
    "relative, channel, P = 1": AUTHORS,
    "relative, channel, P = 1, no decay": AUTHORS,
    "relative, head": {"taps": "head"},
    "relative, shared": {"taps": "shared"},
    "absolute": {"position": "absolute", "taps": "shared"},
    "absolute, P = 1 (authors)": AUTHORS | {"position": "absolute", "taps": "shared"},
    "OR gate": {"taps": "or"},
}
"""Label -> changed fields of `Structure`; P starts in 0..0.6 unless said.

Weight decay is what can move a P of 1: rate times decay above 2**-25, half a step of single precision there, takes it
below 1, where gradients begin. At the authors' rate of 1e-4 it is too small; "no decay" shows that case.
"""
CONSTANTS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0 - 2.0**-24, 1.0, 1.1)
"""Initial values of P whose first gradient is measured; the one before 1 is single precision's next number below."""
EDGES = np.linspace(-0.4, 1.4, 46)
"""Of the histograms of P."""
MOVED = 0.01
SAMPLES = 64


def attentions(network: Network) -> list[PSSA]:
    """Return the network's attentions, first layer first."""
    return [block.attention for block in network.blocks]


def live_taps(network: Network) -> torch.Tensor:
    """Return every P that acts (for an absolute matrix: inside the window) as one vector."""
    parts = []
    for attention in attentions(network):
        taps = attention.taps
        weight = taps.weight.detach()
        parts.append(weight.flatten() if taps.live is None else weight[:, taps.live.bool()].flatten())
    return torch.cat(parts)


def gradients(network: Network, tokens: torch.Tensor, actions: torch.Tensor) -> Row:
    """Return the norms of a training loss's gradient over P, over the query, key and value linears, over the rest.

    tokens [batch, length, inputs] and actions [batch, length, action] without padding. None where P is no parameter.
    """
    network = copy.deepcopy(network).train()
    network.zero_grad()
    error = network(tokens) - actions
    (error * error).mean().backward()

    def norm(parameters: list[torch.nn.Parameter]) -> float:
        return float(torch.stack([(0 * p if p.grad is None else p.grad).norm() for p in parameters]).norm())

    taps = [p for a in attentions(network) for p in a.taps.parameters()]
    linears = [block.kvq.linear.weight for block in network.blocks]
    other = {id(p) for p in (*taps, *linears)}
    rest = [p for p in network.parameters() if id(p) not in other]
    return {"taps": norm(taps) if taps else None, "qkv": norm(linears), "rest": norm(rest)}


def fresh(bench: Bench, config: TrainConfig) -> tuple[Network, torch.Tensor, torch.Tensor]:
    """Return the network a run starts from, as its first update sees it, with tokens and actions to learn from."""
    episodes = bench.episodes
    actions = episodes.actions.shape[1]
    torch.manual_seed(config.seed)
    network = build(config, episodes.observations.shape[1] + actions + 1, actions, quantised=False)
    set_mixing(network, 1.0)
    normaliser = offline.Normaliser.of(episodes, config.return_scale)
    chosen, _ = offline.split(episodes, config.held_out, config.seed)
    windows = offline.windows(episodes, chosen, normaliser)
    tokens, targets = whole_windows(windows, SAMPLES, config.length, np.random.default_rng(config.seed))
    return network, torch.from_numpy(tokens), torch.from_numpy(targets)


def at_constant(network: Network, value: float) -> Network:
    """Return a copy of a network with every P at one value."""
    network = copy.deepcopy(network)
    with torch.no_grad():
        for attention in attentions(network):
            attention.taps.weight.fill_(value)
    return network


@torch.no_grad()
def changed_by_or(network: Network, tokens: torch.Tensor) -> float:
    """Return the share of decisions (any action by more than 1e-4) that change when every P is set to 1."""
    gap = (network(tokens) - at_constant(network, 1.0)(tokens)).abs().amax(-1)
    return (gap > 1e-4).double().mean().item()


def measure(bench: Bench) -> list[Row]:
    """Train every form of P; measure gradients at the start, what became of P, and whether an OR gate would do."""
    configs, labels = [], []
    for label, choices in VARIANTS.items():
        structure = Structure(positions=max(24, bench.budget.geometry.context), **choices)
        inference = "recompute" if structure.position == "absolute" else "stream"
        decay = {"weight_decay": 0.0} if label.endswith("no decay") else {}
        configs += bench.each_seed([{"structure": structure, "inference": inference} | decay])
        labels += [label] * bench.budget.seeds
    runs = bench.train(configs)
    rows = [
        _trained(bench, label, run) | {"return": score["mean_return"], "normalised": score["normalised_score"]}
        for label, run, score in zip(labels, runs, bench.score_all(runs), strict=True)
    ]
    relate(rows, "variant")
    for seed in range(bench.budget.seeds):
        network, tokens, actions = fresh(bench, bench.budget.config(seed))
        for value in CONSTANTS:
            found = gradients(at_constant(network, value), tokens, actions)
            rows.append({"kind": "first gradient", "variant": f"P = {value:.9g}", "seed": seed, "value": value} | found)
    return rows


def _trained(bench: Bench, label: str, run: Run) -> Row:
    config, saved = run.config, run.load()
    network, tokens, actions = fresh(bench, config)
    start = live_taps(network)
    end = live_taps(saved.network)
    held, _ = bench.held_out(saved, SAMPLES, config.length)
    return {
        "kind": "trained",
        "variant": label,
        "seed": config.seed,
        "validation_loss": run.loss,
        "curve": run.curve(),
        **gradients(network, tokens, actions),
        "moved": (end - start).abs().gt(MOVED).double().mean().item(),
        "changed_by_or": changed_by_or(saved.network, held),
        "histogram": np.histogram(end.clamp(EDGES[0], EDGES[-1]), EDGES)[0].tolist(),
    }


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draw the first gradient over P, P after training, loss and return of every form."""
    (gradient, histogram), (loss, scores) = figure.subplots(2, 2)
    trained = [row for row in rows if row["kind"] == "trained"]
    first = [row for row in rows if row["kind"] == "first gradient"]
    _draw_gradient(gradient, first)
    for label, colour in zip(list(VARIANTS)[:3], plots.COLOURS, strict=False):
        counts = np.sum([row["histogram"] for row in trained if row["variant"] == label], axis=0)
        histogram.stairs(100 * counts / counts.sum(), EDGES, color=colour, linewidth=1.6, label=label)
    histogram.set(xlabel="P after training", ylabel="share of taps (%)", yscale="log")
    histogram.legend()
    plots.dots(loss, trained, "variant", "relative_loss", f"final loss / loss of {trained[0]['variant']}, same seed")
    plots.dots(scores, trained, "variant", "return", "return (dot: a training seed, bar: mean)")
    scores.set_yticklabels([])


def _draw_gradient(axes: Axes, rows: list[Row]) -> None:
    groups = {"rest": "all else", "qkv": "query, key, value", "taps": "P"}
    for number, (name, label) in enumerate(groups.items()):
        values = plots.names(rows, "value")
        means = [np.mean([row[name] for row in rows if row["value"] == value]) for value in values]
        axes.plot(values, means, color=plots.COLOURS[number], marker=".", label=label)
    axes.axvline(1.0, color="#5f6b7a", linestyle="--", linewidth=1)
    axes.set(xlabel="P, the same everywhere, at the first update (dashed: 1)", ylabel="norm of the gradient")
    axes.set_yscale("symlog", linthresh=1e-5)
    axes.set_ylim(bottom=-2e-6)
    axes.legend()


STUDY = Study(
    "position",
    "window weights P absolute, relative (channel, head, shared) or an OR gate; the gradient missing at P = 1",
    measure,
    draw,
    keys=("kind", "variant"),
    values=("validation_loss", "relative_loss", "return", "taps", "qkv", "rest", "moved", "changed_by_or"),
    size=(11.0, 7.0),
)
