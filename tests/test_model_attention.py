# SPDX-License-Identifier: MIT
"""SSSA, TSSA, LRF-SSA and LRF-Dyn against their equations, written out as loops over tokens."""

import dataclasses

import pytest
import torch
from torch import Tensor

from model.deployed.geometry import Geometry
from model.deployed.presets import TINY
from model.network.attention import Attention, Rows
from model.network.dynamics import COUPLING, SLOWEST, Dendrites, Dynamics, multiply
from model.network.layers import Structure, attention
from model.network.match import Match
from model.network.neuron import lif

torch.set_num_threads(1)

MATCHES = ["sssa", "tssa", "lrf-ssa"]
DYNAMICS = [
    dataclasses.replace(TINY.with_attention("lrf-dyn"), dendrites=k, gate=gate)
    for k, gate in ((8, True), (8, False), (3, True), (2, True))
]
BATCH, LENGTH = 3, 19


def make(geometry: Geometry, seed: int = 0) -> Attention:
    torch.manual_seed(seed)
    # a head counts as many times less as there are heads
    matching = geometry.attention in MATCHES
    return attention(geometry, Structure(scale=0.125 * geometry.heads) if matching else Structure())


def spikes(geometry: Geometry, seed: int, rate: float = 0.3, length: int = LENGTH) -> list[Tensor]:
    """Return key, value and query of whole windows, [steps, batch, length, d]."""
    generator = torch.Generator().manual_seed(seed)
    shape = (geometry.steps, BATCH, length, geometry.d_model)
    return [(torch.rand(shape, generator=generator) < rate).float() for _ in range(3)]


def whole(module: Attention, key: Tensor, value: Tensor, query: Tensor) -> Tensor:
    rows = Rows(None, *key.shape[1:3])
    packed = [rows.pack(x) for x in (key, value, query)]
    return rows.spread(module(*_offered(module, packed), rows))


def streamed(module: Attention, key: Tensor, value: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    state, currents = module.begin(key.shape[1]), []
    for n in range(key.shape[2]):
        current, state = module.advance(*_offered(module, [x[:, :, n] for x in (key, value, query)]), state)
        currents.append(current)
    return torch.stack(currents, 2), state


def _offered(module: Attention, kvq: list[Tensor]) -> list[Tensor | None]:
    return [*kvq[:2], kvq[2] if module.geometry.gate else None]


def looped_match(module: Match, key: Tensor, value: Tensor, query: Tensor) -> Tensor:
    """Return `scale sum_j (q_n . k_j) v_j` per head, and the taps on v, one pair of tokens at a time."""
    g, together = module.geometry, module.geometry.attention == "tssa"
    size = g.d_model // g.heads
    current = torch.zeros_like(key)
    for n in range(key.shape[2]):
        for j in range(max(0, n - g.window + 1), n + 1):
            for head in (slice(first, first + size) for first in range(0, g.d_model, size)):
                overlap = [(query[t, :, n, head] * key[t, :, j, head]).sum(-1) for t in range(g.steps)]
                for t in range(g.steps):
                    matches = sum(overlap) if together else overlap[t]
                    current[t, :, n, head] += module.scale * matches[:, None] * value[t, :, j, head]
        if g.attention == "lrf-ssa":
            add_local(current, value, module.local.weight, n)
    return current


def add_local(current: Tensor, value: Tensor, weight: Tensor, n: int) -> None:
    # two kernels of three, dilated by three and five, share the distance 0
    for i, distance in enumerate((0, 3, 5, 6, 10)):
        if n >= distance:
            current[:, :, n] += weight[:, i].detach() * value[:, :, n - distance]


def looped_dynamics(module: Dynamics, key: Tensor, value: Tensor, query: Tensor) -> Tensor:
    """Return the recurrence with a matrix written out per channel."""
    c = [x.detach() for x in module.dendrites.coefficients()]
    current = torch.zeros_like(key)
    for channel in range(key.shape[3]):
        decay, upper, lower, drive, readout = (x[channel] for x in c)
        matrix = torch.diag(decay) + torch.diag(upper, 1) + torch.diag(lower, -1)
        x = torch.zeros(*key.shape[:2], len(decay), dtype=key.dtype)
        for n in range(key.shape[2]):
            both = (key * value)[:, :, n, channel]
            x = x @ matrix.t() + both[..., None] * drive
            current[:, :, n, channel] = x @ readout
    for n in range(key.shape[2]):
        add_local(current, value, module.local.weight, n)
    return query * current if module.geometry.gate else current


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("name", MATCHES)
def test_matching_is_its_equation_and_streams_exactly(name: str, heads: int) -> None:
    geometry = dataclasses.replace(TINY.with_attention(name), heads=heads)
    module = make(geometry).requires_grad_(False)
    kvq = spikes(geometry, seed=1)
    parallel = whole(module, *kvq)
    torch.testing.assert_close(parallel, looped_match(module, *kvq), rtol=0, atol=0 if name != "lrf-ssa" else 1e-5)
    assert torch.equal(streamed(module, *kvq)[0], parallel)
    fired = lif(parallel, module.threshold).mean()
    assert 0.05 < fired < 0.95


def test_counts_are_exact_where_the_widest_geometry_spikes_all_the_time() -> None:
    geometry = Geometry(11, 3, d_model=256, layers=1, window=15, mlp_ratio=2, steps=8).with_attention("tssa")
    module = make(geometry)
    ones = torch.ones(8, 1, 20, 256)
    ones[0, 0, -1, 0] = 0
    # its query misses one match with each of 15 tokens
    assert whole(module, ones, ones, ones)[1, 0, -1, 1] == (8 * 256 - 1) * 15 / 8
    # one bit less would not hold it
    assert 2 ** (geometry.match_bits - 2) <= 8 * 256 * 15 < 2 ** (geometry.match_bits - 1)


@pytest.mark.parametrize("geometry", DYNAMICS, ids=lambda g: f"k{g.dendrites}-{'gated' if g.gate else 'ungated'}")
@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_fourier_form_is_the_recurrence(geometry: Geometry, kind: torch.dtype, tolerance: float) -> None:
    module = make(geometry).to(kind).requires_grad_(False)
    kvq = [x.to(kind) for x in spikes(geometry, seed=2, length=60)]
    parallel = whole(module, *kvq)
    recurrent, state = streamed(module, *kvq)
    torch.testing.assert_close(parallel, recurrent, rtol=0, atol=tolerance)
    torch.testing.assert_close(parallel, looped_dynamics(module, *kvq), rtol=0, atol=tolerance)
    # spikes may differ only where a membrane stands at the threshold, and here none does
    assert torch.equal(lif(parallel, module.threshold), lif(recurrent, module.threshold))
    assert 0.02 < lif(parallel, module.threshold).mean() < 0.95
    assert state.shape == (geometry.steps, BATCH, geometry.dendrites + 10, geometry.d_model)


@pytest.mark.parametrize("name", [*MATCHES, "lrf-dyn"])
def test_a_token_reaches_as_far_as_the_geometry_says_and_only_forward(name: str) -> None:
    geometry = TINY.with_attention(name)
    module = make(geometry).double().requires_grad_(False)
    key, value, query = (x.double() for x in spikes(geometry, seed=3))
    query = torch.ones_like(query)
    at = 4
    key[:, :, at], value[:, :, at] = 1, 0
    before = whole(module, key, value, query)
    value[:, :, at] = 1
    differs = [n for n in range(LENGTH) if (whole(module, key, value, query) - before)[:, :, n].abs().max() > 1e-9]
    window = range(at, at + geometry.window)
    local = [at + d for d in geometry.local_distances]
    expected = {"lrf-dyn": range(at, LENGTH), "lrf-ssa": sorted({*window, *local})}.get(name, window)
    assert differs == list(expected)
    assert geometry.unbounded or max(differs) == at + geometry.reach


@pytest.mark.parametrize("geometry", DYNAMICS[:2], ids=["gated", "ungated"])
def test_the_query_gates_where_the_geometry_says(geometry: Geometry) -> None:
    module = make(geometry).requires_grad_(False)
    key, value, query = spikes(geometry, seed=4)
    current = whole(module, key, value, query)
    assert bool((current[query == 0] == 0).all()) == geometry.gate
    assert (current[query == 1] != 0).any()


@pytest.mark.parametrize("name", MATCHES[:2])
def test_the_authors_scale_is_an_or_of_tokens_that_gives_no_gradient(name: str) -> None:
    geometry = TINY.with_attention(name)
    gradients = []
    for scale in (1.0, 0.125):
        module = attention(geometry, Structure(scale=scale))
        kvq = [x.requires_grad_() for x in spikes(geometry, seed=5)]
        current = whole(module, *kvq)
        fired = lif(current, module.threshold)
        if scale == 1.0:
            assert torch.equal(fired, (current > 0).float())
            assert 0.05 < fired.mean() < 0.95
        gradients.append([g.abs().max().item() for g in torch.autograd.grad(fired.sum(), kvq)])
    assert gradients[0] == [0, 0, 0]
    assert min(gradients[1]) > 0


@pytest.mark.parametrize("seed", range(4))
def test_dendrites_stay_bounded_whatever_is_learned(seed: int) -> None:
    torch.manual_seed(seed)
    geometry = dataclasses.replace(TINY.with_attention("lrf-dyn"), steps=1)
    dendrites = Dendrites(geometry, 0.6).requires_grad_(False)
    for parameter in (dendrites.shift, dendrites.upper, dendrites.lower):
        # far out, where every coupling is at its largest and leaks are at both ends
        parameter.copy_(20 * torch.randn(parameter.shape))
    dendrites.drive.copy_(torch.randn(dendrites.drive.shape))
    c = dendrites.coefficients()
    rows = c.decay.abs()
    rows[:, :-1] += c.upper.abs()
    rows[:, 1:] += c.lower.abs()
    assert rows.max() < 1
    bound = c.drive.abs().max() * 2**SLOWEST / (1 - 2 * COUPLING)
    x, driven = torch.zeros(8, geometry.d_model), c.drive.t()
    for _ in range(5000):
        x = multiply(c, x) + driven
        assert x.abs().max() <= bound
    assert x.abs().max() > 1


def test_time_constants_begin_spread_over_the_channels_and_couplings_skew() -> None:
    geometry = TINY.with_attention("lrf-dyn")
    c = make(geometry).dendrites.coefficients()
    leak = 1 - c.decay[:, 0]
    assert leak.max() / leak.min() > 8
    assert (c.upper > 0).all()
    torch.testing.assert_close(c.lower, -c.upper)
    assert (c.upper.diff(dim=1) > 0).all()


@pytest.mark.parametrize(
    ("name", "choice", "says"),
    [
        ("tssa", {"taps": "or"}, "taps goes with pssa alone: leave it at channel for tssa"),
        ("sssa", {"position": "absolute"}, "position goes with pssa alone"),
        ("lrf-dyn", {"heads": 4}, "heads goes with pssa alone"),
        ("sssa", {"tap_init": 0.3}, "tap_init goes with pssa, lrf-ssa, lrf-dyn alone"),
        ("pssa", {"scale": 0.5}, "scale goes with sssa, tssa, lrf-ssa alone"),
        ("lrf-dyn", {"scale": 0.5}, "scale goes with sssa, tssa, lrf-ssa alone"),
    ],
)
def test_choices_that_would_do_nothing_are_refused(name: str, choice: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Structure(**choice).require(TINY.with_attention(name))


@pytest.mark.parametrize("scale", [0.0, -0.125, 0.3, 2.0])
def test_a_scale_is_a_power_of_two(scale: float) -> None:
    with pytest.raises(ValueError, match="scale must be a power of two, at most 1"):
        Structure(scale=scale)
