# SPDX-License-Identifier: MIT
"""The options of a training: frozen norms, averaged weights, disturbed tokens, the cost of weight rows."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.data import offline
from model.deployed.golden import reads
from model.deployed.presets import TINY
from model.integer.fold import quantise
from model.network.layers import Structure, float_network
from model.network.network import Record
from model.network.norm import PTBN, TdBN, linear_norm, set_frozen
from model.training.augment import Augmentation
from model.training.checkpoint import Checkpoint, input_scale
from model.training.config import ConfigError, TrainConfig
from model.training.row_cost import share_of_rows
from model.training.trainer import Trainer, rate
from tests import swing

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")
CONFIG = TrainConfig(geometry=TINY, length=16, batch=8, steps=40, quant_steps=20, return_scale=100.0)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Minari data set whose actions follow from its observations."""
    root = tmp_path_factory.mktemp("library")
    swing.make(root, "test/swing-v0", [60, 50, 40])
    return root


@pytest.fixture(autouse=True)
def _at_library(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(library))


def trainer(out: Path, resume: bool = False, **changes: Any) -> Trainer:
    config = dataclasses.replace(CONFIG, **changes)
    return Trainer(config, offline.load("test/swing-v0"), out, resume, save_every=1000, command="test")


def watch(run: Trainer, look: Any) -> list[Any]:
    """Return a list that takes what `look()` returns after every update of a run."""
    seen: list[Any] = []
    update = run._update

    def watched(learning_rate: float) -> float:
        value = update(learning_rate)
        seen.append(look())
        return value

    run._update = watched  # type: ignore[method-assign]
    return seen


def state(path: Path) -> dict[str, torch.Tensor]:
    return Checkpoint.load(path).network.state_dict()


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


@pytest.mark.parametrize("tail", ["spiking", "residual", "plain"])
def test_a_frozen_norm_computes_what_evaluation_does_and_learns_as_written_out(tail: str) -> None:
    torch.manual_seed(0)
    norm = PTBN(24)
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
        norm.weight.uniform_(0.2, 1.0)
        norm.bias.normal_(std=0.2)
    x = (torch.rand(4, 30, 16) < 0.4).float()
    matrix = torch.randn(24, 16, requires_grad=True)
    follow = {"spiking": {"threshold": torch.full((24,), 0.5)}, "residual": {"shortcut": torch.randn(4, 30, 24)}}
    options = follow.get(tail, {})
    before = norm.running_mean.clone(), norm.running_var.clone()
    with torch.no_grad():
        expected = linear_norm(x, matrix, norm.eval(), **options)
    set_frozen(norm.train(), True)
    found = linear_norm(x, matrix, norm, **options)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(before[0], norm.running_mean)
    assert torch.equal(before[1], norm.running_var)
    learned = (matrix, norm.weight, norm.bias)
    gradients = torch.autograd.grad((found * torch.linspace(-1, 1, 24)).sum(), learned)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    if tail == "spiking":
        assert 0 < found.count_nonzero() < found.numel()
        return
    written = (x @ matrix.T - norm.running_mean) / torch.sqrt(norm.running_var + norm.epsilon) * norm.weight + norm.bias
    written = written + options.get("shortcut", 0.0)
    for gradient, plain in zip(
        gradients, torch.autograd.grad((written * torch.linspace(-1, 1, 24)).sum(), learned), strict=True
    ):
        torch.testing.assert_close(gradient, plain, rtol=1e-4, atol=1e-3)


def test_norms_freeze_for_the_last_share_of_the_float_phase(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", norm_freeze=0.25, quant_steps=0)
    norms = [m for m in run.network.modules() if isinstance(m, TdBN)]
    seen = watch(run, lambda: ({m.frozen for m in norms}, norms[0].running_mean.clone()))
    run.run(progress=False)
    assert [frozen for frozen, _ in seen] == [{False}] * 30 + [{True}] * 10
    means = [mean for _, mean in seen]
    assert not torch.equal(means[28], means[29])
    assert all(torch.equal(mean, means[29]) for mean in means[30:])


def test_the_average_becomes_the_result_and_a_resumed_run_is_the_same(tmp_path: Path) -> None:
    trainer(tmp_path / "plain").run(progress=False)
    trainer(tmp_path / "whole", average=0.9).run(progress=False)
    for phase in ("float", "quant"):
        assert differing(state(tmp_path / "plain" / f"{phase}.pt"), state(tmp_path / "whole" / f"{phase}.pt"))
    run = trainer(tmp_path / "cut", average=0.9)
    update = run._update

    def interrupted(learning_rate: float) -> float:
        if run.step == 25:
            raise KeyboardInterrupt
        return update(learning_rate)

    run._update = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run.run(progress=False)
    trainer(tmp_path / "cut", resume=True, average=0.9).run(progress=False)
    for phase in ("float", "quant"):
        assert differing(state(tmp_path / "whole" / f"{phase}.pt"), state(tmp_path / "cut" / f"{phase}.pt")) == []


def test_the_average_is_the_mean_that_forgets(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", average=0.5, steps=6, quant_steps=0)
    name = "head.linear.weight"
    kept = watch(run, lambda: run.network.state_dict()[name].clone())
    run.run(progress=False)
    mean = kept[0]
    for count, new in enumerate(kept[1:], 1):
        share = min(0.5, (1 + count) / (10 + count))
        mean = share * mean + (1 - share) * new
    result = state(tmp_path / "run" / "float.pt")
    torch.testing.assert_close(result[name], mean)
    # what never changes stays exactly what it was
    thresholds = [t for key, t in result.items() if key.endswith("threshold")]
    assert thresholds
    assert all(torch.equal(t, torch.full_like(t, 0.5)) for t in thresholds)


def test_the_quantised_phase_starts_from_the_average(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", average=0.9, steps=12, quant_steps=1)
    update, first = run._update, {}

    def watched(learning_rate: float) -> float:
        if run.phase == "quant":
            first.update({name: tensor.clone() for name, tensor in run.network.state_dict().items()})
        return update(learning_rate)

    run._update = watched  # type: ignore[method-assign]
    run.run(progress=False)
    mean = Checkpoint.load(tmp_path / "run" / "float.pt").network
    integers = quantise(mean, input_scale(run.config, run.inputs, run.actions), run.config.fraction_bits)
    assert differing(first, integers.state_dict()) == []


def windows(batch: int = 64, length: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    real = np.arange(length) >= rng.integers(0, 4, (batch, 1))
    tokens = rng.standard_normal((batch, length, 3 + 2 + 1)).astype(np.float32) * real[..., None]
    return tokens, real


def test_augmentation_touches_what_it_names_and_no_padding() -> None:
    tokens, real = windows()
    before = tokens.copy()
    seen, acted, asked = (..., slice(0, 3)), (..., slice(3, 5)), (..., 5)
    for name, place in (("observation_noise", seen), ("action_dropout", acted), ("to_go_jitter", asked)):
        changed = Augmentation(3, 2, **{name: 0.25})(tokens, real, np.random.default_rng(1))
        np.testing.assert_array_equal(tokens, before)
        others = [p for p in (seen, acted, asked) if p != place]
        assert all(np.array_equal(changed[p], tokens[p]) for p in others), name
        assert not np.array_equal(changed[place], tokens[place])
        assert not changed[~real].any()
    noise = (Augmentation(3, 2, observation_noise=0.25)(tokens, real, np.random.default_rng(1)) - tokens)[real][:, :3]
    assert 0.22 < noise.std() < 0.28
    dropped = Augmentation(3, 2, action_dropout=0.25)(tokens, real, np.random.default_rng(1))[real][:, 3:5]
    assert np.array_equal((dropped == 0).all(1), (dropped == 0).any(1))
    assert 0.19 < (dropped == 0).all(1).mean() < 0.31
    jittered = Augmentation(3, 2, to_go_jitter=0.25)(tokens, real, np.random.default_rng(1))
    factors = np.where(real, jittered[..., 5] / np.where(real, tokens[..., 5], 1), np.nan)
    # one factor a window
    np.testing.assert_allclose(np.nanmin(factors, 1), np.nanmax(factors, 1), rtol=1e-4)
    assert 0.18 < np.nanmean(factors, 1).std() < 0.32


def test_no_augmentation_draws_no_number() -> None:
    tokens, real = windows()
    rng = np.random.default_rng(5)
    np.testing.assert_array_equal(Augmentation(3, 2)(tokens, real, rng), tokens)
    assert rng.random() == np.random.default_rng(5).random()


def test_the_share_of_rows_is_what_the_spikes_fetch() -> None:
    torch.manual_seed(1)
    network = float_network(TINY, 15, 3, Structure())
    torch.nn.init.normal_(network.embed.linear.weight)
    for block in network.blocks:
        for layer in (block.kvq, block.proj, block.fc1, block.fc2):
            torch.nn.init.normal_(layer.linear.weight, std=0.6)
    record = Record(graph=True)
    network(torch.randn(3, 16, 15), record=record)
    share = share_of_rows(TINY, record.spikes)
    sources = dict.fromkeys(TINY.projections, "entry") | {"proj": "window", "fc1": "mlp", "fc2": "fc1"}
    rows = 0
    for layer in range(TINY.layers):
        for linear, source in sources.items():
            spikes = record.spikes[f"layer{layer}.{source}"].detach().numpy()
            rows += reads(TINY, f"layer{layer}.{linear}") * np.count_nonzero(spikes.any(0))
    assert share.item() == pytest.approx(rows / (3 * 16) / TINY.weight_rows)
    assert 0.05 < share.item() < 0.95
    share.backward()
    trained = {name: p.grad for name, p in network.named_parameters() if name.endswith("linear.weight")}
    silent = {name for name, grad in trained.items() if grad is None or not grad.any()}
    assert silent == {"head.linear.weight", f"blocks.{TINY.layers - 1}.fc2.linear.weight"}


def test_a_row_cost_fetches_fewer_rows(tmp_path: Path) -> None:
    shares = []
    for cost in (0.0, 3.0):
        trainer(tmp_path / str(cost), steps=150, quant_steps=30, row_cost=cost).run(progress=False)
        rates = json.loads((tmp_path / str(cost) / "firing.json").read_text())
        shares.append([np.mean([r["any"] for r in rates[phase].values()]) for phase in ("float", "quant")])
    assert all(cheap < 0.6 * dear for dear, cheap in zip(*shares, strict=True))


def test_the_row_cost_rises_and_holds(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", row_cost=0.5, row_warmup=0.5)
    shares = []
    for step in (0, 10, 20, 39):
        run.step = step
        shares.append(run._risen())
    run.phase, run.step = "quant", 0
    assert [*shares, run._risen()] == [0.0, 0.5, 1.0, 1.0, 1.0]
    assert trainer(tmp_path / "at once", row_cost=0.5, row_warmup=0.0)._risen() == 1.0


@pytest.mark.parametrize(("decay", "middle", "end"), [("cosine", 0.5, 0.0), ("linear", 0.5, 0.0), ("constant", 1, 1)])
def test_rate_decays_as_it_is_called(decay: str, middle: float, end: float) -> None:
    rates = [rate(2.0, 0.1, step, 1000, decay) for step in range(1001)]
    assert rates[100] == pytest.approx(2.0)
    assert rates[550] == pytest.approx(2.0 * middle)
    assert rates[1000] == pytest.approx(2.0 * end)
    # a quarter of the way the cosine lies above the line
    assert rates[325] == pytest.approx(2.0 * {"cosine": 0.8535534, "linear": 0.75, "constant": 1.0}[decay])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"norm_freeze": 1.1}, "norm_freeze must be 0 to 1"),
        ({"norm_freeze": 0.95}, "norm_hold, norm_ratio and norm_freeze add up to more than 1"),
        ({"norm": "tdln", "quant_steps": 0, "norm_freeze": 0.1}, "layer norm has no statistics to keep"),
        ({"average": 1.0}, "average must be 0 or more and below 1"),
        ({"action_dropout": 1.1}, "action_dropout must be 0 to 1, not 1.1"),
        ({"action_hidden": True}, "action_hidden wants a network that has met tokens without their action"),
        ({"observation_noise": -0.1}, "observation_noise must not be negative"),
        ({"to_go_jitter": -0.1}, "to_go_jitter must not be negative"),
        ({"row_cost": -1.0}, "row_cost must not be negative"),
        ({"row_warmup": 2.0}, "row_warmup must be 0 to 1"),
        ({"rate_decay": "slow"}, "rate_decay must be one of cosine, linear, constant"),
        (
            {"quant_steps": 0, "symmetric_weights": True},
            "symmetric_weights is about the integers of the quantised phase; set quant_steps, or leave it out",
        ),
        (
            {"network": "bc", "inference": "recompute", "quant_steps": 0, "row_cost": 0.1},
            "row_cost is about the spiking network; leave it at 0 for bc",
        ),
        (
            {"network": "bc", "inference": "recompute", "quant_steps": 0, "norm_freeze": 0.1},
            "norm_freeze is about the spiking network; leave it at 0 for bc",
        ),
    ],
)
def test_choices_that_make_no_sense_are_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        dataclasses.replace(CONFIG, **changes)
