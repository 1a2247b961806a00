# SPDX-License-Identifier: MIT
"""A whole small training: data set, two phases, resume, export, evaluation; and the sentences when it cannot be."""

import contextlib
import csv
import dataclasses
import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from model import collect, evaluate, export, train
from model.cost.subject import Subject
from model.data import offline
from model.data.environments import DataError
from model.deployed.artifact import Policy
from model.deployed.geometry import Geometry
from model.deployed.presets import TINY
from model.integer.fold import from_policy
from model.integer.proof import ExportError
from model.network.layers import Structure
from model.scores import evaluation
from model.training import deployment
from model.training import trainer as trainer_module
from model.training.checkpoint import Checkpoint, CheckpointError
from model.training.config import NETWORKS, PRESETS, ConfigError, TrainConfig, find
from model.training.trainer import PHASES, Trainer, TrainError, kept_steps, rate
from tests import swing

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")

CONFIG = TrainConfig(
    geometry=TINY, length=8, batch=16, steps=120, quant_steps=60, return_scale=5.0, target_return=3.0, held_out=0.2
)
ARGUMENTS = ["--dataset", "test/swing-v0"]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Minari data set whose actions follow from its observations."""
    root = tmp_path_factory.mktemp("library")
    swing.make(root, "test/swing-v0", [40, 25, 60, 3, 30, 45])
    return root


@pytest.fixture(autouse=True)
def _at_library(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(library))


@pytest.fixture(scope="module")
def trained(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one finished run, made by the command."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "small.json").write_text(CONFIG.to_json())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(library))
        patch.setenv("TERM", "dumb")
        assert train.main([*ARGUMENTS, "--config", str(folder / "small.json"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def trainer(out: Path, resume: bool = False, config: TrainConfig = CONFIG) -> Trainer:
    return Trainer(config, offline.load("test/swing-v0"), out, resume, save_every=1000, command="test")


def test_the_loss_falls_in_both_phases(trained: Path) -> None:
    with (trained / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    last = {phase: [float(r["validation_loss"]) for r in rows if r["phase"] == phase][-1] for phase in PHASES}
    source = offline.load("test/swing-v0")
    spread = float(source.actions.var())
    assert last["float"] < 0.5 * spread
    assert last["quant"] < 0.6 * spread
    rates = json.loads((trained / "firing.json").read_text())
    for phase in PHASES:
        assert rates[phase]["layer0.entry"]["any"] >= rates[phase]["layer0.entry"]["mean"] > 0
    assert TrainConfig.from_json((trained / "config.json").read_text()) == CONFIG


def test_training_leaves_the_weights_inside_their_grids(trained: Path) -> None:
    network = Checkpoint.load(trained / "quant.pt").network
    for layer in (network.embed, network.head, network.blocks[0].fc1, network.blocks[0].proj):
        weight = layer.integers()[0]
        low, high = weight.min(), weight.max()
        assert high - low > 8
        # Adam's steps are as large for small weights as for large ones: in the wrong unit all would end at the ends
        assert ((weight == low) | (weight == high)).float().mean() < 0.3


@pytest.mark.parametrize("stop", [(PHASES[0], 50), (PHASES[1], 20)], ids=["float", "quant"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, trained: Path, stop: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_float32_matmul_precision("medium")  # as the command that made the other run does
    update = Trainer._update

    def interrupted(self: Trainer, learning_rate: float) -> float:
        if (self.phase, self.step) == stop:
            raise KeyboardInterrupt
        return update(self, learning_rate)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trainer(tmp_path / "run").run(progress=False)
    resumed = trainer(tmp_path / "run", resume=True)
    assert (resumed.phase, resumed.step) == stop
    resumed.run(progress=False)
    expected = Checkpoint.load(trained / "quant.pt").network.state_dict()
    for name, tensor in Checkpoint.load(tmp_path / "run" / "quant.pt").network.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_another_seed_gives_another_network(tmp_path: Path, trained: Path) -> None:
    short = dataclasses.replace(CONFIG, steps=1, quant_steps=0, seed=1)
    trainer(tmp_path / "run", config=short).run(progress=False)
    networks = [Checkpoint.load(folder / "float.pt").network for folder in (trained, tmp_path / "run")]
    assert not torch.equal(networks[0].embed.linear.weight, networks[1].embed.linear.weight)
    assert not (tmp_path / "run" / "quant.pt").exists()


def test_absolute_positions_train_too(tmp_path: Path) -> None:
    structure = Structure(position="absolute", taps="shared", positions=8)
    config = dataclasses.replace(CONFIG, steps=3, quant_steps=0, structure=structure, inference="recompute")
    trainer(tmp_path / "run", config=config).run(progress=False)
    result = evaluation.evaluate(tmp_path / "run" / "float.pt", episodes=1, seed=0, target_return=None)
    assert result["mean_length"] == 200


def test_export_deploys_exactly_the_evaluated_network(trained: Path, tmp_path: Path) -> None:
    out, arguments = tmp_path / "policy.safetensors", ["--episodes", "2", "--seed", "5"]
    for kind in ("float", "quant"):
        assert evaluate.main([str(trained / f"{kind}.pt"), *arguments, "--json", str(tmp_path / f"{kind}.json")]) == 0
    scores = [str(tmp_path / "float.json"), str(tmp_path / "quant.json")]
    assert export.main([str(trained / "quant.pt"), "--out", str(out), "--scores", *scores]) == 0
    assert evaluate.main([str(out), *arguments, "--json", str(tmp_path / "golden.json")]) == 0
    quant, golden = (json.loads((tmp_path / f"{kind}.json").read_text()) for kind in ("quant", "golden"))
    assert quant["returns"] == golden["returns"]
    assert quant["active_rows_per_decision"] == golden["active_rows_per_decision"]
    assert 0 < golden["active_rows_per_decision"] < golden["dense_rows_per_decision"]
    policy = Policy.load(out)
    assert policy.environment == "Pendulum-v1"
    assert policy.discrete is False
    assert policy.target_return == 3.0
    assert [score["kind"] for score in policy.provenance["scores"]] == ["float", "quantised"]
    assert policy.provenance["scores"][1]["mean_return"] == quant["mean_return"]
    assert policy.provenance["dataset_digest"] == offline.load("test/swing-v0").digest
    assert policy.provenance["command"].startswith("python -m model.train --dataset test/swing-v0")
    assert policy.provenance["config"] == json.loads(CONFIG.to_json())
    assert from_policy(policy).quantised


def test_collecting_with_a_policy_makes_a_data_set(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    policy, _ = deployment.export(trained / "quant.pt")
    policy.save(tmp_path / "policy.safetensors")
    arguments = ["policy", str(tmp_path / "policy.safetensors"), "--episodes", "2", "--noise", "0.1"]
    assert collect.main([*arguments, "--dataset", "test/own-v0"]) == 0
    collected = offline.load("test/own-v0")
    assert collected.lengths.tolist() == [200, 200]
    assert collected.actions.std() > 0
    assert collect.main([*arguments, "--dataset", "test/again-v0"]) == 0
    assert offline.load("test/again-v0").digest == collected.digest
    assert collect.main([*arguments, "--dataset", "test/own-v0"]) == 2


@pytest.mark.parametrize("network", NETWORKS[1:])
def test_every_baseline_learns(tmp_path: Path, network: str) -> None:
    config = dataclasses.replace(CONFIG, network=network, inference="recompute", steps=100, quant_steps=0)
    trainer(tmp_path / "run", config=config).run(progress=False)
    with (tmp_path / "run" / "log.csv").open() as file:
        validation = [float(row["validation_loss"]) for row in csv.DictReader(file)]
    # `bc` alone can know nothing of the noise, and needs nothing else: the action follows from the observation
    assert validation[-1] < 0.5 * float(offline.load("test/swing-v0").actions.var())
    result = evaluation.evaluate(tmp_path / "run" / "float.pt", episodes=1, seed=0, target_return=None)
    assert result["kind"] == "float"
    assert result["mean_length"] == 200
    assert not (tmp_path / "run" / "firing.json").exists()


@pytest.fixture(scope="module")
def choices(library: Path) -> str:
    """A data set of discrete actions: CartPole pushed to where the pole falls, one time in ten at random."""
    rng, lengths = np.random.default_rng(0), []
    observations, actions = [], []
    with contextlib.closing(gymnasium.make("CartPole-v1")) as pole:
        for seed in range(6):
            observation, done, start = pole.reset(seed=seed)[0], False, len(actions)
            while not done and len(actions) < start + 120:
                observations.append(observation)
                actions.append(rng.integers(2) if rng.random() < 0.1 else int(observation[2] + observation[3] > 0))
                observation, _, done, _, _ = pole.step(actions[-1])
            lengths.append(len(actions) - start)
    arrays = {"observations": np.array(observations), "actions": np.array(actions), "rewards": np.ones(len(actions))}
    np.savez(library / "pole.npz", **arrays, ep_len=np.array(lengths))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(library))
        collect.import_npz(library / "pole.npz", "test/pole-v0", "CartPole-v1")
    return "test/pole-v0"


def test_discrete_actions_are_classified_in_both_phases(choices: str, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, return_scale=40.0, target_return=200.0)
    Trainer(config, offline.load(choices), tmp_path / "run", False, 1000, "test").run(progress=False)
    with (tmp_path / "run" / "log.csv").open() as file:
        losses = {row["phase"]: float(row["validation_loss"]) for row in csv.DictReader(file)}
    assert max(losses.values()) < 0.75 * np.log(2)  # of guessing
    policy, _ = deployment.export(tmp_path / "run" / "quant.pt")
    assert policy.discrete is True
    policy.save(tmp_path / "policy.safetensors")
    files = (tmp_path / "run" / "quant.pt", tmp_path / "policy.safetensors")
    quant, golden = (evaluation.evaluate(file, episodes=3, seed=0, target_return=None) for file in files)
    assert quant["returns"] == golden["returns"]
    assert quant["mean_return"] > 60  # random: 22
    dataclasses.replace(policy, discrete=False, provenance={}).save(files[1])
    for act in (
        lambda: evaluation.evaluate(files[1], episodes=1, seed=0, target_return=None),
        lambda: collect.run_policy(files[1], "test/never-v0", episodes=1, noise=0.0, seed=0),
        lambda: Subject.load(files[1]).tokens(1, 0),
    ):
        with pytest.raises(DataError, match="CartPole-v1 has discrete actions, the policy was made for continuous"):
            act()


def test_delayed_reward_reaches_data_and_episodes(trained: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=1, quant_steps=0, delayed=True)
    (tmp_path / "late.json").write_text(config.to_json())
    assert train.main([*ARGUMENTS, "--config", str(tmp_path / "late.json"), "--out", str(tmp_path / "run")]) == 0
    late = Checkpoint.load(tmp_path / "run" / "float.pt")
    assert late.facts["dataset_digest"] == offline.load("test/swing-v0", delayed=True).digest
    assert late.facts["dataset_digest"] != Checkpoint.load(trained / "float.pt").facts["dataset_digest"]
    seen: list[bool] = []
    with pytest.MonkeyPatch.context() as patch:
        run = evaluation.run
        patch.setattr(evaluation, "run", lambda *a, **k: seen.append(k["delayed"]) or run(*a, **k))
        for file in (tmp_path / "run" / "float.pt", trained / "float.pt"):
            evaluation.evaluate(file, episodes=1, seed=0, target_return=None)
    assert seen == [True, False]


def test_results_are_kept_on_the_way(tmp_path: Path) -> None:
    assert kept_steps(5000, 5) == [1000, 2000, 3000, 4000]
    config = dataclasses.replace(CONFIG, steps=6, quant_steps=1)
    Trainer(config, offline.load("test/swing-v0"), tmp_path / "run", False, 1000, "test", keep=3).run(progress=False)
    assert sorted(p.name for p in (tmp_path / "run").glob("*.pt")) == [
        *("checkpoint.pt", "float-2.pt", "float-4.pt", "float.pt", "quant.pt")
    ]
    early, late = (Checkpoint.load(tmp_path / "run" / f"{name}.pt").network for name in ("float-2", "float"))
    assert not torch.equal(early.embed.linear.weight, late.embed.linear.weight)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=20, quant_steps=0)
    run = Trainer(config, offline.load("test/swing-v0"), tmp_path / "run", False, save_every=5, command="test")
    update = run._update

    def spoil(learning_rate: float) -> float:
        if run.step == 7:
            run.network.embed.linear.weight.data[0, 0] = float("nan")
        return update(learning_rate)

    run._update = spoil  # type: ignore[method-assign]
    with pytest.raises(TrainError, match=r"^the loss of float update 7 is nan: lower the learning rate"):
        run.run(progress=False)
    kept = Checkpoint.load(tmp_path / "run" / "checkpoint.pt")
    assert kept.progress["step"] == 5
    assert all(tensor.isfinite().all() for tensor in kept.network.state_dict().values())


def test_a_full_disk_is_a_sentence_and_leaves_nothing_partial(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=2, quant_steps=0)
    run = trainer(tmp_path / "run", config=config)
    (tmp_path / "run" / "checkpoint.pt.partial").symlink_to("/dev/full")
    with pytest.raises(
        CheckpointError, match=r"checkpoint.pt cannot be written \(No space left on device\); make room"
    ):
        run.run(progress=False)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["config.json", "log.csv"]


def test_a_killed_run_logs_no_update_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "LOG_EVERY", 2)
    config = dataclasses.replace(CONFIG, steps=10, quant_steps=0)

    class Killed(BaseException):
        pass

    def start(resume: bool) -> Trainer:
        return Trainer(config, offline.load("test/swing-v0"), tmp_path / "run", resume, save_every=5, command="test")

    run = start(resume=False)
    update = run._update

    def die(learning_rate: float) -> float:
        if run.step == 8:
            raise Killed
        return update(learning_rate)

    run._update = die  # type: ignore[method-assign]
    with pytest.raises(Killed):
        run.run(progress=False)
    start(resume=True).run(progress=False)
    with (tmp_path / "run" / "log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "4", "6", "8", "10"]


def test_rate_rises_then_falls() -> None:
    rates = [rate(1.0, 0.1, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.01


def test_a_run_refuses_what_it_cannot_continue(trained: Path) -> None:
    with pytest.raises(CheckpointError, match="already holds a run; continue it with --resume"):
        trainer(trained)
    with pytest.raises(CheckpointError, match=r"of another configuration \(batch, rate\)"):
        trainer(trained, resume=True, config=dataclasses.replace(CONFIG, batch=8, rate=0.1))
    small = Geometry(observation_size=2, action_size=1, d_model=16, layers=2, window=4, group=8)
    with pytest.raises(ConfigError, match="Pendulum-v1 has 3 observations"):
        trainer(trained.parent / "other", config=dataclasses.replace(CONFIG, geometry=small))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--config", "nonsense"], f"'nonsense' is neither a preset ({', '.join(PRESETS)}) nor a JSON file"),
        (["--config", "tiny", "--steps", "0"], "steps must be positive, not 0"),
        (["--device", "cuda"], "there is no usable GPU; leave --device out, or choose cpu"),
    ],
    ids=["preset", "steps", "device"],
)
def test_commands_say_what_is_wrong(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert train.main([*ARGUMENTS, *arguments]) == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"


def test_missing_and_broken_files_are_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.pt").write_bytes(b"not a checkpoint")
    (tmp_path / "other.pt").write_bytes(b"broken")  # the start of a pickle, by chance
    parts = {"none": "there is no checkpoint", "broken": "is no usable checkpoint", "other": "is no usable checkpoint"}
    for name, part in ((f"{name}.pt", part) for name, part in parts.items()):
        assert evaluate.main([str(tmp_path / name)]) == 2
        assert export.main([str(tmp_path / name), "--out", str(tmp_path / "x.safetensors")]) == 2
        assert capsys.readouterr().err.count(part) == 2


def test_the_float_network_and_foreign_scores_are_not_exported(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="float network; export the quantised one"):
        deployment.export(trained / "float.pt")
    foreign = dict.fromkeys(deployment.SCORE_FIELDS, 0) | {"kind": "quantised", "digest": "0"}
    (tmp_path / "foreign.json").write_text(json.dumps(foreign))
    with pytest.raises(ExportError, match="scores another quantised network"):
        deployment.export(trained / "quant.pt", [tmp_path / "foreign.json"])


@pytest.mark.parametrize("text", ['{"batch": 3}', '{"geometry": "TINY", "bach": 3}', "{", '{"geometry": "HUGE"}'])
def test_nonsensical_configurations_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        TrainConfig.from_json(text)


def test_configurations_survive_json_and_windows_cover_the_context() -> None:
    assert TrainConfig.from_json(find("hopper").to_json()) == find("hopper")
    with pytest.raises(ConfigError, match="length 6 is below the geometry's context of 7 tokens"):
        dataclasses.replace(CONFIG, length=6)
    with pytest.raises(ConfigError, match="d_model 16 cannot be shared among 7 heads"):
        dataclasses.replace(CONFIG, structure=Structure(taps="head", heads=7))
    with pytest.raises(ConfigError, match="absolute positions cannot stream"):
        dataclasses.replace(CONFIG, structure=Structure(position="absolute", taps="shared"))
