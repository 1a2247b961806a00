# SPDX-License-Identifier: MIT
"""Several heads of SSSA and TSSA: the paper's equation written out, in golden, in PyTorch and in the geometry."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.deployed.geometry import Geometry, GeometryError
from model.deployed.golden_attention import Match as GoldenMatch
from model.deployed.presets import HOPPER_Z2, ODD, TINY
from model.deployed.random_policy import random_policy
from model.integer.fold import quantise
from model.integer.proof import ExportError, prove
from model.network.attention import Rows
from model.network.layers import Structure, attention, float_network

torch.set_num_threads(1)

TOKENS = 7
CASES = [
    (dataclasses.replace(base.with_attention(name), heads=heads), 10 * heads + number)
    for number, (base, name) in enumerate((b, n) for b in (TINY, ODD) for n in ("sssa", "tssa"))
    for heads in ((1, 2, 8, 16) if base is TINY else (1, 4, 5, 20))
]
every_case = pytest.mark.parametrize(
    ("geometry", "seed"), CASES, ids=[f"{g.attention} of {g.d_model}, {g.heads} heads" for g, _ in CASES]
)


def spikes(geometry: Geometry, seed: int) -> list[NDArray[np.bool_]]:
    """Return keys, values and queries [tokens, steps, channels]."""
    rng = np.random.default_rng(seed)
    return [rng.random((TOKENS, geometry.steps, geometry.d_model)) < rate for rate in (0.5, 0.4, 0.6)]


def written_out(geometry: Geometry, key, value, query) -> NDArray[np.int64]:
    """Return `Y = tril(Q K^T) V` of each head within the window, one product of three spikes at a time."""
    g, result = geometry, np.zeros(key.shape, np.int64)
    size = g.d_model // g.heads
    for n, t, channel in np.ndindex(key.shape):
        first = channel // size * size
        for j in range(max(0, n - g.window + 1), n + 1):
            if value[j, t, channel]:
                for step in range(g.steps) if g.attention == "tssa" else (t,):
                    for other in range(first, first + size):
                        result[n, t, channel] += int(query[n, step, other] and key[j, step, other])
    return result


@every_case
def test_golden_and_pytorch_compute_the_equation_of_each_head(geometry: Geometry, seed: int) -> None:
    kvq = spikes(geometry, seed)
    expected = written_out(geometry, *kvq)
    assert len(np.unique(expected)) > 3

    golden = GoldenMatch(geometry, {})
    assert np.array_equal(np.stack([golden.advance(*token)[0] for token in zip(*kvq, strict=True)]), expected)

    module = attention(geometry, Structure(scale=1.0))
    packed = [torch.from_numpy(x).float().transpose(0, 1).contiguous() for x in kvq]
    whole = module(*packed, Rows(None, 1, TOKENS)).transpose(0, 1)
    assert np.array_equal(whole.numpy(), expected)
    state = module.begin(1)
    for n in range(TOKENS):
        current, state = module.advance(*(x[:, n : n + 1] for x in packed), state)
        assert np.array_equal(current[:, 0].numpy(), expected[n])


@pytest.mark.parametrize("name", ["sssa", "tssa", "lrf-ssa"])
def test_a_head_hears_no_spike_of_another(name: str) -> None:
    geometry = dataclasses.replace(TINY.with_attention(name), heads=4)
    torch.manual_seed(0)
    module = attention(geometry, Structure(scale=0.25))
    kvq = [(torch.rand(4, 3 * 9, 16) < 0.4).float() for _ in range(3)]
    before = module(*kvq, Rows(None, 3, 9))
    for x in kvq:
        x[..., 4:8] = 1 - x[..., 4:8]
    after = module(*kvq, Rows(None, 3, 9))
    changed = [not torch.equal(a, b) for a, b in zip(before.split(4, -1), after.split(4, -1), strict=True)]
    assert changed == [False, True, False, False]


@pytest.mark.parametrize("name", ["sssa", "tssa"])
def test_gradients_are_those_of_one_head_on_its_channels(name: str) -> None:
    several = dataclasses.replace(TINY.with_attention(name), heads=2)
    alone = dataclasses.replace(TINY.with_attention(name), d_model=8)
    torch.manual_seed(1)
    kvq = [(torch.rand(4, 2 * 9, 16) < 0.4).float().requires_grad_() for _ in range(3)]
    upstream = torch.randn(4, 2 * 9, 16)
    got = torch.autograd.grad(attention(several, Structure())(*kvq, Rows(None, 2, 9)), kvq, upstream)
    for half in (slice(0, 8), slice(8, 16)):
        parts = [x.detach()[..., half].requires_grad_() for x in kvq]
        current = attention(alone, Structure())(*parts, Rows(None, 2, 9))
        for one, other in zip(got, torch.autograd.grad(current, parts, upstream[..., half]), strict=True):
            assert other.abs().max() > 0.1
            torch.testing.assert_close(one[..., half], other)


def test_one_head_is_identified_as_before_there_were_several() -> None:
    # policies out in the world carry these
    one = {name: HOPPER_Z2.with_attention(name) for name in ("sssa", "tssa", "lrf-ssa")}
    digests = {name: geometry.digest[:8] for name, geometry in one.items()}
    assert digests == {"sssa": "4be4a782", "tssa": "1cf392af", "lrf-ssa": "fae905b5"}
    for geometry in (HOPPER_Z2, *one.values()):
        assert "heads" not in json.loads(geometry.to_json())
    four = dataclasses.replace(one["tssa"], heads=4)
    assert four.digest != one["tssa"].digest
    assert Geometry.from_json(four.to_json()) == four
    assert four.differences(one["tssa"]) == ["heads: 4, 1"]


def test_another_attention_keeps_the_heads_it_has_a_use_for() -> None:
    four = dataclasses.replace(TINY.with_attention("sssa"), heads=4)
    assert [four.with_attention(name).heads for name in ("tssa", "lrf-ssa", "pssa", "lrf-dyn")] == [4, 4, 1, 1]


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"heads": 4}, "heads goes with sssa, tssa, lrf-ssa alone, or a phase or routing: leave it at 1 for pssa"),
        ({"attention": "lrf-dyn", "window": 8, "heads": 2}, "heads goes with sssa, tssa, lrf-ssa alone"),
        ({"attention": "tssa", "heads": 3}, "d_model 16 cannot be shared among 3 heads; choose a divisor"),
        ({"attention": "tssa", "heads": 32}, "d_model 16 cannot be shared among 32 heads; choose a divisor"),
        ({"attention": "sssa", "heads": 0}, "heads must be a positive integer, not 0"),
        ({"attention": "sssa", "heads": 2.0}, "heads must be a positive integer, not 2.0"),
    ],
)
def test_heads_that_cannot_be_are_refused(choices: dict, says: str) -> None:
    with pytest.raises(GeometryError, match=f"^{says}"):
        dataclasses.replace(TINY, **choices)


@pytest.mark.parametrize("heads", [1, 2, 8, 128])
@pytest.mark.parametrize("name", ["sssa", "tssa"])
def test_widths_are_those_of_a_head_s_count_and_the_state_is_the_same(name: str, heads: int) -> None:
    one = HOPPER_Z2.with_attention(name)
    geometry = dataclasses.replace(one, heads=heads)
    most = 8 * 128 // heads * (4 if name == "tssa" else 1)
    assert 2 ** (geometry.match_bits - 2) <= most < 2 ** (geometry.match_bits - 1)
    assert geometry.state_bits == one.state_bits
    assert attention(geometry, Structure()).begin(2).shape == (4, 2, 7, 2, 128)


def test_heads_make_room_for_what_one_head_has_none() -> None:
    wide = Geometry(11, 3, d_model=256, layers=1, window=32, mlp_ratio=2).with_attention("sssa")
    with pytest.raises(GeometryError, match=r"needs 17 accumulator bits, at most 16: .* or take more heads"):
        wide.with_attention("tssa")
    assert dataclasses.replace(wide, heads=2).with_attention("tssa").match_bits == 16


@pytest.mark.parametrize("name", ["sssa", "tssa"])
def test_the_proof_knows_the_heads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # an accumulator that is as wide as one head's count, and nothing else needs as much
    g = dataclasses.replace(TINY.with_attention(name), heads=2, window=64, mlp_ratio=1)
    tensors = {part: tensor.astype(np.int64) for part, tensor in random_policy(g, 0).tensors.items()}
    bits = (64 * 8 * (4 if name == "tssa" else 1)).bit_length() + 1
    assert prove(g, tensors)["accumulator"] == g.accumulator_bits == bits
    monkeypatch.setattr(Geometry, "attention_bits", property(lambda _: bits - 1))
    with pytest.raises(ExportError, match=r"^layer0.window: its accumulator can reach 0\.\."):
        prove(g, tensors)


@pytest.mark.parametrize("name", ["sssa", "tssa"])
def test_folding_keeps_heads_and_currents(name: str) -> None:
    geometry = dataclasses.replace(TINY.with_attention(name), heads=4)
    torch.manual_seed(2)
    network = float_network(geometry, 15, 3, Structure(scale=0.25)).eval()
    folded = quantise(network, torch.full((15,), 32.0), 8).blocks[0].attention
    kvq = [(torch.rand(4, 2 * 9, 16) < 0.5).float() for _ in range(3)]
    real, integer = (module(*kvq, Rows(None, 2, 9)) for module in (network.blocks[0].attention, folded))
    assert torch.equal(integer, 4 * real)
    assert torch.equal(folded.threshold, torch.full((16,), 2.0))
    assert len(integer.unique()) > 4
