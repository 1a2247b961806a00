# SPDX-License-Identifier: MIT
"""The modules of SNN-DT, alone and together: phase codes and routing, what they are worth and what they cost."""

import dataclasses
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.nn import functional

from model.cost.account import count
from model.cost.observer import Observer
from model.cost.operations import REAL
from model.cost.subject import Observation
from model.data import offline
from model.deployed.geometry import Geometry
from model.network.layers import Structure, float_network
from model.network.network import Network, Record
from model.network.phase import LearnedPhase
from model.network.routing import HIDDEN
from model.studies import plots
from model.studies.runs import VALIDATION_SEED, Bench, Row, Run, Study, flown, relate
from model.training.checkpoint import Checkpoint, build
from model.training.config import TrainConfig
from model.training.trainer import LOGIT_GAIN, VALIDATION_WINDOWS

HEADS = 4
OBSERVED = 4
"""Tokens over which operations are counted; each costs the same."""

VARIANTS: dict[str, tuple[Row, Structure]] = {
    "none": ({}, Structure()),
    "query, steps (paper)": ({"phase": "query"}, Structure()),
    "query, steps, bits": ({"phase": "query"}, Structure(phase_soft=False)),
    "query, tokens": ({"phase": "query", "phase_over": "tokens"}, Structure()),
    "entry, steps": ({"phase": "input"}, Structure()),
    "entry, tokens": ({"phase": "input", "phase_over": "tokens"}, Structure()),
    "routing mlp (paper)": ({"routing": "mlp"}, Structure()),
    "routing count": ({"routing": "count"}, Structure()),
    "both of the paper": ({"phase": "query", "routing": "mlp"}, Structure()),
}
"""label -> changed fields of the geometry, and the structure."""


def stored_bits(g: Geometry) -> int:
    """Return the bits of parameters that a geometry's modules add to the network."""
    codes = g.phase_times * g.heads + (g.d_model * g.membrane_bits if g.phase == "input" else 0)
    thresholds = 2 * g.heads * (1 + g.largest_query_count.bit_length())
    weights = 32 * (HIDDEN * (g.d_model // g.heads) + 2 * HIDDEN + 1)
    return g.layers * (codes + {"none": 0, "count": thresholds, "mlp": weights}[g.routing])


def state_bits(g: Geometry) -> int:
    """Return the bits that a geometry's modules keep from token to token: a counter modulo the period."""
    return (g.period - 1).bit_length() if g.phase_over == "tokens" else 0


@torch.no_grad()
def operations(g: Geometry) -> dict[str, float]:
    """Count the operations of a decision that do not depend on spikes.

    ands : of spikes with the codes' bits; elementwise : additions, comparisons, and multiplications by a gain;
    multiplies : of matrix products; functions : of real numbers. Of a float network as drawn, whose neurons are silent:
    what it differs by from one without modules, they cost.
    """
    torch.manual_seed(0)
    network = float_network(g, g.input_size, g.action_size, Structure()).eval()
    for block in network.blocks:
        for parameter in () if block.routing is None else block.routing.parameters():
            parameter.normal_()  # weights that begin at zero would not count as factors
    observer, results = Observer(network), []
    with observer:
        stream = network.stream()
        for token in torch.zeros(OBSERVED, 1, g.input_size):
            results.append(stream.decide(observer.token(token.clone(), REAL)))
            observer.forget([*stream.state, *results])
    layers = count(Observation(observer.live(results), torch.cat(results)), g, True, 1)
    names = {"ands": "slots", "elementwise": "elementwise", "multiplies": "multiplies", "functions": "functions"}
    return {name: sum(getattr(layer, field) for layer in layers) for name, field in names.items()}


@torch.no_grad()
def held_out(bench: Bench, saved: Checkpoint) -> Row:
    """Return the loss on the windows of the validation, with bits and with soft codes, and the spikes per decision.

    The loss with bits is the one that training logged last.
    """
    network, config = saved.network, saved.config
    assert isinstance(network, Network)
    _, held = offline.split(bench.episodes, config.held_out, config.seed)
    source = offline.windows(bench.episodes, held, saved.normaliser)
    drawn = source.sample(VALIDATION_WINDOWS, config.length, np.random.default_rng(VALIDATION_SEED))
    tokens, actions, real, start = (torch.from_numpy(array) for array in drawn)

    def loss(record: Record | None = None) -> float:
        outputs = network(network.prepare(tokens), real, record, start)[real]
        if saved.facts["discrete"]:
            return functional.cross_entropy(LOGIT_GAIN * outputs, actions[real]).item()
        return functional.mse_loss(outputs, actions[real]).item()

    record = Record()
    result: Row = {"bits_loss": loss(record)}
    result["spikes"] = sum(spikes.sum().item() for spikes in record.spikes.values()) / int(real.sum())
    if config.geometry.phase != "none":
        for block in network.blocks:
            block.phase.train()
        result["soft_loss"] = loss() if config.structure.phase_soft else None
        network.eval()
    return result


def codes(network: Network) -> Row:
    """Return omega, phi and the bits of all layers' heads."""
    phases = [block.phase for block in network.blocks if isinstance(block.phase, LearnedPhase)]
    row: Row = {n: [value for phase in phases for value in getattr(phase, n).tolist()] for n in ("omega", "phi")}
    return row | {"bits": [int(bit) for phase in phases for bit in phase.bits().flatten()]}


def first_codes(config: TrainConfig, inputs: int, actions: int) -> Row:
    """Return the same that a training of the configuration begins with, as "first_omega" and so on."""
    torch.manual_seed(config.seed)
    network = build(config, inputs, actions, quantised=False)
    assert isinstance(network, Network)
    return {f"first_{name}": values for name, values in codes(network).items()}


def _row(bench: Bench, label: str, run: Run, score: dict[str, Any], none: dict[str, float]) -> Row:
    saved, g = run.load(), run.config.geometry
    assert isinstance(saved.network, Network)
    row = flown(label, run, score) | held_out(bench, saved)
    row |= {"rows": score["active_rows_per_decision"], "stored_bits": stored_bits(g), "state_bits": state_bits(g)}
    row |= {f"more_{name}": value - none[name] for name, value in operations(g).items()}
    if g.phase != "none":
        inputs = len(saved.normaliser.mean) + saved.actions + 1
        row |= codes(saved.network) | first_codes(run.config, inputs, saved.actions)
        moved = [np.abs(np.subtract(row[name], row[f"first_{name}"])).mean() for name in ("omega", "phi")]
        row["moved"] = float(np.mean(moved))
        row["changed_bits"] = float(np.mean(np.not_equal(row["bits"], row["first_bits"])))
    return row


def measure(bench: Bench) -> list[Row]:
    """Train every variant for every seed; score, count, and read omega and phi off."""
    fields = [
        {"geometry": dataclasses.replace(bench.budget.geometry, heads=HEADS if choices else 1, **choices)}
        | {"structure": structure}
        for choices, structure in VARIANTS.values()
    ]
    runs = bench.train(bench.each_seed(fields))
    labels = [label for label in VARIANTS for _ in range(bench.budget.seeds)]
    none = operations(runs[0].config.geometry)
    rows = [
        _row(bench, label, run, score, none)
        for label, run, score in zip(labels, runs, bench.score_all(runs), strict=True)
    ]
    relate(rows, "variant")
    return rows


def _plane(axes: Axes, rows: list[Row], title: str) -> None:
    """Draw omega and phi of every code of the rows, and a cross where each began."""
    for number, row in enumerate(rows):
        axes.plot(row["first_omega"], row["first_phi"], "x", color=plots.COLOURS[number], markersize=7, alpha=0.5)
        axes.plot(row["omega"], row["phi"], ".", color=plots.COLOURS[number], label=f"seed {row['seed']}")
    axes.set(title=title, xlabel="omega (rad per time); x: at first", ylabel="phi (rad)", ylim=(-0.4, 8.2))
    axes.legend(loc="upper right", ncols=2, fontsize=7)


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draw losses seed by seed, returns, spikes, and omega and phi of two variants."""
    loss, returns, spikes, steps, tokens = figure.subplots(1, 5, width_ratios=[1.2, 1, 1, 1, 1])
    plots.dots(loss, rows, "variant", "relative_loss", "final loss / loss of none, same seed")
    plots.dots(returns, rows, "variant", "return", "return (dot: a training seed, bar: mean)")
    plots.dots(spikes, rows, "variant", "spikes", "spikes per decision")
    for axes in (returns, spikes):
        axes.set_yticklabels([])
    for axes, name in ((steps, "query, steps (paper)"), (tokens, "entry, tokens")):
        _plane(axes, [row for row in rows if row["variant"] == name], name)


STUDY = Study(
    "modules",
    "phase codes and routing of SNN-DT against none: loss, return, spikes, operations, state (--task cartpole-mixed)",
    measure,
    draw,
    keys=("variant",),
    values=(
        "validation_loss",
        "relative_loss",
        "soft_loss",
        "return",
        "spikes",
        "rows",
        "more_ands",
        "more_elementwise",
        "more_multiplies",
        "more_functions",
        "stored_bits",
        "state_bits",
        "moved",
        "changed_bits",
    ),
    size=(15.0, 4.0),
)
