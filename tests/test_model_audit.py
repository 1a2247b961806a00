# SPDX-License-Identifier: MIT
"""The audit: what it lets pass, and that it names every kind of thing that should not be there."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model import audit
from model.audit import Audit
from model.cost.observer import Observer
from model.cost.operations import REAL, SPIKE, level_of, shift_of
from model.cost.subject import Subject
from model.data.offline import Normaliser
from model.deployed.geometry import Geometry
from model.deployed.presets import ODD, TINY
from model.deployed.random_policy import random_policy, random_tokens
from model.integer.fold import from_policy
from model.integer.quantize import QuantSpiking
from model.network import kernels
from model.network.layers import Structure, float_network

torch.set_num_threads(1)


def subject(geometry: Geometry = TINY, network: nn.Module | None = None) -> Subject:
    policy = random_policy(geometry, 1)
    return Subject(
        name="random",
        kind="deployed",
        network=network or from_policy(policy),
        geometry=geometry,
        policy=policy,
        normaliser=Normaliser(policy.input_mean, policy.input_std, 1.0),
        environment="random",
        dataset="",
        target_return=1.0,
        delayed=False,
        streams=True,
        length=geometry.context,
    )


def look(into: Subject, tokens: int = 6, stream: bool = True) -> Audit:
    assert into.policy is not None
    read = torch.from_numpy(random_tokens(into.policy, tokens, 2))
    return audit.audit(into.observe(read, stream), into.geometry)


def wrongs(result: Audit) -> dict[str, list[str]]:
    return {f"{row.layer} {row.kind}": row.wrong for row in result.rows if row.wrong}


@pytest.mark.parametrize(("attention", "heads"), [("sssa", 1), ("tssa", 1), ("sssa", 4), ("tssa", 4), ("lrf-dyn", 1)])
def test_every_attention_with_an_integer_form_holds(attention: str, heads: int) -> None:
    into = subject(dataclasses.replace(TINY.with_attention(attention), heads=heads))
    assert into.policy is not None
    tokens = torch.from_numpy(random_tokens(into.policy, 7, 2))
    seen = into.observe(tokens, True)
    assert wrongs(audit.audit(seen, into.geometry)) == {}
    assert audit.equals_golden(into, tokens, seen.actions)


@pytest.mark.parametrize(
    "choices",
    [
        {"phase": "query"},
        {"phase": "input"},
        {"phase": "query", "phase_over": "tokens", "period": 3},
        {"phase": "input", "phase_over": "tokens", "period": 5},
        {"routing": "count"},
    ],
    ids=lambda choices: " ".join(map(str, choices.values())),
)
def test_every_module_that_deploys_holds(choices: dict[str, Any]) -> None:
    into = subject(dataclasses.replace(TINY, heads=4, **choices))
    tokens = torch.from_numpy(random_tokens(into.policy, 7, 2))
    seen = into.observe(tokens, True)
    result = audit.audit(seen, into.geometry)
    assert wrongs(result) == {}
    assert {row.layer for row in result.rows if row.multiplications} == {"embed", "head"}
    assert audit.equals_golden(into, tokens, seen.actions)


@pytest.mark.parametrize("geometry", [TINY, ODD], ids=["tiny", "odd"])
def test_a_deployed_network_multiplies_in_embedding_and_head_alone(geometry: Geometry) -> None:
    result = look(subject(geometry))
    assert wrongs(result) == {}
    assert result.holds
    d, g = geometry.d_model, geometry
    multiplications = {row.layer: row.multiplications for row in result.rows if row.multiplications}
    assert multiplications == {"embed": d * g.input_size, "head": d * g.action_size}
    (lookup,) = [row for row in result.rows if row.kind == "table lookup"]
    assert (lookup.layer, lookup.dense) == ("head", g.action_size)
    assert f"{d * g.input_size:,} multiplications of {g.input_bits} x {g.dense_weight_bits} bits" in result.verdict


def test_a_recomputed_window_of_integers_passes_too() -> None:
    into = subject()
    result = look(into, into.length + 1, stream=False)
    assert result.holds
    embed = next(row for row in result.rows if row.layer == "embed" and row.multiplications)
    assert embed.multiplications == into.length * TINY.d_model * TINY.input_size


def test_selected_sums_are_counted_dense_and_real() -> None:
    into = subject()
    assert into.policy is not None
    tokens = torch.from_numpy(random_tokens(into.policy, 6, 2))
    result = audit.audit(into.observe(tokens, True), TINY)
    sums = {row.layer: row for row in result.rows if row.kind == "sum of selected"}
    d, t = TINY.d_model, TINY.steps
    for layer in range(TINY.layers):
        dense = {"kvq": 3 * d * d, "proj": d * d, "fc1": 4 * d * d, "fc2": 4 * d * d, "attention": TINY.window * d}
        assert {name: sums[f"layer{layer}.{name}"].dense for name in dense} == {n: t * s for n, s in dense.items()}
    # by hand: every spike that enters a linear selects one weight per output
    from model.deployed.golden import GoldenNetwork

    golden = GoldenNetwork(into.policy)
    entry = np.mean([golden.decide(token).spikes["layer1.entry"].sum() for token in tokens.numpy()])
    assert sums["layer1.kvq"].real == pytest.approx(3 * d * entry)
    assert 0 < sums["layer1.kvq"].real < sums["layer1.kvq"].dense


class Gain(nn.Module):
    """A layer followed by something it should not be followed by."""

    def __init__(self, inner: nn.Module, after: Any) -> None:
        super().__init__()
        self.inner, self.after = inner, after

    def forward(self, *arguments: Tensor) -> Tensor:
        return self.after(self.inner(*arguments))


def through_numpy(x: Tensor) -> Tensor:
    return torch.from_numpy(x.numpy().copy())


@pytest.mark.parametrize(
    ("after", "says"),
    [
        (lambda x: x * (x - 3), "mul multiplies"),
        (lambda x: x * 3, "mul multiplies"),
        (lambda x: x * 0.3, "mul multiplies"),
        (lambda x: torch.addcmul(x, x, x), "addcmul multiplies"),
        (lambda x: x.add(x, alpha=3), "add multiplies"),
        (lambda x: x @ (3 * torch.eye(16)), "mm multiplies"),
        (lambda x: x / 3, "div multiplies"),
        (lambda x: x + 0.3, "gives reals"),
        (lambda x: nn.functional.layer_norm(x, (16,)), "native_layer_norm is a function of real numbers"),
        (torch.tanh, "tanh is a function of real numbers"),
        (lambda x: torch.round(x / 4), "round is a function of real numbers"),
        (lambda x: torch.bitwise_xor(x.int(), 1).float(), "without a rule"),
        (lambda x: torch.tensor(x.flatten().tolist()).view_as(x), "takes a value out of the network"),
        (lambda x: x * int(x.max().item() > 3), "takes a value out of the network"),
        (through_numpy, "numpy takes a value out of the network"),
        (lambda x: torch.arange(5000.0)[x.long().clamp(0, 4999)], "outside of the head"),
    ],
)
def test_what_does_not_belong_is_named(after: Any, says: str) -> None:
    into = subject()
    into.network.blocks[1].proj = Gain(into.network.blocks[1].proj, after)
    result = look(into, 3)
    assert not result.holds
    assert any(says in wrong for wrongs_ in wrongs(result).values() for wrong in wrongs_), wrongs(result)
    assert all(name.startswith(("layer1", "network", "head")) for name in wrongs(result))
    assert result.verdict.startswith("not a network of selected sums: layer1.proj")


@pytest.mark.parametrize(
    "after", [lambda x: x * 4, lambda x: x * -0.25, lambda x: (x + 1).clamp(-9, 9), lambda x: (x > 2) * x]
)
def test_shifts_sums_and_gates_may_be_added(after: Any) -> None:
    into = subject()
    into.network.blocks[1].proj = Gain(into.network.blocks[1].proj, lambda x: torch.floor(after(x)))
    assert wrongs(look(into, 3)) == {}


def test_what_reaches_no_action_is_not_counted() -> None:
    into = subject()

    def aside(x: Tensor) -> Tensor:
        torch.tanh(x * x)
        return x

    into.network.blocks[0].fc2 = Gain(into.network.blocks[0].fc2, aside)
    assert wrongs(look(into, 3)) == {}


def test_values_that_are_not_what_they_should_be_are_found() -> None:
    into = subject()
    layer = into.network.blocks[0].fc1

    class Lying(QuantSpiking):
        def forward(self, spikes: Tensor) -> Tensor:
            fired = super().forward(spikes)
            fired.numpy()[...] = 2.0  # behind the observer's back
            return fired

    layer.__class__ = Lying
    assert any("should hold spikes and does not" in w for found in wrongs(look(into, 2)).values() for w in found)


def test_compiled_kernels_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.library() is not None, "install g++, which the README asks for"
    assert look(subject(), 2).holds
    monkeypatch.setattr("model.cost.observer.SWITCH", "UNUSED")
    found = wrongs(look(subject(), 2))
    assert any("no observed operation wrote" in wrong for wrongs_ in found.values() for wrong in wrongs_)


@pytest.mark.parametrize("norm", ["ptbn", "tdln"])
def test_a_float_network_is_named_layer_by_layer(norm: str) -> None:
    torch.manual_seed(0)
    into = subject(network=float_network(TINY, 15, 3, Structure(), norm).eval())
    result = look(into, 3)
    function = "native_layer_norm" if norm == "tdln" else "batch_norm"
    found = wrongs(result)
    assert any(function in wrong for wrong in found["layer0.kvq.norm float function"])
    assert any("gives reals" in wrong for wrong in found["layer0.kvq sum of selected"] + found["layer0.attention gate"])
    assert not result.holds


def test_levels_and_shifts_of_constants() -> None:
    assert level_of(torch.tensor([0.0, 1.0])) == SPIKE
    assert level_of(torch.tensor([0.0, -3.0])) == 0
    assert level_of(torch.tensor([0.5, -3.25])) == 2
    assert level_of(torch.tensor([0.1])) == REAL
    assert shift_of(torch.tensor([0.25, -2.0, 0.0])) == 2
    assert shift_of(torch.tensor([4.0])) == -2
    assert shift_of(torch.tensor([3.0])) is None


def test_each_element_keeps_its_own_level() -> None:
    network = nn.Identity()
    with torch.no_grad(), Observer(network) as observer:
        x = observer.token(torch.tensor([5.0, -2.0, 3.0]))
        both = torch.cat([x, x > 0])
        mixed = torch.zeros(6)
        mixed[:3] = x
        mixed[3:] = x > 0
        product = mixed[3:] * x
        outside = mixed[:3] * x
    assert both.shape == (6,)
    kinds = [operation.verdict.kind for operation in observer.live([product, outside]) if operation.name == "mul"]
    assert kinds == ["gate", "multiplication"]


def test_step_gates_may_multiply_what_is_as_wide_as_they_are(tmp_path: Path) -> None:
    policy = random_policy(dataclasses.replace(TINY, adaptive=True), 3)
    policy.save(tmp_path / "gated.safetensors")
    observation = Subject.load(tmp_path / "gated.safetensors").observe(
        torch.from_numpy(random_tokens(policy, 3, 0)).double(), True
    )
    result = audit.audit(observation, policy.geometry)
    assert result.holds
    assert "no multiplication but 16 of 12 x 4 bits in step gates: sums" in result.verdict
    narrow = audit.audit(observation, dataclasses.replace(policy.geometry, weight_bits=3))
    assert "layer0.gate: mv multiplies (12, 4) bits, more than the geometry's (3, 12)" in narrow.verdict


def test_the_command_audits_the_shipped_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "audit.json"
    assert audit.main(["hopper-tiny", "--tokens", "3", "--json", str(out)]) == 0
    assert "HOLDS: between embedding and head no multiplication" in capsys.readouterr().out
    content = json.loads(out.read_text())
    assert content["holds"]
    assert content["decisions"] == 3
    assert sum(row["multiplications"] for row in content["rows"]) == 16 * 15 + 16 * 3


def test_the_command_refuses_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main([str(tmp_path / "none.safetensors")]) == 2
    assert "there is no policy" in capsys.readouterr().err
    path = tmp_path / "random.safetensors"
    dataclasses.replace(random_policy(TINY, 0), environment="Nowhere-v0").save(path)
    assert audit.main([str(path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
