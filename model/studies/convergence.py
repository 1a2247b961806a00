# SPDX-License-Identifier: MIT
"""Spike codes against what they stand for: output error, spikes, and the weights that are learned through them.

A read-out W_ANN of the data's actions is given; W_SNN learns its outputs from the same inputs, coded in T steps.
The bounds drawn are the theorems of docs/theory.md, by their numbers.
"""

import math
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model.data import offline
from model.data.offline import Normaliser
from model.studies import plots
from model.studies.runs import Bench, Row, Study

Floats = NDArray[np.float64]

STEPS = (1, 2, 4, 8, 16, 32)
SAMPLES = 2048
UPDATES = 4000
BATCH = 32
HIDDEN = 64
"""Neurons of the two-layer network."""
SINGULAR = 1e-9
"""Eigenvalues below count as zero."""
SPAN = 4.0
"""Standard deviations of a token's component that 0..1 covers."""


def random_rate(x: Floats, steps: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return what T spikes, each with chance x, stand for, and how many there were: x [...] in 0..1 -> [...], [...]."""
    count = rng.binomial(steps, x).astype(np.float64)
    return count / steps, count


def integrated_rate(x: Floats, steps: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return the same for an integrate-and-fire neuron: threshold 1, reset by subtraction, from a membrane of 1/2."""
    membrane, count = np.full_like(x, 0.5), np.zeros_like(x)
    for _ in range(steps):
        membrane = membrane + x
        spikes = membrane >= 1.0
        membrane = membrane - spikes
        count += spikes
    return count / steps, count


def binary(x: Floats, steps: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return the same for spikes of weights 1/2, 1/4, ..: each step's threshold is its weight, which it subtracts."""
    left, count = x.copy(), np.zeros_like(x)
    for t in range(1, steps + 1):
        spikes = left >= 2.0**-t
        left = left - spikes * 2.0**-t
        count += spikes
    return x - left, count


CODES: dict[str, Callable[[Floats, int, np.random.Generator], tuple[Floats, Floats]]] = {
    "random rate": random_rate,
    "integrated rate": integrated_rate,
    "binary": binary,
}
"""Name -> (values in 0..1, SNN steps, randomness) -> what the spikes stand for, and their numbers."""


def code_error(code: str, steps: int) -> float | None:
    """Return the most that a code is off (theorems 2 and 3); None where chance knows no such bound."""
    return {"random rate": None, "integrated rate": 0.5 / steps, "binary": 2.0**-steps}[code]


def spread(code: str, x: Floats, steps: int) -> Floats:
    """Return the second moments [inputs, inputs] of what a code stands for, over samples x [samples, inputs].

    Exact: chance adds its variance, x (1 - x) / T, to the diagonal (theorem 6).
    """
    if code == "random rate":
        return x.T @ x / len(x) + np.diag((x * (1 - x)).mean(0)) / steps
    seen = CODES[code](x, steps, np.random.default_rng(0))[0]
    return seen.T @ seen / len(x)


def fixed_point(code: str, x: Floats, w: Floats, steps: int) -> Floats:
    """Return the W_SNN [outputs, inputs] of least squared error against the outputs w x (theorem 6)."""
    seen = x if code == "random rate" else CODES[code](x, steps, np.random.default_rng(0))[0]
    crossed = w @ (x.T @ seen) / len(x)
    return crossed @ np.linalg.pinv(spread(code, x, steps), hermitian=True)


def floor_bound(code: str, x: Floats, steps: int) -> float | None:
    """Return the most that the fixed point is off W_ANN, as a share of it (theorem 6); None where it is not unique."""
    least = float(np.linalg.eigvalsh(spread(code, x, steps))[0])
    if least < SINGULAR:
        return None
    most = code_error(code, steps)
    if most is None:
        return float((x * (1 - x)).mean(0).max()) / (steps * least)
    return most * math.sqrt(x.shape[1] / least)


def learn(code: str, x: Floats, w: Floats, steps: int, rng: np.random.Generator) -> tuple[list[tuple[int, float]], Row]:
    """Learn w [outputs, inputs] from spikes by stochastic gradient descent, from zero.

    Returns (update, squared distance to the fixed point) as it falls, and what theorem 7 needs: rate, `kept` (factor of
    the squared distance per update), `noise` (what of it stays), `start` (what it begins at).
    """
    best, moments = fixed_point(code, x, w, steps), spread(code, x, steps)
    most = float(((x > 0).sum(1)).max() if code == "random rate" else (CODES[code](x, steps, rng)[0] ** 2).sum(1).max())
    rate = 0.5 / most
    least = float(np.linalg.eigvalsh(moments)[0])
    probe = np.concatenate([CODES[code](x, steps, rng)[0] for _ in range(8)])
    residual = probe @ best.T - np.tile(x, (8, 1)) @ w.T
    variance = float(((residual**2).sum(1) * (probe**2).sum(1)).mean())
    found, path = np.zeros_like(w), []
    for update in range(UPDATES + 1):
        if update in (0, UPDATES) or update % (UPDATES // 40) == 0:
            path.append((update, float(((found - best) ** 2).sum())))
        drawn = x[rng.integers(0, len(x), BATCH)]
        seen = CODES[code](drawn, steps, rng)[0]
        found = found - rate * (seen @ found.T - drawn @ w.T).T @ seen / BATCH
    kept = 1 - 2 * rate * least * (1 - rate * most)
    noise = rate * variance / (BATCH * least * (1 - rate * most)) if least > SINGULAR else None
    return path, {"rate": rate, "kept": kept, "noise": noise, "start": path[0][1]}


def bounded(facts: Row, update: int, size: float) -> float | None:
    """Return theorem 7's bound of the distance after so many updates, as a share of the root of `size`.

    None where the inputs do not tell all weights apart.
    """
    if facts["noise"] is None:
        return None
    return math.sqrt((facts["kept"] ** update * facts["start"] + facts["noise"]) / size)


def two_layers(code: str, x: Floats, steps: int, rng: np.random.Generator) -> Row:
    """Replace the clipped ReLUs of a random network by spiking neurons, its weights kept: error, and theorem 5's bound.

    The hidden neurons' currents are real numbers, constant over the steps.
    """
    first = rng.normal(size=(HIDDEN, x.shape[1])) / np.sqrt(x.shape[1])
    second = rng.normal(size=HIDDEN) / np.sqrt(HIDDEN)
    hidden = np.clip(x @ first.T, 0.0, 1.0)
    seen, count = CODES[code](hidden, steps, rng)
    error = np.abs((seen - hidden) @ second)
    most = code_error(code, steps)
    bound = None if most is None else float(np.abs(second).sum() * most)
    return {"output_error": float(error.mean()), "largest": float(error.max()), "bound": bound} | {
        "spikes": float(count.mean())
    }


def inputs(bench: Bench, seed: int) -> tuple[Floats, Floats]:
    """Return tokens of the data in 0..1, a constant 1 behind them, and the read-out of least squared error.

    -> x [samples, inputs], W_ANN [actions, inputs].
    """
    episodes = bench.episodes
    source = offline.windows(
        episodes, np.arange(len(episodes.returns)), Normaliser.of(episodes, bench.budget.task.return_scale)
    )
    tokens, actions, *_ = source.sample(SAMPLES, 1, np.random.default_rng(seed))
    x = np.clip(tokens[:, 0].astype(np.float64) / (2 * SPAN) + 0.5, 0.0, 1.0)
    x = np.concatenate([x, np.ones((len(x), 1))], 1)
    return x, np.linalg.lstsq(x, actions[:, 0].astype(np.float64), rcond=None)[0].T


def measure(bench: Bench) -> list[Row]:
    """Code, learn and convert at every T, for each seed, on the task's tokens and on independent uniform inputs."""
    rows: list[Row] = []
    for seed in range(bench.budget.seeds):
        tokens, w = inputs(bench, seed)
        for name in ("uniform", "tokens"):
            rng = np.random.default_rng(seed)
            x = tokens if name == "tokens" else rng.random(tokens.shape)
            for code in CODES:
                rows += [_row(name, code, x, w, steps, seed, rng) for steps in STEPS]
    return rows


def _row(name: str, code: str, x: Floats, w: Floats, steps: int, seed: int, rng: np.random.Generator) -> Row:
    seen, count = CODES[code](x, steps, rng)
    error = np.abs((seen - x) @ w.T)
    most = code_error(code, steps)
    path, facts = learn(code, x, w, steps, rng)
    best = fixed_point(code, x, w, steps)
    size = float((w**2).sum())
    return {
        "inputs": name,
        "code": code,
        "steps": steps,
        "seed": seed,
        "spikes": float(count.mean()),
        "output_error": float(error.mean()),
        "largest": float(error.max()),
        "bound": None if most is None else float(np.abs(w).sum(1).max() * most),
        "floor": math.sqrt(((best - w) ** 2).sum() / size),
        "floor_bound": floor_bound(code, x, steps),
        "distance": math.sqrt(path[-1][1] / size),
        "distance_bound": bounded(facts, UPDATES, size),
        "learned_error": float(np.abs(seen @ best.T - x @ w.T).mean()),
        "path": [(update, math.sqrt(squared / size), bounded(facts, update, size)) for update, squared in path],
        **{f"hidden_{key}": value for key, value in two_layers(code, x, steps, rng).items()},
        "rate": facts["rate"],
    }


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draw error over steps and over spikes, the floor of the weights over steps, and the way there over updates."""
    axes = figure.subplots(2, 2).flatten()
    tokens = [row for row in rows if row["inputs"] == "tokens"]
    uniform = [row for row in rows if row["inputs"] == "uniform"]
    _lines(axes[0], tokens, "steps", "largest", "bound")
    axes[0].set(xlabel="SNN steps T (tokens)", ylabel="largest output error; dashed: bounds")
    _lines(axes[1], tokens, "spikes", "largest", "bound")
    axes[1].set(xlabel="spikes an input (tokens)", ylabel="largest output error; dashed: bounds")
    _lines(axes[2], uniform, "steps", "floor", "floor_bound")
    _lines(axes[2], tokens, "steps", "floor", None, faint=True)
    axes[2].set(xlabel="SNN steps T (faint: tokens; else uniform inputs)", ylabel="|W_SNN - W_ANN| / |W_ANN| learned")
    for axis in axes[:3]:
        axis.set(xscale="log", yscale="log")
    for axis in (axes[0], axes[2]):
        axis.set_xticks(STEPS, STEPS)
        axis.minorticks_off()
    for number, code in enumerate(plots.names(rows, "code")):
        paths = np.array([r["path"] for r in uniform if r["code"] == code and r["steps"] == 4])
        axes[3].plot(paths[0, :, 0], paths[:, :, 1].mean(0), color=plots.COLOURS[number], label=code)
        axes[3].plot(paths[0, :, 0], paths[:, :, 2].mean(0), color=plots.COLOURS[number], ls="--")
    axes[3].set(xlabel="updates (T = 4, uniform inputs)", ylabel="distance to where it converges; dashed: bounds")
    axes[3].set(yscale="log")
    axes[0].legend()


def _lines(axis: Axes, rows: list[Row], along: str, value: str, bound: str | None, faint: bool = False) -> None:
    for number, code in enumerate(plots.names(rows, "code")):
        mine = [row for row in rows if row["code"] == code]
        steps = plots.names(mine, "steps")
        mean = {
            key: [np.mean([r[key] for r in mine if r["steps"] == s and r[key] is not None] or [np.nan]) for s in steps]
            for key in (along, value, *([bound] if bound else []))
        }
        look = {"color": plots.COLOURS[number], "alpha": 0.35 if faint else 1.0}
        axis.plot(mean[along], mean[value], marker="o", label=code, **look)
        if bound:
            axis.plot(mean[along], mean[bound], ls="--", **look)


STUDY = Study(
    "convergence",
    "spike codes over T: output error, spikes, and W_SNN learned through them against W_ANN, with proved bounds",
    measure,
    draw,
    keys=("inputs", "code", "steps"),
    values=("spikes", "largest", "bound", "floor", "floor_bound", "hidden_largest", "hidden_bound"),
    size=(10.5, 8.0),
)
