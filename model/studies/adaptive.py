# SPDX-License-Identifier: MIT
"""Step gates at several prices against fixed numbers of SNN steps: return, live steps, rows, and the circuit's cycles.

Deployed policies. Returns, live steps and rows are the golden network's; cycles are counted by the verilated circuit on
the tokens of each first episode, where its actions are compared with golden's.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from host.accelerator import Accelerator
from host.verilated import BuildError, VerilatedBus, library
from model.data.offline import Normaliser, normalised_score
from model.deployed.artifact import Policy, quantise_token
from model.deployed.golden import GoldenNetwork
from model.scores import rollout
from model.scores.suites import SPIKING
from model.studies.gait import phases
from model.studies.runs import Bench, Row, Run, Study, measured
from model.studies.steps_figure import draw
from model.training.deployment import export

FIXED = (1, 2, 3, 4)
"""Numbers of steps without a gate."""
STEP_COSTS = (0.0, 0.002, 0.005, 0.02)
"""Prices of a live step, of a gate over the budget's steps."""
BINS = 20
"""Of a gait phase and of the target return; those of the episode's steps are `STEP_BIN` wide."""
STEP_BIN = 50
MEASURED = ("return", "normalised", "live_steps", "rows", "fetch_cycles", "cycles", "compared", "profiles")
"""Columns of a flight, with `CHOICES`."""
CHOICES = ("cycles_few", "cycles_many", "live_low", "live_high")
"""Columns of `by_choice`."""


class _Watched(rollout.GoldenBrain):
    """Keeps what every decision was given and chose: per episode tokens, and live steps of each layer."""

    def begin(self, batch: int) -> None:
        super().begin(batch)
        self.tokens: list[list[NDArray[np.int64]]] = [[] for _ in range(batch)]
        self.live: list[list[list[int]]] = [[] for _ in range(batch)]

    def decide(self, tokens: rollout.Floats, live: Sequence[int]) -> rollout.Floats:
        actions = super().decide(tokens, live)
        given, g = quantise_token(self.policy, tokens[self.rows]), self.policy.geometry
        chosen = np.array(self.trace.live_steps).T if g.adaptive else np.full((len(self.rows), g.layers), g.steps)
        for row, episode in enumerate(self.rows):
            self.tokens[episode].append(given[row])
            self.live[episode].append(chosen[row].tolist())
        return actions


def measure(bench: Bench) -> list[Row]:
    """Train every number of steps and every price, fly the artifacts."""
    g, quant_steps = bench.budget.geometry, bench.budget.quant_steps
    variants: list[dict[str, Any]] = [{"geometry": dataclasses.replace(g, steps=steps)} for steps in FIXED]
    adaptive = dataclasses.replace(g, adaptive=True)
    variants += [{"geometry": adaptive, "step_cost": cost} for cost in STEP_COSTS]
    runs = bench.train(bench.each_seed(variants, quant_steps=quant_steps, **SPIKING))
    episodes = bench.budget.episodes
    if not episodes:
        return [_row(run) | dict.fromkeys((*MEASURED, *CHOICES)) for run in runs]
    # kept, for a thousand decisions of a simulated circuit take their time
    flights = measured("flight", {run.folder / f"flown-{episodes}.json": partial(_fly, run, episodes) for run in runs})
    return [_row(run) | flight for run, flight in zip(runs, flights, strict=True)]


def _row(run: Run) -> Row:
    g = run.config.geometry
    return {
        "steps": f"1 to {g.steps}" if g.adaptive else str(g.steps),
        "step_cost": run.config.step_cost if g.adaptive else None,
        "seed": run.config.seed,
        "validation_loss": run.loss,
    }


def _fly(run: Run, episodes: int) -> Row:
    artifact = run.folder / "policy.safetensors"
    if not artifact.exists():
        export(run.file)[0].save(artifact)
    policy, effort = Policy.load(artifact), rollout.Effort()
    brain = _Watched(policy, effort)
    normaliser = Normaliser(policy.input_mean, policy.input_std, policy.return_scale)
    done = rollout.run(
        *(brain, policy.environment, normaliser, policy.target_return, range(episodes)), discrete=policy.discrete
    )
    returns, cost = [float(sum(episode.rewards)) for episode in done], effort.per_decision()
    cycles, compared = circuit_cycles(policy, np.stack(brain.tokens[0]))
    by_step = [
        {
            "live": brain.live[number],
            "to_go": np.round(policy.target_return - np.cumsum([0.0, *episode.rewards[:-1]]), 1).tolist(),
            "phase": phases(policy.environment, np.array(episode.observations[:-1])),
            "cycles": cycles if number == 0 else None,
        }
        for number, episode in enumerate(done)
    ]
    return {
        "return": float(np.mean(returns)),
        "normalised": normalised_score(policy.environment, float(np.mean(returns))),
        "live_steps": float(np.mean([live for episode in brain.live for live in episode])),
        "rows": cost["active_rows_per_decision"],
        # a bound, not a measurement: fetches of the linears' rows alone
        "fetch_cycles": cost["fetch_cycles_per_decision"],
        "cycles": None if cycles is None else float(np.mean(cycles)),
        "compared": compared,
        "profiles": profiles(by_step, abs(policy.target_return) / BINS),
        **by_choice(by_step),
    }


def profiles(by_step: Sequence[Row], to_go_bin: float) -> dict[str, list[list[float]]]:
    """Return mean live steps over the step of the episode, the return-to-go and the gait phase, of all episodes.

    Each is a list of (lower edge of a bin, mean over decisions and layers, decisions), bins in order; without a gait
    that of the phase is empty.
    """
    live = np.concatenate([np.mean(episode["live"], axis=1) for episode in by_step])
    sources = {
        "step": (STEP_BIN, [np.arange(len(episode["live"]), dtype=float) for episode in by_step]),
        "to_go": (to_go_bin, [np.array(episode["to_go"]) for episode in by_step]),
        "phase": (1 / BINS, [np.array(episode["phase"], float) for episode in by_step]),
    }
    result = {}
    for name, (width, values) in sources.items():
        x = np.concatenate(values)
        number, of = np.floor(x / width + 1e-9), np.isfinite(x)
        result[name] = [
            [round(float(n * width), 4), round(float(live[number == n].mean()), 4), int((number == n).sum())]
            for n in np.unique(number[of])
        ]
    return result


def by_choice(by_step: Sequence[Row]) -> dict[str, float | None]:
    """Return `CHOICES` of a policy: mean cycles of the decisions with the fewest and the most live steps (lower and
    upper quarter), and mean live steps with the torso low (the gait's first and last quarter) and high.

    None where there are no cycles, no gait, or always as many live steps.
    """
    live = np.concatenate([np.mean(episode["live"], axis=1) for episode in by_step])
    phase = np.concatenate([np.array(episode["phase"], float) for episode in by_step])
    first, cycles = live[: len(by_step[0]["live"])], by_step[0]["cycles"]
    found: list[float | None] = [None] * 4
    if live.min() < live.max():
        low, high = np.quantile(first, [0.25, 0.75])
        if cycles is not None and low < high:
            found[:2] = [float(np.mean(np.array(cycles)[part])) for part in (first <= low, first >= high)]
        if (phase >= 0).any():
            down = (phase < 0.25) | (phase >= 0.75)
            up = (phase >= 0.25) & (phase < 0.75)
            found[2:] = [float(live[part].mean()) for part in (down, up)]
    return dict(zip(CHOICES, found, strict=True))


def circuit_cycles(policy: Policy, tokens: NDArray[np.int64]) -> tuple[list[int] | None, int]:
    """Return the cycles of each decision on the verilated circuit, and how many action words were compared.

    None and 0 where the circuit cannot be built here. Raises `AssertionError` where a word is not golden's.
    """
    try:
        bus = VerilatedBus(library(policy.geometry))
    except BuildError as error:
        tqdm.write(f"no cycles: {error}")
        return None, 0
    try:
        accelerator = Accelerator(bus, policy.geometry)
        accelerator.load(policy)
        records = accelerator.decide_all(tokens)
    finally:
        bus.close()
    words = np.stack([record.decision.words for record in records])
    np.testing.assert_array_equal(words, GoldenNetwork(policy).decide_all(tokens).action)
    return [record.decision.cycles for record in records], words.size


STUDY = Study(
    "adaptive",
    "step gates at several prices against fixed SNN steps: return, live steps, rows, the circuit's cycles",
    measure,
    draw,
    keys=("steps", "step_cost"),
    values=("validation_loss", "return", "live_steps", "rows", "fetch_cycles", "cycles", *CHOICES),
    size=(13.0, 7.0),
)
