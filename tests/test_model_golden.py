# SPDX-License-Identifier: MIT
"""The golden network in numpy and the integer one in PyTorch: equal in every spike, membrane, state and action."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from model.deployed.artifact import ArtifactError, Policy
from model.deployed.geometry import Geometry
from model.deployed.golden import GoldenNetwork
from model.deployed.golden_attention import (
    Dynamics,
    Match,
    Window,
    dendrites,
    match_sum,
    overlap,
    readout,
    saturate,
    shifted,
)
from model.deployed.presets import HOPPER_Z2, ODD, TINY, WIDE
from model.deployed.random_policy import random_policy, random_tokens
from model.integer.fold import from_policy, integer_tensors
from model.integer.proof import ExportError, attention_reach, dendrite_reach, prove
from model.network.network import Record

GUARDED = Geometry(observation_size=4, action_size=2, d_model=16, layers=1, steps=8, window=4, group=8)
"""Eight SNN steps: more guard bits than single precision holds."""

DEPLOYED = ("pssa", "sssa", "tssa", "lrf-dyn")
GEOMETRIES = {
    f"{name}, {attention}": geometry.with_attention(attention)
    for name, geometry in (("tiny", TINY), ("odd", ODD), ("guarded", GUARDED))
    for attention in DEPLOYED
}
GEOMETRIES |= {
    "tiny, ungated": dataclasses.replace(TINY.with_attention("lrf-dyn"), gate=False),
    "odd, 3 dendrites": dataclasses.replace(ODD.with_attention("lrf-dyn"), dendrites=3),
    "tiny, sssa, 4 heads": dataclasses.replace(TINY.with_attention("sssa"), heads=4),
    "odd, tssa, 5 heads": dataclasses.replace(ODD.with_attention("tssa"), heads=5),
    "odd, sssa, 20 heads": dataclasses.replace(ODD.with_attention("sssa"), heads=20),
    "guarded, tssa, 2 heads": dataclasses.replace(GUARDED.with_attention("tssa"), heads=2),
    "tiny, phase on query": dataclasses.replace(TINY, heads=4, phase="query"),
    "odd, phase at entry": dataclasses.replace(ODD, heads=5, phase="input"),
    "tiny, tssa, phase on query over tokens": dataclasses.replace(
        TINY.with_attention("tssa"), heads=2, phase="query", phase_over="tokens", period=5
    ),
    "tiny, routed": dataclasses.replace(TINY, heads=4, routing="count"),
    "odd, tssa, routed with a phase": dataclasses.replace(
        ODD.with_attention("tssa"), heads=5, phase="query", routing="count"
    ),
    "guarded, lrf-dyn, routed": dataclasses.replace(GUARDED.with_attention("lrf-dyn"), heads=2, routing="count"),
    "odd, lrf-dyn, phase at entry over tokens": dataclasses.replace(
        ODD.with_attention("lrf-dyn"), heads=4, phase="input", phase_over="tokens", period=3
    ),
}
GEOMETRIES |= {
    f"{name}, {attention}, adaptive": dataclasses.replace(geometry.with_attention(attention), adaptive=True)
    for name, geometry in (("tiny", TINY), ("odd", ODD), ("guarded", GUARDED))
    for attention in DEPLOYED
}

torch.set_num_threads(1)


def kept(golden: GoldenNetwork, layer: int) -> np.ndarray:
    """Return a layer's state as PyTorch lays it out, tokens before the episode silent: [steps, slots, channels]."""
    g, attention = golden.geometry, golden.attention[layer]

    def past(ring: np.ndarray, slots: int) -> np.ndarray:
        newest = ring[:slots]
        empty = np.zeros((slots - len(newest), *newest.shape[1:]), np.int64)
        return np.concatenate([empty, newest[::-1]]).swapaxes(0, 1)

    if isinstance(attention, Window):
        return past(attention.ring, g.window - 1)
    if isinstance(attention, Match):
        words = np.stack([past(attention.keys, g.window - 1), past(attention.values, g.window - 1)], 2)
        return words.reshape(g.steps, -1, g.d_model)
    assert isinstance(attention, Dynamics)
    return np.concatenate([attention.x.swapaxes(1, 2), past(attention.values, g.reach)], 1)


@dataclasses.dataclass
class Seen:
    """What a comparison went over."""

    rates: dict[str, list[float]]
    actions: set[tuple[int, ...]]
    saturations: int
    at_limit: float


def compare(geometry: Geometry, seed: int, tokens: int) -> Seen:
    """Assert equality over one random episode."""
    policy = random_policy(geometry, seed)
    golden, stream = GoldenNetwork(policy), from_policy(policy).stream()
    seen, limit = Seen({}, set(), 0, 0.0), (1 << (geometry.dendrite_bits - 1)) - 1
    for token in random_tokens(policy, tokens, seed):
        trace, record = golden.decide(token), Record()
        action = stream.decide(torch.from_numpy(token)[None], record)
        assert (action[0].double().numpy() * 2**15 == trace.action).all()
        assert set(record.spikes) == set(trace.spikes)
        assert [int(live) for live in record.live_steps.values()] == trace.live_steps
        for name, expected in trace.spikes.items():
            assert (record.spikes[name][:, 0].numpy() == expected).all(), name
            seen.rates.setdefault(name.split(".")[1], []).append(expected.mean())
        for membrane, expected in zip(record.membranes, trace.membranes, strict=True):
            assert (membrane[:, 0].double().numpy() == expected).all()
        for layer, state in enumerate(stream.state):
            expected = kept(golden, layer)
            assert (state[:, 0].double().numpy().reshape(expected.shape) == expected).all(), layer
            seen.at_limit += float((expected == limit).mean()) / tokens
        seen.actions.add(tuple(trace.action))
        seen.saturations += trace.saturations
    return seen


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31), name=st.sampled_from(sorted(GEOMETRIES)))
def test_equals_pytorch(seed: int, name: str) -> None:
    geometry = GEOMETRIES[name]
    compare(geometry, seed, tokens=min(geometry.context, 2 + geometry.reach) + 3)


@pytest.mark.parametrize("attention", DEPLOYED)
def test_equals_pytorch_at_full_size(attention: str) -> None:
    seen = compare(HOPPER_Z2.with_attention(attention), 1, tokens=26)
    assert all(0.01 < np.mean(rates) < 0.95 for rates in seen.rates.values())
    assert len(seen.actions) > 20


@pytest.mark.parametrize("name", GEOMETRIES)
def test_what_is_compared_is_not_constant(name: str) -> None:
    episodes = [compare(GEOMETRIES[name], seed, tokens=20) for seed in range(4)]
    for part in episodes[0].rates:
        assert 0.01 < np.mean([np.mean(seen.rates[part]) for seen in episodes]) < 0.95, part
    assert max(len(seen.actions) for seen in episodes) > 6
    assert sum(seen.saturations for seen in episodes) > 0
    if GEOMETRIES[name].attention == "lrf-dyn":
        assert 0 < np.mean([seen.at_limit for seen in episodes]) < 0.1


@pytest.mark.parametrize("name", GEOMETRIES)
def test_episodes_side_by_side_decide_as_alone(name: str) -> None:
    policy = random_policy(GEOMETRIES[name], 7)
    tokens = random_tokens(policy, 3 * 14, 0).reshape(14, 3, -1)
    together = GoldenNetwork(policy)
    traces = [together.decide(step) for step in tokens]
    clipped = 0
    for episode in range(3):
        alone = GoldenNetwork(policy)
        for step, trace in zip(tokens, traces, strict=True):
            own = alone.decide(step[episode])
            assert (own.action == trace.action[episode]).all()
            assert all((own.spikes[part] == spikes[:, episode]).all() for part, spikes in trace.spikes.items())
            assert all((a == b[:, episode]).all() for a, b in zip(own.membranes, trace.membranes, strict=True))
            assert own.active_rows == {part: rows[episode] for part, rows in trace.active_rows.items()}
            clipped += own.saturations
    assert clipped == sum(trace.saturations for trace in traces) > 0
    assert len({tuple(action) for trace in traces for action in trace.action}) > 10


@pytest.mark.parametrize("name", GEOMETRIES)
def test_consecutive_tokens_at_once_decide_as_one_by_one(name: str) -> None:
    policy = random_policy(GEOMETRIES[name], 8)
    tokens = random_tokens(policy, 23, 0)
    single, together = GoldenNetwork(policy), GoldenNetwork(policy)
    ones = [single.decide(token) for token in tokens]
    start = 0
    for end in (9, 10, 23):  # state goes over from one call to the next
        traces, whole = ones[start:end], together.decide_all(tokens[start:end])
        assert np.array_equal(whole.action, [trace.action for trace in traces])
        assert list(zip(*whole.signatures, strict=True)) == [tuple(trace.signatures) for trace in traces]
        assert whole.saturations == sum(trace.saturations for trace in traces)
        for index, trace in enumerate(traces):
            assert trace.active_rows == {part: rows[index] for part, rows in whole.active_rows.items()}
            assert all(np.array_equal(spikes, whole.spikes[part][:, index]) for part, spikes in trace.spikes.items())
            pairs = zip(trace.membranes, whole.membranes, strict=True)
            assert all(np.array_equal(alone, shared[:, index]) for alone, shared in pairs)
        start = end
    assert np.array_equal(single.decide(tokens[0]).action, together.decide(tokens[0]).action)
    assert len({tuple(trace.action) for trace in ones}) > 10


def test_clipped_dendrites_are_counted() -> None:
    # residual membranes too wide to saturate
    g = dataclasses.replace(TINY.with_attention("lrf-dyn"), membrane_bits=16)
    policy, clipped, counted = random_policy(g, 0), 0, 0
    policy.tensors["embed.shift"][:] = 15
    golden = GoldenNetwork(policy)
    for token in random_tokens(policy, 20, 0):
        before = [attention.x for attention in golden.attention]
        trace = golden.decide(token)
        counted += trace.saturations
        for layer, x in enumerate(before):
            at = f"layer{layer}"
            p = {
                n.split(".")[2]: t.astype(np.int64) for n, t in policy.tensors.items() if n.startswith(f"{at}.dynamics")
            }
            both = trace.spikes[f"{at}.key"] & trace.spikes[f"{at}.value"]
            clipped += np.count_nonzero(dendrites(x, both, p) != golden.attention[layer].x)
    assert counted == clipped > 0


@pytest.mark.parametrize("attention", DEPLOYED)
def test_episodes_that_go_on_alone_decide_as_before(attention: str) -> None:
    policy = random_policy(TINY.with_attention(attention), 5)
    tokens = random_tokens(policy, 3 * 12, 0).reshape(12, 3, -1)
    whole, shrinking, actions = GoldenNetwork(policy), GoldenNetwork(policy), set()
    for number, step in enumerate(tokens):
        if number == 6:
            shrinking.keep([2, 0])
        rows = [0, 1, 2] if number < 6 else [2, 0]
        expected, got = whole.decide(step).action[rows], shrinking.decide(step[rows]).action
        assert np.array_equal(got, expected)
        actions |= {tuple(action) for action in got}
    assert len(actions) > 10


def test_windows_give_what_the_stream_gives() -> None:
    policy = random_policy(TINY.with_attention("lrf-dyn"), 2)
    network = from_policy(policy)
    tokens = torch.from_numpy(random_tokens(policy, 2 * 30, 1).reshape(2, 30, -1))
    stream = network.stream(2)
    with torch.no_grad():
        whole = network(tokens)
    assert torch.equal(whole, torch.stack([stream.decide(tokens[:, n]) for n in range(30)], 1))
    assert len(whole.unique()) > 30


def test_wide_membranes_are_computed_in_double_precision() -> None:
    assert GUARDED.lif_bits > 24
    assert from_policy(random_policy(GUARDED, 0)).entry.dtype == torch.float64


@pytest.mark.parametrize("name", GEOMETRIES)
def test_tensors_survive_the_way_through_network_and_file(name: str, tmp_path) -> None:
    policy = random_policy(GEOMETRIES[name], 3)
    policy.save(tmp_path / "policy.safetensors")
    loaded = Policy.load(tmp_path / "policy.safetensors")
    assert (loaded.digest, loaded.geometry) == (policy.digest, policy.geometry)
    tensors = integer_tensors(from_policy(loaded))
    assert set(tensors) == set(policy.tensors)
    for part, tensor in tensors.items():
        assert np.array_equal(tensor, policy.tensors[part]), part


def test_an_artifact_says_whether_it_chooses_and_one_that_does_not_keeps_its_digest(tmp_path) -> None:
    silent = random_policy(TINY, 1)
    # as artifacts had it before there was such a record
    assert silent.digest == "b14f486c51353af9116c7a3bfdc1e84f8dac5eea21cb28785a56ae24356e8680"
    policies = [silent, *(dataclasses.replace(silent, discrete=discrete) for discrete in (False, True))]
    assert len({policy.digest for policy in policies}) == 3
    for policy, text in zip(policies, (None, "false", "true"), strict=True):
        policy.save(tmp_path / "policy.safetensors")
        with safe_open(tmp_path / "policy.safetensors", framework="numpy") as file:
            assert file.metadata().get("discrete") == text
        loaded = Policy.load(tmp_path / "policy.safetensors")
        assert (loaded.discrete, loaded.digest) == (policy.discrete, policy.digest)
    with pytest.raises(ArtifactError, match=r"^discrete must be true or false, not 1$"):
        dataclasses.replace(silent, discrete=1)


def test_no_policy_for_an_attention_without_integer_form() -> None:
    with pytest.raises(ArtifactError, match=r"^lrf-ssa has no integer form; choose pssa, sssa, tssa or lrf-dyn$"):
        random_policy(TINY.with_attention("lrf-ssa"), 0)


def test_a_smaller_environment_fits_a_geometry() -> None:
    policy = random_policy(TINY, 1, observation_size=4, action_size=1)
    golden, stream = GoldenNetwork(policy), from_policy(policy).stream()
    for token in random_tokens(policy, 5, 0):
        assert stream.decide(torch.from_numpy(token)[None]).item() * 2**15 == golden.decide(token).action.item()


@pytest.mark.parametrize("heads", [1, 13])
@pytest.mark.parametrize("joint", [False, True], ids=["by step", "joint"])
def test_matches_are_counted_one_by_one(joint: bool, heads: int) -> None:
    rng = np.random.default_rng(0)
    query, keys, values = rng.random((3, 13)) < 0.5, rng.random((4, 3, 13)) < 0.5, rng.random((4, 3, 13)) < 0.5
    current = match_sum(overlap(query, keys, joint, heads), values)
    assert len(np.unique(current)) > (8 if heads == 1 else 1)
    for t in range(3):
        for c in range(13):
            total = 0
            for token in range(4):
                for step in range(3) if joint else (t,):
                    for channel in range(13) if heads == 1 else (c,):
                        total += bool(query[step, channel] and keys[token, step, channel] and values[token, t, c])
            assert current[t, c] == total


def test_dendrites_by_hand() -> None:
    p = {
        "decay": np.array([[1, 2, 0]]),
        "upper": np.array([[3, -2]]),
        "lower": np.array([[0, 1]]),
        "gain": np.array([[5, -7, 9]]),
    }
    x = np.array([[[-9, 30, -3]]])
    assert shifted(np.array([-9, 9]), np.array([3, -3])).tolist() == [-3, -2]
    # -9 + 5 + (30 >> 2); 30 - 7 - (-3 >> 1); -3 + 3 + 30
    assert dendrites(x, np.array([[False]]), p).tolist() == [[[3, 25, 30]]]
    assert dendrites(x, np.array([[True]]), p).tolist() == [[[8, 18, 39]]]
    # (-9 >> 3) - (30 >> 4)
    assert readout(x, np.array([[2, -3, 0]]), 2).tolist() == [[-3]]
    assert saturate(np.array([-9, 30, 7]), 4)[1] == 2


@pytest.mark.parametrize(("attention", "heads"), [("sssa", 1), ("tssa", 1), ("sssa", 4), ("tssa", 4), ("lrf-dyn", 1)])
def test_the_proof_reaches_the_worst_current(attention: str, heads: int) -> None:
    g = dataclasses.replace(TINY.with_attention(attention), heads=heads)
    tensors = {name: tensor.astype(np.int64) for name, tensor in random_policy(g, 0).tensors.items()}
    least, most = attention_reach(g, tensors, "layer0")
    if attention == "lrf-dyn":
        top = 1 << (g.dendrite_bits - 1)
        code, local = tensors["layer0.dynamics.readout"], tensors["layer0.dynamics.local"] << g.local_shift
        worst = readout(np.where(code > 0, top - 1, -top), code, g.least_readout_shift) + np.maximum(local, 0).sum(1)
        other = readout(np.where(code > 0, -top, top - 1), code, g.least_readout_shift) + np.minimum(local, 0).sum(1)
        assert np.array_equal(other, least)
    else:
        ones = np.ones((g.steps, g.d_model), np.bool_)
        match = Match(g, {})
        worst = np.max([match.advance(ones, ones, ones)[0] for _ in range(g.window + 1)])
    assert np.array_equal(np.broadcast_to(worst, most.shape), most)
    assert 0 < prove(g, tensors)["accumulator"] <= g.accumulator_bits


def test_the_proof_reaches_the_worst_dendrite() -> None:
    g = TINY.with_attention("lrf-dyn")
    tensors = {name: tensor.astype(np.int64) for name, tensor in random_policy(g, 1).tensors.items()}
    p = {name.split(".")[2]: tensor for name, tensor in tensors.items() if name.startswith("layer0.dynamics")}
    least, most = dendrite_reach(g, tensors, "layer0")
    top, rng, greatest = 1 << (g.dendrite_bits - 1), np.random.default_rng(0), np.full(most.shape, -np.inf)
    for _ in range(2000):
        x = rng.choice([-top, top - 1], (g.d_model, g.dendrites))
        after = dendrites(x, rng.random(g.d_model) < 0.5, p)
        assert (after >= least).all()
        assert (after <= most).all()
        greatest = np.maximum(greatest, after)
    assert np.mean(greatest == most) > 0.9


@pytest.mark.parametrize(
    ("name", "part", "what"),
    [("gain", "layer1.dynamics", "sum of a dendrite"), ("local", "layer1.window", "accumulator")],
)
def test_what_overflows_in_attention_is_named(name: str, part: str, what: str) -> None:
    g = TINY.with_attention("lrf-dyn")
    tensors = {key: tensor.astype(np.int64) for key, tensor in random_policy(g, 0).tensors.items()}
    prove(g, tensors)
    tensors[f"layer1.dynamics.{name}"] += 1 << 18
    with pytest.raises(ExportError, match=f"^{part}: its {what} can reach .* bits; there are"):
        prove(g, tensors)


def test_wide_policies_reach_beyond_16_bits() -> None:
    policy = random_policy(WIDE, 100)
    network, most = GoldenNetwork(policy), 0
    for token in random_tokens(policy, 8, 0):
        spikes = network.decide(token).spikes["layer0.fc1"].astype(np.int64)
        most = max(most, int(np.abs(spikes @ policy.tensors["layer0.fc2.weight"].astype(np.int64).T).max()))
    assert most >= 1 << 16
    for name in ("fc1.bias", "key.threshold"):
        assert policy.tensors[f"layer0.{name}"].max() >= 1 << 15
    assert policy.tensors["layer0.fc2.bias"].min() < -(1 << 15)
