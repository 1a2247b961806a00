# SPDX-License-Identifier: MIT
"""Phase codes: the paper's equation, gradients, streams against windows, bits folded and computed in two readings."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from model.data import offline
from model.deployed.artifact import ArtifactError
from model.deployed.geometry import Geometry, GeometryError
from model.deployed.golden import GoldenNetwork, phase_bits
from model.deployed.presets import HOPPER_Z2, TINY
from model.deployed.random_policy import random_policy, random_tokens
from model.integer import nir_graph
from model.integer.fold import from_policy, integer_tensors, quantise
from model.integer.proof import ExportError, prove
from model.network.attention import Rows
from model.network.layers import Structure, float_network
from model.network.network import Network, Record
from model.network.norm import PTBN
from model.network.phase import SHARPNESS, LearnedPhase
from model.training.checkpoint import Checkpoint
from model.training.config import ConfigError, TrainConfig
from model.training.deployment import export
from model.training.trainer import Trainer
from tests import swing

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")

OVER = {"steps": {}, "tokens": {"phase_over": "tokens", "period": 5}}
CASES = {
    f"{place} over {over}": dataclasses.replace(TINY, heads=4, phase=place, **choices)
    for place in ("query", "input")
    for over, choices in OVER.items()
}
every_case = pytest.mark.parametrize("name", CASES)


def lively(geometry: Geometry, soft: bool = True) -> Network:
    """Return a float network in training whose neurons fire."""
    torch.manual_seed(0)
    network = float_network(geometry, 15, 3, Structure(tap_floor=0.4, tap_init=0.8, phase_soft=soft))
    for module in network.modules():
        if isinstance(module, PTBN):
            module.bias.data.uniform_(0.1, 0.6)
            module.weight.data.fill_(0.8)
    for block in network.blocks:
        if block.phase.amplitude is not None:
            block.phase.amplitude.data *= 4
    for _ in range(20):
        network(torch.randn(32, 12, 15))
    return network


def written_out(omega: list[float], phi: list[float], times: int) -> list[list[int]]:
    """Return `s_h(t) = [sin(omega_h t + phi_h) > 0]`, a row per time."""
    return [[int(math.sin(w * t + p) > 0) for w, p in zip(omega, phi, strict=True)] for t in range(times)]


@every_case
def test_codes_are_the_equation_soft_in_training_and_hard_in_evaluation(name: str) -> None:
    g = CASES[name]
    torch.manual_seed(3)
    phase = LearnedPhase(g)
    expected = written_out(phase.omega.tolist(), phase.phi.tolist(), 4 if g.phase_over == "steps" else 5)
    assert {bit for row in expected for bit in row} == {0, 1}
    soft = phase.table()
    assert torch.equal(soft > 0.5, torch.tensor(expected) > 0)
    assert 0 < soft.min() < 0.5 < soft.max() < 1
    assert soft.max() <= 1 / (1 + math.exp(-SHARPNESS))
    assert phase.eval().table().tolist() == expected
    hard = LearnedPhase(g, soft=False)
    assert set(hard.table().flatten().tolist()) == {0.0, 1.0}
    assert torch.equal(hard.table(), hard.eval().table())


def test_a_bit_acts_on_the_channels_of_its_head_at_its_time() -> None:
    for name, g in CASES.items():
        phase = LearnedPhase(g).eval()
        phase.table = lambda g=g: torch.arange(float(g.phase_times * 4)).view(-1, 4)  # type: ignore[method-assign]
        time = torch.tensor([3, 9, 0])
        gate = phase.gate(time).expand(4, 3, 16)
        golden = phase_bits(np.arange(g.phase_times * 4).reshape(-1, 4) % 3, g, time.numpy())
        for t, row, channel in np.ndindex(4, 3, 16):
            at = t if g.phase_over == "steps" else (3, 4, 0)[row]
            assert gate[t, row, channel] == 4 * at + channel // 4, name
            assert golden[t, row, channel] == ((4 * at + channel // 4) % 3 == 1), name


@every_case
@pytest.mark.parametrize("soft", [True, False], ids=["soft", "bits"])
def test_gradients_reach_omega_phi_and_amplitude(name: str, soft: bool) -> None:
    network = lively(CASES[name], soft)
    network(torch.randn(8, 12, 15)).pow(2).sum().backward()
    for block in network.blocks:
        for parameter in block.phase.parameters():
            assert (parameter.grad != 0).float().mean() >= 0.5


def test_the_gradient_is_that_of_the_soft_code() -> None:
    g = CASES["query over steps"]
    for soft in (True, False):
        torch.manual_seed(1)
        phase = LearnedPhase(g, soft)
        upstream = torch.randn(4, 4)
        phase.table().backward(upstream)
        for head in range(4):
            slope = {"omega": 0.0, "phi": 0.0}
            for t in range(4):
                angle = phase.omega[head].item() * t + phase.phi[head].item()
                share = 1 / (1 + math.exp(-SHARPNESS * math.sin(angle)))
                by_phi = upstream[t, head].item() * share * (1 - share) * SHARPNESS * math.cos(angle)
                slope["phi"] += by_phi
                slope["omega"] += t * by_phi
            assert phase.phi.grad[head].item() == pytest.approx(slope["phi"], rel=1e-4, abs=1e-5)
            assert phase.omega.grad[head].item() == pytest.approx(slope["omega"], rel=1e-4, abs=1e-5)


@every_case
@pytest.mark.parametrize("integer", [False, True], ids=["float", "integer"])
def test_windows_of_an_episode_give_what_its_stream_gives(name: str, integer: bool) -> None:
    g = CASES[name]
    if integer:
        policy = random_policy(g, 2)
        network = from_policy(policy)
        tokens = torch.from_numpy(random_tokens(policy, 40, 1)).to(network.entry.dtype)
    else:
        network, tokens = lively(g).eval(), torch.randn(40, 15)
    stream, whole = network.stream(), Record()
    streamed = torch.cat([stream.decide(token[None]) for token in tokens])
    with torch.no_grad():
        torch.testing.assert_close(network(tokens[None], record=whole)[0], streamed)
        # from the middle of the episode, the window's padding to the left of it
        differing = {}
        for first in (13, 14):
            window = torch.cat([torch.zeros(3, 15, dtype=tokens.dtype), tokens[13:]])[None]
            real = torch.arange(30)[None] >= 3
            got = network(window, real, start=torch.tensor([first]))[0, 3:]
            differing[first] = not torch.allclose(got[g.context :], streamed[13 + g.context :], atol=1e-5)
    assert differing == {13: False, 14: g.phase_over == "tokens"}
    assert len(streamed.unique()) > 20
    rates = {part: spikes.mean().item() for part, spikes in whole.spikes.items()}
    assert all(0.02 < rates[f"layer{n}.{part}"] < 0.98 for n in (0, 1) for part in ("entry", "key", "value", "query"))
    assert 0 < max(rates["layer0.window"], rates["layer1.window"]) < 0.95


def test_times_count_from_each_window_s_first_real_token() -> None:
    start = torch.tensor([4, 0, 7])
    assert Rows(None, 3, 2).times(start).tolist() == [4, 5, 0, 1, 7, 8]
    real = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 1], [0, 0, 0, 1]]).bool()
    assert Rows(real, 3, 4).times(start).tolist() == [4, 5, 6, 0, 1, 3, 7]


def test_a_phase_over_tokens_is_not_computed_without_the_time() -> None:
    phase = LearnedPhase(CASES["query over tokens"])
    with pytest.raises(ValueError, match=r"^a phase over tokens needs the environment step of every token$"):
        phase.gate(None)


@every_case
def test_the_silent_bits_silence_and_bits_of_one_do_nothing(name: str) -> None:
    g = CASES[name]
    policy = random_policy(g, 4)
    plain = dataclasses.replace(
        policy,
        geometry=TINY,
        tensors={part: tensor for part, tensor in policy.tensors.items() if ".phase." not in part},
    )
    tokens = random_tokens(policy, 15, 0)
    for bit in (0, 1):
        for layer in range(g.layers):
            policy.tensors[f"layer{layer}.phase.bits"][:] = bit
        coded, without = GoldenNetwork(policy), GoldenNetwork(plain)
        same = True
        for token in tokens:
            one, other = coded.decide(token), without.decide(token)
            same &= np.array_equal(one.membranes[-1], other.membranes[-1])
            if g.phase == "query" and not bit:
                assert not one.spikes["layer0.query"].any()
                assert not one.spikes["layer1.window"].any()
        assert same == (bit == (g.phase == "query"))


@every_case
def test_folding_keeps_the_bits_and_rounds_the_current(name: str) -> None:
    network = lively(CASES[name])
    folded = quantise(network, torch.full((15,), 32.0), 8)
    integers = integer_tensors(folded)
    for number, block in enumerate(network.blocks):
        omega, phi = block.phase.omega.tolist(), block.phase.phi.tolist()
        expected = written_out(omega, phi, CASES[name].phase_times)
        assert integers[f"layer{number}.phase.bits"].tolist() == expected
        if block.phase.amplitude is not None:
            rounded = np.rint(block.phase.amplitude.detach().numpy() * 256)
            assert np.array_equal(integers[f"layer{number}.phase.current"], rounded)
            assert rounded.std() > 20
    # what trains on are the current, not the bits
    trained = {part.rsplit(".", 1)[1] for part, _ in folded.named_parameters() if ".phase." in part}
    assert trained == ({"amplitude"} if "input" in name else set())


def test_the_proof_counts_the_current_of_the_codes() -> None:
    policy = random_policy(CASES["input over steps"], 0)
    tensors = {part: tensor.astype(np.int64) for part, tensor in policy.tensors.items()}
    prove(policy.geometry, tensors)
    tensors["layer1.phase.current"][3] = 1 << policy.geometry.current_bits
    with pytest.raises(ExportError, match=r"^layer1.entry: its current can reach -\d+\.\.10239, which needs 15 bits"):
        prove(policy.geometry, tensors)


def test_an_artifact_holds_bits_and_nothing_else() -> None:
    policy = random_policy(CASES["query over tokens"], 0)
    assert policy.tensors["layer1.phase.bits"].shape == (5, 4)
    odd = policy.tensors | {"layer1.phase.bits": 2 * policy.tensors["layer1.phase.bits"]}
    with pytest.raises(ArtifactError, match=r"^layer1.phase.bits must hold integers in 0\.\.1$"):
        dataclasses.replace(policy, tensors=odd)


def test_geometries_without_a_phase_are_what_they_were() -> None:
    # the identifier that bitstreams and policies of before carry
    assert HOPPER_Z2.digest[:8] == "24025d3d"
    assert not {"phase", "phase_over", "period", "heads"} & set(json.loads(HOPPER_Z2.to_json()))
    digests = {g.digest for g in CASES.values()}
    assert len(digests) == 4
    for g in CASES.values():
        assert Geometry.from_json(g.to_json()) == g
        assert ("period" in json.loads(g.to_json())) == (g.phase_over == "tokens")
        assert g.with_attention("sssa").with_attention("pssa") == g


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"phase": "key"}, "phase must be one of none, query, input, not 'key'"),
        ({"phase": "query", "phase_over": "days"}, "phase_over must be one of steps, tokens, not 'days'"),
        ({"phase_over": "tokens"}, "phase_over goes with a phase alone: leave it at steps"),
        ({"phase": "query", "period": 8}, "period goes with phase_over tokens alone: leave it at 16"),
        ({"phase": "query", "phase_over": "tokens", "period": 0}, "period must be a positive integer, not 0"),
        ({"phase": "query", "heads": 3}, "d_model 16 cannot be shared among 3 heads; choose a divisor"),
        ({"heads": 4}, "heads goes with sssa, tssa, lrf-ssa alone, or a phase or routing: leave it at 1 for pssa"),
    ],
)
def test_phases_that_cannot_be_are_refused(choices: dict, says: str) -> None:
    with pytest.raises(GeometryError, match=f"^{says}"):
        dataclasses.replace(TINY, **choices)
    ungated = dataclasses.replace(TINY.with_attention("lrf-dyn"), gate=False)
    with pytest.raises(GeometryError, match=r"^phase query gates the query, which this geometry lacks: set gate true"):
        dataclasses.replace(ungated, phase="query")


def test_there_is_no_circuit_at_the_entry_and_no_graph() -> None:
    g = CASES["input over steps"]
    with pytest.raises(
        GeometryError, match=r"^there is no circuit for phase codes at a layer's entry yet, only on the"
    ):
        g.require_circuit()
    with pytest.raises(nir_graph.NirError, match=r"^NIR cannot express phase codes: "):
        nir_graph.to_nir(random_policy(g, 0))


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"geometry": TINY, "structure": Structure(phase_soft=False)}, r"structure.phase_soft is about phase codes"),
        ({"network": "bc", "inference": "recompute"}, r"phase is about the spiking network"),
        ({"inference": "recompute"}, r"a phase over tokens counts the steps of an episode"),
    ],
)
def test_trainings_that_cannot_be_are_refused(choices: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=f"^{says}"):
        TrainConfig(**{"geometry": CASES["query over tokens"], "quant_steps": 0} | choices)


def test_training_tells_the_network_where_its_windows_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swing.make(tmp_path, "test/swing-v0", [40, 25, 60])
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    config = TrainConfig(
        CASES["input over tokens"], length=8, batch=6, steps=3, quant_steps=2, return_scale=5.0, held_out=0.3
    )
    run = Trainer(config, offline.load("test/swing-v0"), tmp_path / "run", False, 100, "test")
    expected, forward, seen = np.random.default_rng(0), Network.forward, []

    def spy(network, tokens, real=None, record=None, start=None):
        seen.append(None if start is None else start.tolist())
        return forward(network, tokens, real, record, start)

    monkeypatch.setattr(Network, "forward", spy)
    run.run(progress=False)
    drawn = [run.windows.sample(6, 8, expected)[3].tolist() for _ in range(5)]
    assert [start for start in seen if start is not None and len(start) == 6] == drawn
    assert None not in seen
    assert len({step for start in drawn for step in start}) > 10

    # and what it came to is deployed as it was trained
    policy, _ = export(tmp_path / "run" / "quant.pt")
    golden, stream = GoldenNetwork(policy), Checkpoint.load(tmp_path / "run" / "quant.pt").network.eval().stream()
    for token in random_tokens(policy, 12, 0):
        action = stream.decide(torch.from_numpy(token).float()[None])[0]
        assert np.array_equal(action.double().numpy() * 2**15, golden.decide(token).action)


def test_only_a_code_over_tokens_learns_what_depends_on_the_step_of_the_episode() -> None:
    """Actions are a square wave of the environment step, tokens are noise: what no other token tells."""
    losses = {}
    for name in ("query over steps", "query over tokens", "input over tokens"):
        g = dataclasses.replace(CASES[name], layers=1)
        torch.manual_seed(5)
        network, rng = float_network(g, 15, 1, Structure()), torch.Generator().manual_seed(0)
        optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
        for _ in range(150):
            tokens, start = torch.randn(32, 8, 15, generator=rng), torch.randint(0, 50, (32,), generator=rng)
            step = start[:, None] + torch.arange(8)
            loss = (network(tokens, start=start)[..., 0] - (0.6 - 1.2 * (step % 5 < 2))).pow(2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        network.eval()
        losses[name] = (network(tokens, start=start)[..., 0] - (0.6 - 1.2 * (step % 5 < 2))).pow(2).mean().item()
    assert losses["query over steps"] > 0.3
    assert losses["query over tokens"] < 0.5 * losses["query over steps"]
    assert losses["input over tokens"] < 0.5 * losses["query over steps"]
