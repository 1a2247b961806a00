# SPDX-License-Identifier: MIT
"""The previous action: how far decisions copy it, what that does in flight, and what hiding it in training changes.

Where the best action is nearly always the last one again, a network can learn to repeat what it reads (MountainCar).
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from model.network.baselines import Baseline
from model.network.network import Network
from model.network.product import unrounded
from model.scores import rollout
from model.scores.evaluation import brain_of
from model.scores.suites import SPIKING
from model.studies import plots
from model.studies.runs import Bench, Row, Run, Study, measured

DROPOUTS = (0.0, 0.25, 0.5, 0.75, 1.0)
SAMPLES = 256

REPEATED: Row = {"inference": "recompute", "rate": 3e-3}
NETWORKS: dict[str, Row] = {
    "PSSA": {},
    "PSSA, recipe": SPIKING,
    "PSSA, deployed": SPIKING | {"action_hidden": True},
    "DT, three tokens": REPEATED | {"network": "dt-3-token"},
    "DT, one token": REPEATED | {"network": "dt-1-token"},
    "BC": REPEATED | {"network": "bc"},
}
"""label -> changed fields of `TrainConfig`. Deployed is the cure: integers that do not read the action. BC sees the
observation alone, so that there is nothing to hide."""
CHANCES = {"PSSA, deployed": (0.25,), "BC": (0.0,)}
"""label -> chances, where they are not `DROPOUTS`."""


def place(tokens: Tensor, actions: int) -> slice:
    """Return which components of tokens [..., inputs] are the previous action."""
    return slice(tokens.shape[-1] - 1 - actions, tokens.shape[-1] - 1)


@torch.no_grad()
def leaning(network: Network | Baseline, tokens: Tensor, actions: int, whole: bool = False) -> float:
    """Return how much the newest decision changes with the previous action alone.

    tokens [windows, length, inputs] as the network takes them. The newest token's previous action is replaced by that
    of another window, or with `whole` those of all the window's tokens. Of discrete actions (one-hot) the share of
    choices that change among those whose previous action did; of continuous ones the mean change over the mean change
    of the previous action. 0: not read; 1: repeated.
    """
    at = place(tokens, actions)
    changed, newest = tokens.clone(), slice(None) if whole else slice(-1, None)
    changed[:, newest, at] = tokens[torch.arange(len(tokens)) - 1][:, newest, at]
    before, after = (network(t)[:, -1] for t in (tokens, changed))
    old, new = tokens[:, -1, at], changed[:, -1, at]
    if ((old == old.max()) | (old == old.min())).all():  # one choice of several
        differs = (old != new).any(1)
        return (before.argmax(1) != after.argmax(1))[differs].float().mean().item() if differs.any() else 0.0
    scale = getattr(network, "input_scale", None)  # of the integer network alone
    unit = 1.0 if scale is None else float(scale[at].mean())
    return ((before - after).abs().mean() / ((old - new).abs().mean() / unit)).item()


@torch.no_grad()
def hits(network: Network | Baseline, tokens: Tensor, targets: Tensor) -> dict[str, float | None]:
    """Return how often "the last action again" is right in the data, and how often the network is where it is not.

    tokens [windows, length, inputs], targets [windows, length, actions] one-hot. data_repeats : of all steps but an
    episode's first. right_at_turns, copies_at_turns : shares of the steps whose action differs from the last, in which
    the network chooses the data's action, and in which it chooses the last one.
    """
    previous = tokens[..., place(tokens, targets.shape[-1])]
    known = previous.amax(-1) > 0
    last, target = previous.argmax(-1)[known], targets.argmax(-1)[known]
    chosen = network(tokens).argmax(-1)[known]
    turns = target != last

    def share(hit: Tensor) -> float | None:
        return hit[turns].float().mean().item() if turns.any() else None

    repeats = 1 - turns.float().mean().item()
    return {
        "data_repeats": repeats,
        "right_at_turns": share(chosen == target),
        "copies_at_turns": share(chosen == last),
    }


class _Blind:
    """A brain that is not shown its previous action."""

    def __init__(self, brain: rollout.Brain, at: slice) -> None:
        self.brain, self.at = brain, at

    def begin(self, batch: int) -> None:
        self.brain.begin(batch)

    def decide(self, tokens: rollout.Floats, live: Any) -> rollout.Floats:
        tokens = tokens.copy()
        tokens[:, self.at] = 0.0
        return self.brain.decide(tokens, live)


@unrounded()
def fly(run: Run, episodes: int, hidden: bool) -> dict[str, Any]:
    """Return the mean return of episodes with reset seeds 0, 1, ..., and what they say of discrete actions.

    hidden : whether the network sees zeros in place of its previous action. repeats : share of the steps, but the
    first, whose action is the last one again. first_swing : mean number of steps before the action first changes.
    """
    saved = run.load()
    brain: rollout.Brain = brain_of(saved)
    if hidden:
        inputs = len(saved.normaliser.mean) + saved.actions + 1
        brain = _Blind(brain, slice(inputs - 1 - saved.actions, inputs - 1))
    target, kind = run.config.target_return, saved.facts["discrete"]
    done = rollout.run(brain, saved.facts["environment"], saved.normaliser, target, range(episodes), discrete=kind)
    result: dict[str, Any] = {"return": float(np.mean([sum(episode.rewards) for episode in done]))}
    if kind:
        same = [np.equal(episode.actions[1:], episode.actions[:-1]) for episode in done]
        result["repeats"] = float(np.concatenate(same).mean())
        result["first_swing"] = float(np.mean([len(s) + 1 if s.all() else int(s.argmin()) + 1 for s in same]))
    return result


FLOWN = ("return", "repeats", "first_swing")


def _flights(runs: list[Run], episodes: int, hidden: bool) -> list[dict[str, Any]]:
    if not episodes:
        return [{} for _ in runs]
    name = f"flown-{episodes}-{'hidden' if hidden else 'shown'}.json"
    return measured("flight", {run.folder / name: partial(fly, run, episodes, hidden) for run in runs})


def _probes(bench: Bench, run: Run) -> Row:
    saved = run.load()
    tokens, targets = bench.held_out(saved, SAMPLES, saved.config.length)
    tokens = tokens.float()
    row: Row = {
        "leaning": leaning(saved.network, tokens, saved.actions),
        "leaning_window": leaning(saved.network, tokens, saved.actions, whole=True),
    }
    return row | (hits(saved.network, tokens, targets) if saved.facts["discrete"] else {})


def measure(bench: Bench) -> list[Row]:
    """Train every network with every chance of hiding the previous action, for each seed; fly both ways, and probe."""
    cases = [(name, chance) for name in NETWORKS for chance in CHANCES.get(name, DROPOUTS)]
    configs = []
    for name, chance in cases:
        quant_steps = bench.budget.quant_steps if name == "PSSA, deployed" else 0
        changes = {"action_dropout": chance, "quant_steps": quant_steps}
        configs += bench.each_seed([NETWORKS[name] | changes])
    runs = bench.train(configs)
    shown, hidden = (_flights(runs, bench.budget.episodes, each) for each in (False, True))
    labels = [name for name, _ in cases for _ in range(bench.budget.seeds)]
    probes = measured("probe", {run.folder / f"probed-{SAMPLES}.json": partial(_probes, bench, run) for run in runs})
    rows = []
    for name, run, open_eyed, blind, probed in zip(labels, runs, shown, hidden, probes, strict=True):
        row = {
            "network": name,
            "action_dropout": run.config.action_dropout,
            "seed": run.config.seed,
            "validation_loss": run.loss,
            **{key: open_eyed.get(key) for key in FLOWN},
            "return_hidden": blind.get("return"),
        }
        rows.append(row | dict.fromkeys(PROBED) | probed)
    return rows


PROBED = ("leaning", "leaning_window", "data_repeats", "right_at_turns", "copies_at_turns")


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draw returns, shown and hidden, and leaning over the chance of hiding; and return over leaning."""
    panels = {
        "return": "return (dot: a seed, line: mean)",
        "return_hidden": "return, action hidden in flight",
        "leaning_window": "decisions that change with the\nwindow's previous actions",
    }
    *over_chance, scatter = figure.subplots(1, len(panels) + 1)
    names = plots.names(rows, "network")
    for axes, (value, label) in zip(over_chance, panels.items(), strict=True):
        plots.say_if_missing(axes, rows, value)
        for number, name in enumerate(names):
            known = [row for row in rows if row["network"] == name and row[value] is not None]
            chances = plots.names(known, "action_dropout")
            means = [float(np.mean([r[value] for r in known if r["action_dropout"] == c])) for c in chances]
            at = [r["action_dropout"] + 0.02 * (number - 2) for r in known]
            axes.plot(at, [r[value] for r in known], ".", color=plots.COLOURS[number], alpha=0.5)
            axes.plot(chances, means, "o-" if len(chances) == 1 else "-", color=plots.COLOURS[number], label=name)
        axes.set(xlabel="chance that a token hides its previous action", ylabel=label)
    over_chance[0].legend(fontsize=7)
    for number, name in enumerate(names):
        known = [row for row in rows if row["network"] == name and row["return"] is not None]
        style = {"color": plots.COLOURS[number], "alpha": 0.6}
        scatter.plot([r["leaning_window"] for r in known], [r["return"] for r in known], "o", **style)
    plots.say_if_missing(scatter, rows, "return")
    scatter.set(xlabel=panels["leaning_window"], ylabel="return")


STUDY = Study(
    "dropout",
    "hiding the previous action in training: return, and how far decisions copy it (--task mountaincar-mixed)",
    measure,
    draw,
    keys=("network", "action_dropout"),
    values=("validation_loss", "return", "return_hidden", "repeats", "first_swing", *PROBED),
    size=(16.0, 3.8),
)
