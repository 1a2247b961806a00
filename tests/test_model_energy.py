# SPDX-License-Identifier: MIT
"""Energy: counts against the formulas of the papers, and a model whose pieces are checked apart."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from model import energy
from model.cost import account
from model.cost.account import cached, count
from model.cost.energy_model import Counts, Sizes, Widths, add_pj, modelled_uj, multiply_pj, papers_uj, sram_bit_pj
from model.cost.subject import Subject
from model.data.offline import Normaliser
from model.deployed.artifact import Policy
from model.deployed.golden import GoldenNetwork
from model.deployed.presets import TINY
from model.deployed.random_policy import random_policy, random_tokens
from model.integer.fold import from_policy
from model.network.baselines import BehaviourCloning, DecisionTransformer
from model.network.layers import Structure, float_network
from model.training.checkpoint import Checkpoint, build
from model.training.config import TrainConfig

torch.set_num_threads(1)

LENGTH, OBSERVATIONS, ACTIONS = 8, 11, 3
INPUTS = OBSERVATIONS + ACTIONS + 1


def subject(network: torch.nn.Module, kind: str, policy: Policy | None = None) -> Subject:
    return Subject(
        name=kind,
        kind=kind,
        network=network.eval(),
        geometry=TINY,
        policy=policy,
        normaliser=Normaliser(np.zeros(OBSERVATIONS), np.ones(OBSERVATIONS), 1.0),
        environment="random",
        dataset="",
        target_return=1.0,
        delayed=False,
        streams=kind in account.SPIKING,
        length=LENGTH,
    )


@pytest.fixture(scope="module")
def deployed() -> tuple[Subject, torch.Tensor]:
    policy = random_policy(TINY, 3)
    return subject(from_policy(policy), "deployed", policy), torch.from_numpy(random_tokens(policy, LENGTH + 1, 4))


def total(layers: list[Counts], name: str) -> float:
    return sum(getattr(layer, name) for layer in layers)


def test_a_window_has_the_slots_of_the_papers_formula(deployed: tuple[Subject, torch.Tensor]) -> None:
    into, tokens = deployed
    layers = count(into.observe(tokens, False), TINY, True, LENGTH)
    d, t, m, s = TINY.d_model, TINY.steps, TINY.layers, TINY.window
    pairs = sum(min(i + 1, s) for i in range(LENGTH))  # tokens that see each other
    assert total(layers, "slots") == m * t * (12 * LENGTH * d * d + pairs * d)
    assert total(layers, "multiplies") == LENGTH * d * (INPUTS + ACTIONS)


def test_a_stream_spends_on_one_token_what_golden_spikes_say(deployed: tuple[Subject, torch.Tensor]) -> None:
    into, tokens = deployed
    seen = into.observe(tokens, True)
    layers = {layer.layer: layer for layer in count(seen, TINY, True, 1)}
    d, t = TINY.d_model, TINY.steps
    assert into.policy is not None
    golden = GoldenNetwork(into.policy)
    traces = [golden.decide(token) for token in tokens.numpy()]
    for name, source, outputs in (
        ("kvq", "entry", 3 * d),
        ("proj", "window", d),
        ("fc1", "mlp", 4 * d),
        ("fc2", "fc1", d),
    ):
        layer = layers[f"layer1.{name}"]
        inputs = 4 * d if name == "fc2" else d
        assert layer.slots == t * inputs * outputs
        spikes = np.mean([trace.spikes[f"layer1.{source}"].sum() for trace in traces])
        fired = np.mean([trace.spikes[f"layer1.{source}"].any(0).sum() for trace in traces])
        assert (layer.spikes, layer.accumulates) == pytest.approx((spikes, spikes * outputs))
        # a row serves all SNN steps of its token
        assert layer.fetched == pytest.approx((fired * outputs, fired * outputs, spikes * outputs))
        assert 0 < layer.accumulates < layer.slots
    attention = layers["layer1.attention"]
    assert 0 < attention.accumulates < attention.slots <= t * d * TINY.window
    assert layers["embed"].multiplies == d * INPUTS


def test_fetching_once_per_decision_shares_the_tokens_of_a_window(deployed: tuple[Subject, torch.Tensor]) -> None:
    into, tokens = deployed
    (layer,) = [c for c in count(into.observe(tokens, False), TINY, True, LENGTH) if c.layer == "layer0.fc2"]
    once, token, step = layer.fetched
    assert 0 < once <= TINY.d_mlp * TINY.d_model
    assert once < token < step == layer.accumulates


def test_a_decision_transformer_has_the_macs_of_its_formula() -> None:
    torch.manual_seed(0)
    width, layers = 12, 2
    for split in (True, False):
        network = DecisionTransformer(width, layers, INPUTS, ACTIONS, LENGTH, split, False)
        into = subject(network, "dt-3-token" if split else "dt-1-token")
        counts = count(into.observe(torch.randn(LENGTH, INPUTS), False), TINY, False, LENGTH)
        n = LENGTH * (3 if split else 1)
        expected = LENGTH * width * (INPUTS + ACTIONS) + layers * (12 * n * width**2 + 2 * n * n * width)
        assert total(counts, "multiplies") == expected
        assert total(counts, "slots") == total(counts, "accumulates") == 0
        newest, kept = cached(counts, LENGTH)
        assert total(newest, "multiplies") == pytest.approx(expected / LENGTH)
        assert kept == layers * 2 * n * width
        # a step's products still need every weight once
        assert [layer.fetched[0] for layer in newest] == [layer.fetched[0] for layer in counts]


def test_coarse_activations_cost_what_their_floats_do() -> None:
    torch.manual_seed(0)
    plain = DecisionTransformer(12, 1, INPUTS, ACTIONS, LENGTH, False, False)
    coarse = DecisionTransformer(12, 1, INPUTS, ACTIONS, LENGTH, False, True)
    tokens = torch.randn(LENGTH, INPUTS)
    macs = [
        total(count(subject(network, "dt-3-bit").observe(tokens, False), TINY, False, LENGTH), "multiplies")
        for network in (plain, coarse)
    ]
    assert macs[0] == macs[1]


def test_behaviour_cloning_looks_at_one_token() -> None:
    into = subject(BehaviourCloning(20, 2, INPUTS, ACTIONS), "bc")
    into.length = 1
    counts = count(into.observe(torch.randn(2, INPUTS), False), TINY, False, 1)
    assert total(counts, "multiplies") == OBSERVATIONS * 20 + 20 * 20 + 20 * ACTIONS


def test_a_float_network_accumulates_as_often_as_it_spikes() -> None:
    torch.manual_seed(0)
    network = float_network(TINY, INPUTS, ACTIONS, Structure())
    for name, parameter in network.named_parameters():
        if name.endswith("norm.bias"):
            parameter.data.uniform_(0.0, 0.8)
    into = subject(network, "float")
    counts = count(into.observe(torch.randn(LENGTH, INPUTS), True), TINY, True, 1)
    d, t = TINY.d_model, TINY.steps
    linears = [c for c in counts if c.layer.endswith(("kvq", "proj", "fc1", "fc2"))]
    assert sum(c.slots for c in linears) == TINY.layers * t * 12 * d * d
    assert 0 < total(linears, "accumulates") < total(linears, "slots")
    assert total(counts, "functions") > 0


def test_constants_are_those_cited() -> None:
    assert papers_uj(Counts("x", accumulates=1e6, multiplies=1e6)) == pytest.approx(0.9 + 4.6)
    assert [add_pj(8), add_pj(32), multiply_pj(8, 8)] == pytest.approx([0.03, 0.1, 0.2])
    assert multiply_pj(32, 32) == pytest.approx(3.1, rel=0.05)
    for kilobytes, picojoules in ((8, 10.0), (32, 20.0), (1024, 100.0)):
        assert 64 * sram_bit_pj(kilobytes * 1024 * 8) == pytest.approx(picojoules)
    sizes = [sram_bit_pj(8 * 1024 * 2.0**k) for k in range(12)]
    assert sizes == sorted(sizes)
    assert sram_bit_pj(1) == sram_bit_pj(1024 * 8)


def test_the_model_adds_operations_and_memory() -> None:
    layer = Counts("layer0.fc1", accumulates=100, fetched=(10, 20, 40), membranes=5, spike_bits=7)
    integers = Widths(integer=True, weight=4, membrane=12, accumulator=13, neuron=21, activation=8, dense_weight=8)
    memory = Sizes(weights=8 * 32768, spikes=8 * 8192, membranes=8 * 8192, activations=8)
    parts = modelled_uj(layer, integers, memory, "token")
    assert parts["weights"] * 1e6 == pytest.approx(20 * 4 * 20 / 64)
    assert parts["membranes"] * 1e6 == pytest.approx(5 * 12 * 10 / 64)
    assert parts["spikes"] * 1e6 == pytest.approx(7 * 10 / 64)
    assert parts["operations"] * 1e6 == pytest.approx(100 * add_pj(13))
    assert modelled_uj(layer, integers, memory, "step")["weights"] == pytest.approx(2 * parts["weights"])
    floats = modelled_uj(layer, Widths(integer=False), memory, "token")
    assert floats["operations"] * 1e6 == pytest.approx(100 * 0.9)
    assert floats["weights"] == pytest.approx(8 * parts["weights"])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("files")
    policy = dataclasses.replace(random_policy(TINY, 5, 3, 1), environment="Pendulum-v1", return_scale=100.0)
    policy.save(folder / "random.safetensors")
    torch.manual_seed(0)
    config = TrainConfig(geometry=TINY, network="dt-1-token", length=6, quant_steps=0, inference="recompute")
    facts = {"environment": "Pendulum-v1", "dataset": "none/none-v0", "actions": 1}
    normaliser = Normaliser(np.zeros(3), np.ones(3), config.return_scale)
    network = build(config, 5, 1, False)
    Checkpoint(config, network, normaliser, facts, {}).save(folder / "float.pt")
    return [folder / "random.safetensors", folder / "float.pt"]


def test_one_table_one_picture_one_file(
    files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    out, picture = tmp_path / "energy.json", tmp_path / "energy.png"
    arguments = [*map(str, files), "--tokens", "2", "--seed", "1", "--json", str(out), "--png", str(picture)]
    assert energy.main(arguments) == 0
    text = capsys.readouterr().out
    for label in ("stream", "7-token window", "6-token window", "6 tokens cached", "nothing was measured on a board"):
        assert label in text
    assert "published: DSFormer-PSSA 88.8 uJ" in text
    costs = json.loads(out.read_text())["costs"]
    assert [cost["kind"] for cost in costs] == ["deployed", "deployed", "dt-1-token", "dt-1-token"]
    stream, window, recomputed, newest = (cost["papers_uj"] for cost in costs)
    assert stream < window
    assert newest == pytest.approx(recomputed / 6)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.partial"))


def test_the_command_refuses_in_a_sentence(
    files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert energy.main([str(tmp_path / "none.pt")]) == 2
    assert "there is no checkpoint" in capsys.readouterr().err
    assert energy.main([str(files[0]), "--tokens", "250"]) == 2
    assert "ask for fewer tokens" in capsys.readouterr().err


@pytest.mark.parametrize("attention", ["sssa", "tssa", "lrf-ssa", "lrf-dyn"])
def test_every_attention_is_counted_both_ways(attention: str) -> None:
    torch.manual_seed(0)
    g = TINY.with_attention(attention)
    network = float_network(g, INPUTS, ACTIONS, Structure())
    for name, parameter in network.named_parameters():
        if name.endswith("norm.bias"):
            parameter.data.uniform_(0.0, 0.8)
    into = dataclasses.replace(subject(network, "float"), geometry=g)
    tokens = torch.randn(LENGTH, INPUTS)
    for stream in (True, False):
        counts = count(into.observe(tokens, stream), g, True, 1 if stream else LENGTH)
        (layer,) = [c for c in counts if c.layer == "layer0.attention"]
        assert 0 < layer.accumulates < layer.slots
