# SPDX-License-Identifier: MIT
"""The previous action: how far decisions lean on it, and what hiding it in training does to them.

Where the best action is nearly always the last one again, a network learns to repeat what it reads (MountainCar).
"""

import torch
from matplotlib.figure import Figure
from torch import Tensor

from model.network.baselines import Baseline
from model.network.network import Network
from model.studies import plots
from model.studies.runs import Bench, Row, Study

DROPOUTS = (0.0, 0.25, 0.5, 0.75, 0.9)
SAMPLES = 256


@torch.no_grad()
def leaning(network: Network | Baseline, tokens: Tensor, actions: int) -> float:
    """Return how much decisions change with the previous action alone.

    tokens [windows, length, inputs] as the network takes them. The newest token's previous action is replaced by that
    of another window. Of discrete actions (one-hot) the share of choices that change among those whose previous action
    did; of continuous ones the mean change over the mean change of the previous action. 0: not read; 1: repeated.
    """
    place = slice(tokens.shape[-1] - 1 - actions, tokens.shape[-1] - 1)
    changed = tokens.clone()
    changed[:, -1, place] = tokens[torch.arange(len(tokens)) - 1, -1, place]
    before, after = (network(t)[:, -1] for t in (tokens, changed))
    old, new = tokens[:, -1, place], changed[:, -1, place]
    if ((old == old.max()) | (old == old.min())).all():  # one choice of several
        differs = (old != new).any(1)
        return (before.argmax(1) != after.argmax(1))[differs].float().mean().item() if differs.any() else 0.0
    scale = 1.0 if network.input_scale is None else float(network.input_scale[place].mean())
    return ((before - after).abs().mean() / ((old - new).abs().mean() / scale)).item()


def measure(bench: Bench) -> list[Row]:
    """Train with every chance of hiding the previous action, for each seed; fly, and see how decisions lean on it."""
    runs = bench.train(bench.each_seed([{"action_dropout": chance} for chance in DROPOUTS]))
    rows = []
    for run, score in zip(runs, bench.score_all(runs), strict=True):
        saved = run.load()
        tokens, _ = bench.held_out(saved, SAMPLES, run.config.length)
        rows.append(
            {
                "action_dropout": run.config.action_dropout,
                "seed": run.config.seed,
                "validation_loss": run.loss,
                "leaning": leaning(saved.network, tokens.float(), saved.actions),
                "return": score["mean_return"],
                "normalised": score["normalised_score"],
            }
        )
    return rows


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draw loss, leaning and return over the chance of hiding the previous action."""
    panels = {
        "validation_loss": "validation loss (nothing hidden)",
        "leaning": "decisions that change with the previous action",
        "return": "return (dot: a training seed, line: mean)",
    }
    for axes, (value, label) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        known = [row for row in rows if row[value] is not None]
        plots.say_if_missing(axes, rows, value)
        axes.plot(
            [r["action_dropout"] for r in known], [r[value] for r in known], "o", color=plots.COLOURS[0], alpha=0.6
        )
        chances = plots.names(known, "action_dropout")
        means = [torch.tensor([r[value] for r in known if r["action_dropout"] == c]).mean().item() for c in chances]
        axes.plot(chances, means, color=plots.COLOURS[0])
        axes.set(xlabel="chance that a token hides its previous action", ylabel=label)


STUDY = Study(
    "dropout",
    "hiding the previous action in training: return, and how far decisions lean on it (--task mountaincar-mixed)",
    measure,
    draw,
    keys=("action_dropout",),
    values=("validation_loss", "leaning", "return", "normalised"),
    size=(11.0, 3.6),
)
