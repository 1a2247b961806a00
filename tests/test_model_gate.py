# SPDX-License-Identifier: MIT
"""Step gates: the equation in floats, its thresholds in integers, what a masked step is, what is learned."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.data import offline
from model.deployed.artifact import ArtifactError, Policy
from model.deployed.geometry import Geometry, GeometryError
from model.deployed.golden import GoldenNetwork, live_steps
from model.deployed.presets import HOPPER_Z2, ODD, TINY
from model.deployed.random_policy import random_policy, random_tokens
from model.integer.fold import integer_tensors, quantise
from model.integer.nir_graph import NirError, to_nir
from model.integer.proof import ExportError, prove
from model.integer.quant_gate import quantise_gate
from model.network.gate import GAIN, StepGate
from model.network.layers import Structure, float_network
from model.network.network import Network, Record
from model.network.norm import PTBN
from model.training.config import ConfigError, TrainConfig
from model.training.deployment import export
from model.training.step_cost import mean_live_steps
from model.training.trainer import Trainer
from tests import swing

torch.set_num_threads(1)

ADAPTIVE = dataclasses.replace(TINY, adaptive=True)
EIGHT = dataclasses.replace(ADAPTIVE, steps=8)


def opened(geometry: Geometry, seed: int) -> Network:
    """Return a float network whose gates choose all numbers of steps on random tokens."""
    torch.manual_seed(seed)
    network = float_network(geometry, 15, 3, Structure())
    for block in network.blocks:
        block.gate.weight.data.normal_(0.0, 0.2)
        block.gate.bias.data.fill_(0.0)
    for module in network.modules():
        if isinstance(module, PTBN):
            module.bias.data.uniform_(0.0, 0.5)
    for _ in range(5):
        network(torch.randn(16, 10, 15))
    return network.eval()


@pytest.mark.parametrize("geometry", [ADAPTIVE, EIGHT], ids=["T 4", "T 8"])
def test_live_steps_are_the_equation_s(geometry: Geometry) -> None:
    torch.manual_seed(0)
    gate, x = StepGate(geometry), torch.randn(geometry.steps, 500, geometry.d_model)
    gate.weight.data.normal_(0.0, 0.1)
    live, mask = (part.detach() for part in gate(x))
    weight, bias = gate.weight.tolist(), gate.bias.item()
    for row in range(500):
        g = sum(w * value for w, value in zip(weight, x[0, row].tolist(), strict=False)) + bias
        share = geometry.steps / (1.0 + math.exp(-GAIN * g))
        if abs(share - round(share)) > 1e-4:
            assert live[row] == math.ceil(share)
        assert mask[:, row, 0].tolist() == [float(t < live[row]) for t in range(geometry.steps)]
    assert set(live.tolist()) == set(range(1, geometry.steps + 1))


def test_a_shut_gate_leaves_one_step_and_an_open_one_all() -> None:
    gate, x = StepGate(ADAPTIVE), torch.randn(4, 9, 16)
    for bias, steps in ((-1e3, 1.0), (1e3, 4.0)):
        gate.bias.data.fill_(bias)
        assert gate(x)[0].tolist() == [steps] * 9


@pytest.mark.parametrize("geometry", [ADAPTIVE, EIGHT], ids=["T 4", "T 8"])
def test_folding_is_exact(geometry: Geometry) -> None:
    # weights on the grid and integer membranes: the float gate and the thresholds are one function
    torch.manual_seed(1)
    gate = StepGate(geometry).double()
    gate.weight.data = torch.randint(-7, 8, (geometry.group,)).double() / 64
    gate.weight.data[0] = 7 / 64  # the finest grid that holds it is this one
    gate.bias.data.fill_(0.0317)
    folded = quantise_gate(gate, geometry, 256.0)
    integers = torch.randint(-400, 400, (geometry.steps, 4000, geometry.d_model)).double()
    assert folded.unit == 64
    expected, got = gate(integers / 256)[0], folded(integers)[0]
    assert torch.equal(expected, got)
    assert set(got.tolist()) == set(range(1, geometry.steps + 1))
    weight, threshold = (t.detach().long().numpy() for t in folded.integers())
    assert np.array_equal(live_steps(integers.long().numpy(), weight, threshold), got.long().numpy())


def test_a_sum_at_its_threshold_is_not_above_it() -> None:
    weight, threshold = np.array([1, -2]), np.array([-5, 0, 7])
    sums = [-6, -5, -4, 0, 1, 7, 8]
    x = np.array([[[s, 0, 99] for s in sums], [[50, 50, 50]] * len(sums)])
    assert live_steps(x, weight, threshold).tolist() == [1, 1, 2, 2, 3, 3, 4]


@pytest.mark.parametrize("attention", ["pssa", "tssa", "lrf-dyn"])
def test_spikes_after_the_live_steps_do_not_exist(attention: str) -> None:
    policy = random_policy(dataclasses.replace(ODD.with_attention(attention), adaptive=True), 10)
    trace = GoldenNetwork(policy).decide_all(random_tokens(policy, 40, 10))
    for name, spikes in trace.spikes.items():
        live = np.array(trace.live_steps[int(name[5])])
        assert set(live) == {1, 2, 3}
        dead = np.arange(3)[:, None] >= live
        assert spikes.any()
        assert not spikes[dead].any(), name
    # the stream of a masked step gets the shortcut and the biases of proj and fc2 alone
    t = policy.tensors
    for layer in range(2):
        before, middle, after = trace.membranes[2 * layer : 2 * layer + 3]
        dead = np.arange(3)[:, None] >= np.array(trace.live_steps[layer])
        for x, y, part in ((before, middle, "proj"), (middle, after, "fc2")):
            expected = np.clip(x + t[f"layer{layer}.{part}.bias"], -128, 127)
            assert np.array_equal(y[dead], expected[dead])


def test_an_open_gate_changes_nothing() -> None:
    policy = random_policy(ADAPTIVE, 5)
    low = -(1 << (ADAPTIVE.gate_bits - 1))
    tensors = policy.tensors | {f"layer{n}.gate.threshold": np.full(3, low) for n in range(2)}
    plain = {name: t for name, t in tensors.items() if ".gate." not in name}
    tokens = random_tokens(policy, 12, 5)
    one = GoldenNetwork(dataclasses.replace(policy, tensors=tensors)).decide_all(tokens)
    other = GoldenNetwork(dataclasses.replace(policy, geometry=TINY, tensors=plain)).decide_all(tokens)
    assert one.signatures == other.signatures
    assert one.live_steps == [[4] * 12] * 2
    assert other.live_steps == []


def test_gradients_of_the_gate_are_straight_through() -> None:
    gate = StepGate(ADAPTIVE)
    x = torch.randn(4, 7, 16, requires_grad=True)
    for row, share in enumerate((0.5, 1.2, 2.9, 3.9)):
        gate.zero_grad()
        gate.bias.data.fill_(math.log(share / (4 - share)) / GAIN)
        gate.weight.data.zero_()
        live, mask = gate(x)
        slope = GAIN * share * (1 - share / 4)
        live[row].backward(retain_graph=True)
        assert gate.bias.grad.item() == pytest.approx(slope, rel=1e-4)
        # the last two live steps and the first that is not
        for step in range(4):
            gate.zero_grad()
            mask[step, row, 0].backward(retain_graph=True)
            near = -1 < share - step < 2
            assert gate.bias.grad.item() == pytest.approx(slope / 3 if near else 0.0, rel=1e-4)


@pytest.mark.parametrize("form", ["float", "quantised"])
def test_every_gate_learns_from_the_loss_and_from_the_price(form: str) -> None:
    network = opened(ADAPTIVE, 2)
    if form == "quantised":
        network = quantise(network, torch.full((15,), 32.0), 8)
    record = Record(graph=True)
    loss = (network.train()(network.prepare(torch.randn(32, 19, 15)), record=record) - torch.rand(32, 19, 3)) ** 2
    for objective in (loss.mean(), mean_live_steps(record.live_steps)):
        network.zero_grad()
        objective.backward(retain_graph=True)
        for block in network.blocks:
            assert block.gate.weight.grad.abs().max() > 0
            assert block.gate.bias.grad.abs() > 0
    mean = np.mean([live.detach().numpy() for live in record.live_steps.values()])
    assert mean_live_steps(record.live_steps).item() == pytest.approx(mean)
    assert 1.2 < mean < 3.8


def test_a_stream_chooses_as_a_window() -> None:
    network, whole, record = opened(ADAPTIVE, 4), Record(), Record()
    tokens = 2.0 * torch.randn(1, 7, 15)
    with torch.no_grad():
        network(tokens, record=whole)
    stream, seen = network.stream(), []
    for token in range(7):
        stream.decide(tokens[:, token], record)
        seen.append([int(live) for live in record.live_steps.values()])
    assert np.array_equal(np.array(seen).T, np.stack([live.numpy() for live in whole.live_steps.values()]))
    assert len(np.unique(seen)) > 2


@pytest.fixture
def _library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swing.make(tmp_path, "test/swing-v0", [60, 50, 40])
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


CONFIG = TrainConfig(geometry=ADAPTIVE, length=16, batch=8, steps=150, quant_steps=40, return_scale=100.0)


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
@pytest.mark.usefixtures("_library")
def test_a_price_shuts_steps_and_what_is_trained_is_exported(tmp_path: Path) -> None:
    means = []
    for cost in (0.0, 1.0):
        config, out = dataclasses.replace(CONFIG, step_cost=cost), tmp_path / str(cost)
        run = Trainer(config, offline.load("test/swing-v0"), out, False, save_every=1000, command="test")
        run.run(progress=False)
        record = Record()
        run._validate(record)
        means.append(float(mean_live_steps(record.live_steps)))
        policy, needed = export(out / "quant.pt")
        policy.save(out / "policy.safetensors")
        assert Policy.load(out / "policy.safetensors").digest == policy.digest
        assert needed["sum of a step gate"] <= ADAPTIVE.gate_bits
        # training's integers are golden's
        tokens, record = random_tokens(policy, 20, 1), Record()
        with torch.no_grad():
            run.network.eval()(torch.from_numpy(tokens)[None].float(), record=record)
        trace = GoldenNetwork(policy).decide_all(tokens)
        for layer, live in enumerate(record.live_steps.values()):
            assert live.tolist() == trace.live_steps[layer]
        for name, spikes in record.spikes.items():
            assert np.array_equal(spikes.numpy().astype(bool), trace.spikes[name])
        assert Policy.load(out / "policy.safetensors").geometry == ADAPTIVE
    assert means[0] > 3.0
    assert means[1] < means[0] - 1.0


def test_geometries_without_gates_are_what_they_were() -> None:
    assert HOPPER_Z2.digest[:8] == "24025d3d"
    assert "adaptive" not in json.loads(HOPPER_Z2.to_json())
    adaptive = dataclasses.replace(HOPPER_Z2, adaptive=True)
    assert Geometry.from_json(adaptive.to_json()) == adaptive
    assert adaptive.digest != HOPPER_Z2.digest
    assert adaptive.differences(HOPPER_Z2) == ["adaptive: True, False"]
    config = TrainConfig(geometry=TINY, length=16)
    assert "step_cost" not in json.loads(config.to_json())
    priced = dataclasses.replace(config, geometry=ADAPTIVE, step_cost=0.1)
    assert TrainConfig.from_json(priced.to_json()) == priced


@pytest.mark.parametrize("geometry", [HOPPER_Z2, ODD, EIGHT], ids=["HOPPER_Z2", "ODD", "EIGHT"])
def test_the_sum_of_a_gate_fits_at_its_extremes(geometry: Geometry, monkeypatch: pytest.MonkeyPatch) -> None:
    g = dataclasses.replace(geometry, adaptive=True)
    tensors = {name: t.astype(np.int64) for name, t in random_policy(g, 0).tensors.items()}
    tensors["layer0.gate.weight"][:] = -(1 << (g.weight_bits - 1))
    assert prove(g, tensors)["sum of a step gate"] == g.gate_bits
    most = g.group << (g.membrane_bits + g.weight_bits - 2)
    assert most == 1 << (g.gate_bits - 2) or g is not HOPPER_Z2
    monkeypatch.setattr(Geometry, "gate_bits", property(lambda _: most.bit_length()))
    with pytest.raises(ExportError, match=r"^layer0.gate: its sum of a step gate can reach"):
        prove(g, tensors)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: dataclasses.replace(TINY, adaptive=1), "adaptive must be true or false, not 1"),
        (
            lambda: dataclasses.replace(TINY, adaptive=True, steps=2),
            "adaptive needs at least 3 steps, not 2: of fewer the neurons are done before the gate",
        ),
        (
            lambda: dataclasses.replace(CONFIG, geometry=TINY, step_cost=0.1),
            "step_cost is a price on the steps that gates choose; set geometry.adaptive, or leave it at 0",
        ),
        (lambda: dataclasses.replace(CONFIG, step_cost=-0.1), "step_cost must not be negative, but is -0.1"),
        (
            lambda: dataclasses.replace(CONFIG, network="bc", inference="recompute", quant_steps=0),
            "geometry.adaptive is about the spiking network; leave it at false for bc",
        ),
        (lambda: to_nir(random_policy(ADAPTIVE, 0)), "NIR cannot express step gates"),
        (
            lambda: dataclasses.replace(random_policy(ADAPTIVE, 0), geometry=TINY),
            "the policy's tensors are not those of its geometry; missing or unknown: layer0.gate.threshold",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(make: Any, says: str) -> None:
    with pytest.raises((GeometryError, ConfigError, NirError, ArtifactError), match=f"^{says}"):
        make()


def test_thresholds_that_descend_are_refused() -> None:
    policy = random_policy(ADAPTIVE, 0)
    threshold = np.array([3, 3, 2])
    with pytest.raises(ArtifactError, match=r"^layer1.gate.threshold must not descend: a step is live only where"):
        dataclasses.replace(policy, tensors=policy.tensors | {"layer1.gate.threshold": threshold})
    threshold = np.array([2, 3, 3])
    assert dataclasses.replace(policy, tensors=policy.tensors | {"layer1.gate.threshold": threshold})


def test_integers_are_the_artifact_s() -> None:
    network = quantise(opened(EIGHT, 6), torch.full((15,), 32.0), 8)
    tensors = integer_tensors(network)
    threshold = tensors["layer1.gate.threshold"]
    assert (np.diff(threshold) > 0).all()
    assert np.abs(tensors["layer1.gate.weight"]).max() >= 5
