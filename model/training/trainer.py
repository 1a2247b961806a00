# SPDX-License-Identifier: MIT
"""One training run: its phases, its updates, its files, and how it goes on after an interruption."""

import csv
import dataclasses
import io
import json
import math
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from model import files
from model.data import offline
from model.data.offline import Episodes, Normaliser, Windows
from model.network.baselines import Baseline
from model.network.layers import Head
from model.network.network import Network, Record
from model.network.norm import mixing, set_frozen, set_mixing
from model.training.augment import Augmentation
from model.training.board import TensorBoard
from model.training.checkpoint import Checkpoint, CheckpointError, build, integers
from model.training.config import ConfigError, TrainConfig
from model.training.memory import require_room
from model.training.plasticity import LocalRule
from model.training.row_cost import share_of_rows
from model.training.step_cost import mean_live_steps
from model.training.unread import unread

PHASES = ("float", "quant")
VALIDATION_WINDOWS = 256
LOG_EVERY = 100
LOG_FIELDS = ("phase", "step", "loss", "validation_loss", "rate")
LOGIT_GAIN = 8.0
"""Of discrete actions: the head's outputs, -1..1, times this are the logits of the choices. The largest is taken."""
DEVICES = ("auto", "cpu", "cuda")


class TrainError(RuntimeError):
    """A training that cannot go on; the message says why and what to do."""


def device(choice: str) -> torch.device:
    """Return the device to train on; "auto" is a GPU where there is one. Raises `ConfigError`."""
    if choice == "cuda" and not torch.cuda.is_available():
        raise ConfigError("there is no usable GPU; leave --device out, or choose cpu")
    return torch.device("cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu")


def rate(peak: float, warmup: float, step: int, steps: int, decay: str = "cosine") -> float:
    """Return the learning rate of update `step` of `steps`: a linear rise, then the decay (`config.DECAYS`)."""
    rise = max(1, int(warmup * steps))
    if step < rise:
        return peak * (step + 1) / rise
    done = (step - rise) / max(1, steps - rise)
    return peak * {"cosine": 0.5 * (1.0 + math.cos(math.pi * done)), "linear": 1.0 - done, "constant": 1.0}[decay]


def _averaged(decay: float) -> Callable[[Any, Any, Any], None]:
    """Return how `AveragedModel` takes a step: the mean forgets faster while it holds few networks."""

    def update(mean: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        share = min(decay, (1.0 + int(count)) / (10.0 + int(count)))
        for kept, new in zip(mean, current, strict=True):
            kept.lerp_(new, 1.0 - share)

    return update


class Trainer:
    """One run in one folder.

    keep : results to keep of the float phase, evenly spaced, the last one included; those before it are float-STEP.pt.
    cpu_s, wall_s : what the training took so far, interruptions left out.
    tensorboard : shows log.csv and the firing rates.
    Raises `CheckpointError` where the folder holds a run that this one cannot continue.
    """

    def __init__(
        self,
        config: TrainConfig,
        episodes: Episodes,
        out: Path,
        resume: bool,
        save_every: int,
        command: str,
        keep: int = 1,
        on: torch.device = torch.device("cpu"),  # noqa: B008 (a constant)
        tensorboard: TensorBoard | None = None,
    ) -> None:
        self.config, self.out, self.save_every, self.on = config, out, save_every, on
        self.tensorboard = tensorboard
        self.kept = kept_steps(config.steps, keep)
        observations, self.actions = episodes.observations.shape[1], episodes.actions.shape[1]
        self.inputs, g = observations + self.actions + 1, config.geometry
        if observations > g.observation_size or self.actions > g.action_size:
            raise ConfigError(
                f"{episodes.environment} has {observations} observations and {self.actions} actions, more than the "
                f"geometry's {g.observation_size} and {g.action_size}"
            )
        if on.type == "cpu":
            require_room(config, int(episodes.lengths.max()))
        self.normaliser = Normaliser.of(episodes, config.return_scale)
        chosen, held = offline.split(episodes, config.held_out, config.seed)
        self.windows = offline.windows(episodes, chosen, self.normaliser)
        self.validation = offline.windows(episodes, held, self.normaliser) if len(held) else None
        self.augment = Augmentation(
            observations, self.actions, config.observation_noise, config.action_dropout, config.to_go_jitter
        )
        self.facts: dict[str, Any] = {
            "environment": episodes.environment,
            "dataset": episodes.dataset,
            "dataset_digest": episodes.digest,
            "dataset_mean_return": float(episodes.returns.mean()),
            "actions": self.actions,
            "discrete": episodes.discrete,
            "command": command,
            "versions": versions(),
        }
        self.rng = np.random.default_rng(config.seed)
        torch.manual_seed(config.seed)
        self.phase, self.step = "float", 0
        self.cpu_s = self.wall_s = 0.0
        network = build(config, self.inputs, self.actions, quantised=False)
        if config.action_dropout == 1:
            unread(network, observations, self.actions)
        self._enter(network)
        path = out / "checkpoint.pt"
        if path.exists() and not resume:
            raise CheckpointError(f"{out} already holds a run; continue it with --resume or choose another --out")
        files.ready(out / "config.json")
        if resume and path.exists():
            self._restore(Checkpoint.load(path))
        files.write(out / "config.json", config.to_json() + "\n")

    def _enter(self, network: Network | Baseline) -> None:
        self.network = network.to(self.on).train()
        decay = self.config.weight_decay
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=0.0, weight_decay=decay, fused=True)
        self.average: AveragedModel | None = None
        if self.config.average:
            self.average = AveragedModel(self.network, multi_avg_fn=_averaged(self.config.average), use_buffers=True)

    @property
    def outcome(self) -> Network | Baseline:
        """The network that the phase has come to: the mean of the weights where they are averaged."""
        return self.network if self.average is None else self.average.module

    def _restore(self, saved: Checkpoint) -> None:
        if saved.config != self.config:
            differing = [
                f.name
                for f in dataclasses.fields(TrainConfig)
                if getattr(saved.config, f.name) != getattr(self.config, f.name)
            ]
            raise CheckpointError(f"the checkpoint in {self.out} is of another configuration ({', '.join(differing)})")
        if saved.facts["dataset_digest"] != self.facts["dataset_digest"]:
            raise CheckpointError(
                f"the checkpoint in {self.out} was trained on other data than {self.facts['dataset']}"
            )
        self._enter(saved.network)
        self.optimiser.load_state_dict(saved.progress["optimiser"])
        if self.average is not None:
            self.average.load_state_dict(saved.progress["average"])
        self.phase, self.step = saved.progress["phase"], saved.progress["step"]
        self.cpu_s, self.wall_s = saved.progress["cpu_s"], saved.progress["wall_s"]
        self.rng.bit_generator.state = json.loads(saved.progress["windows"])
        torch.set_rng_state(saved.progress["torch"])
        self.facts["command"] = saved.facts["command"]
        self._cut_log()

    def _cut_log(self) -> None:
        """Drop the lines of updates that a killed run made after its last checkpoint: they come again."""
        path = self.out / "log.csv"
        if not path.exists():
            return
        here = (PHASES.index(self.phase), self.step)
        with path.open(newline="") as file:
            # a line that a full disk cut off comes again too
            rows = [row for row in csv.DictReader(file) if None not in row.values()]
        kept = [row for row in rows if (PHASES.index(row["phase"]), int(row["step"])) <= here]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, LOG_FIELDS)
        writer.writeheader()
        writer.writerows(kept)
        files.write(path, text.getvalue())

    def _clock(self) -> None:
        """Add what the run has taken since the last call."""
        now = time.process_time(), time.monotonic()
        self.cpu_s, self.wall_s = self.cpu_s + now[0] - self.since[0], self.wall_s + now[1] - self.since[1]
        self.since = now

    def save(self) -> None:
        """Write checkpoint.pt."""
        self._clock()
        progress = {
            "phase": self.phase,
            "step": self.step,
            "optimiser": self.optimiser.state_dict(),
            "windows": json.dumps(self.rng.bit_generator.state),
            "torch": torch.get_rng_state(),
            "cpu_s": self.cpu_s,
            "wall_s": self.wall_s,
        }
        if self.average is not None:
            progress["average"] = self.average.state_dict()
        Checkpoint(self.config, self.network, self.normaliser, self.facts, progress).save(self.out / "checkpoint.pt")

    def run(self, progress: bool = True) -> None:
        """Train what is left to train. On Ctrl-C the state is saved and the interrupt passed on.

        Raises `TrainError` where the loss is no number any more; checkpoint.pt is then what it was before.
        """
        self.since = time.process_time(), time.monotonic()
        try:
            self._phases(progress)
        except KeyboardInterrupt:
            self.save()
            raise
        self.save()

    def _phases(self, progress: bool) -> None:
        while True:
            steps, peak = self._plan()
            with tqdm(total=steps, initial=self.step, desc=self.phase, disable=not progress, mininterval=5) as bar:
                while self.step < steps:
                    loss = self._update(rate(peak, self.config.warmup, self.step, steps, self.config.rate_decay))
                    self.step += 1
                    bar.update()
                    if self.step % LOG_EVERY == 0 or self.step == steps:
                        bar.set_postfix(loss=f"{loss:.4f}")
                        self._log(loss)
                    if self.phase == "float" and self.step in self.kept:
                        self._result(f"float-{self.step}.pt")
                    if self.step % self.save_every == 0:
                        self.save()
            self.save()
            self._finish()
            if self.phase == "quant" or self.config.quant_steps == 0:
                break
            self._enter(integers(self.outcome.cpu(), self.config, self.inputs, self.actions))
            self.phase, self.step = "quant", 0

    def _plan(self) -> tuple[int, float]:
        c = self.config
        return (c.steps, c.rate) if self.phase == "float" else (c.quant_steps, c.quant_rate)

    def _update(self, learning_rate: float) -> float:
        c = self.config
        if self.phase == "float":
            transition, hold = int(c.norm_ratio * c.steps), int(c.norm_hold * c.steps)
            set_mixing(self.network, mixing(c.norm_schedule, self.step, transition, hold))
            set_frozen(self.network, self.step >= c.steps - int(c.norm_freeze * c.steps))
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        augment = self.augment
        if c.action_hidden and self.phase == "quant":
            augment = dataclasses.replace(augment, action_dropout=1.0)
        rule = LocalRule(c.plasticity) if c.plasticity and self.phase == "float" else None
        loss = self._loss(self.network, self.windows, c.batch, self.rng, None, augment, self._risen(), rule)
        value = loss.item()
        if not math.isfinite(value):
            saved = (self.out / "checkpoint.pt").exists()
            raise TrainError(
                f"the loss of {self.phase} update {self.step} is {value}: lower the learning rate, or look "
                f"for extreme values in {self.facts['dataset']}; "
                + (f"{self.out} holds the last state that was saved" if saved else "nothing was saved yet")
            )
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), c.clip)
        self.optimiser.step()
        if rule is not None:
            assert isinstance(self.network.head, Head)
            rule.apply(self.network.head.linear.weight)
        if self.average is not None:
            self.average.update_parameters(self.network)
        return value

    def _risen(self) -> float:
        """Return the share of their weights that row and step cost have in this update; in the quantised phase 1."""
        rise = self.config.row_warmup * self.config.steps
        return min(1.0, self.step / rise) if self.phase == "float" and rise else 1.0

    def _loss(
        self,
        network: Network | Baseline,
        source: Windows,
        batch: int,
        rng: np.random.Generator,
        record: Record | None = None,
        augment: Augmentation | None = None,
        priced: float = 0.0,
        rule: LocalRule | None = None,
    ) -> Tensor:
        """Mean over the real tokens of random windows: cross-entropy of discrete actions, squared error of others.

        Plus, `priced` times, the row cost of the share of weight rows fetched and the step cost of the live steps.
        rule : is shown the windows.
        """
        row_cost, step_cost = self.config.row_cost * priced, self.config.step_cost * priced
        tokens, actions, real, start = source.sample(batch, self.config.length, rng)
        if augment is not None:
            tokens = augment(tokens, real, rng)
        tokens, actions, real = (torch.from_numpy(array).to(self.on) for array in (tokens, actions, real))
        if row_cost or step_cost:
            record = Record(graph=True)
        elif rule is not None:
            record = Record()
        more: dict[str, Any] = {} if record is None else {"record": record}
        if self.config.geometry.phase_over == "tokens":
            more["start"] = torch.from_numpy(start).to(self.on)
        decided = network(network.prepare(tokens), real, **more)
        if rule is not None and record is not None:
            rule.observe(record.membranes[-1], network.entry, decided, tokens[..., -1], real)
        outputs, actions = decided[real], actions[real]
        if self.facts["discrete"]:
            loss = functional.cross_entropy(LOGIT_GAIN * outputs, actions)
        else:
            loss = functional.mse_loss(outputs, actions)
        if record is not None and row_cost:
            loss = loss + row_cost * share_of_rows(self.config.geometry, record.spikes)
        if record is not None and step_cost:
            loss = loss + step_cost * mean_live_steps(record.live_steps)
        return loss

    @torch.no_grad()
    def _validate(self, record: Record | None = None) -> float:
        if self.validation is None:
            return math.nan
        network = self.outcome.eval()
        # the same windows each time, and none of the run's own random numbers
        loss = self._loss(network, self.validation, VALIDATION_WINDOWS, np.random.default_rng(0), record).item()
        network.train()
        return loss

    def _log(self, loss: float) -> None:
        path = self.out / "log.csv"
        learning_rate = self.optimiser.param_groups[0]["lr"]
        row = [self.phase, self.step, f"{loss:.6f}", f"{self._validate():.6f}", f"{learning_rate:.6g}"]
        new = not path.exists()
        try:
            with path.open("a", newline="") as file:
                csv.writer(file).writerows([LOG_FIELDS, row] if new else [row])
        except OSError as error:
            raise files.refusal(path, error) from None
        if self.tensorboard:
            self.tensorboard.follow(self.phase, self.step)

    def _result(self, name: str) -> None:
        Checkpoint(self.config, self.outcome, self.normaliser, self.facts, {}).save(self.out / name)

    def _finish(self) -> None:
        """Write the phase's result and, of a spiking network, its firing rates."""
        if self.config.action_hidden and self.phase == "float":
            unread(self.outcome, self.inputs - self.actions - 1, self.actions)
        self._result(f"{self.phase}.pt")
        if not isinstance(self.network, Network):
            return
        record = Record()
        self._validate(record)
        path = self.out / "firing.json"
        rates = json.loads(path.read_text()) if path.exists() else {}
        rates[self.phase] = firing_rates(record)
        files.write_json(path, rates)
        if self.tensorboard:
            self.tensorboard.finish(self.phase, self.step, rates[self.phase])


def kept_steps(steps: int, keep: int) -> list[int]:
    """Return the updates after which a float result is kept besides the last."""
    return [round(n * steps / keep) for n in range(1, keep)]


def firing_rates(record: Record) -> dict[str, dict[str, float]]:
    """Return per neuron layer the mean rate, and the fraction of neurons that fire in any of a token's SNN steps."""
    return {
        name: {"mean": spikes.mean().item(), "any": spikes.amax(0).mean().item()}
        for name, spikes in record.spikes.items()
    }


def versions() -> dict[str, str]:
    """Return the versions a result depends on."""
    return {name: version(name) for name in ("torch", "numpy", "gymnasium", "mujoco", "minari")}
