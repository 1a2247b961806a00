# SPDX-License-Identifier: MIT
"""Sparse matching: the pattern written out token by token, the stream that skips, and what does not go together."""

import copy
import dataclasses
import json

import pytest
import torch
from torch import Tensor

from model.deployed.geometry import Geometry
from model.deployed.presets import TINY
from model.network.attention import Rows
from model.network.layers import Structure, attention, float_network
from model.network.match import Match
from model.network.network import Record
from model.network.sparse import BlockMatch, HashMatch
from model.training import memory
from model.training.config import ConfigError, TrainConfig

torch.set_num_threads(1)

BATCH, LENGTH = 2, 45
STRUCTURES = {
    "block 4": Structure(scale=0.125, sparsity="block", block=4),
    "block 5": Structure(scale=0.125, sparsity="block", block=5),
    "block 2": Structure(scale=0.125, sparsity="block", block=2),
    "block 11": Structure(scale=0.125, sparsity="block", block=11),
    "lsh 3": Structure(scale=0.125, sparsity="lsh", block=3, hash_bits=2, hash_rounds=2, hash_seed=7),
    "lsh 2": Structure(scale=0.125, sparsity="lsh", block=2, hash_bits=1, hash_rounds=3, hash_seed=8),
    "lsh 6": Structure(scale=0.125, sparsity="lsh", block=6, hash_bits=4, hash_rounds=1, hash_seed=9),
}
every_structure = pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
every_attention = pytest.mark.parametrize("name", ["sssa", "tssa"])


def geometry_of(name: str, window: int = 21, heads: int = 2) -> Geometry:
    return dataclasses.replace(TINY.with_attention(name), window=window, heads=heads)


def make(geometry: Geometry, structure: Structure) -> Match:
    return attention(geometry, structure).requires_grad_(False)


def spikes(geometry: Geometry, seed: int, length: int = LENGTH) -> list[Tensor]:
    """Return key, value and query [steps, batch, length, d]; some tokens have no key, some equal others."""
    generator = torch.Generator().manual_seed(seed)
    shape = (geometry.steps, BATCH, length, geometry.d_model)
    key, value, query = ((torch.rand(shape, generator=generator) < 0.2).float() for _ in range(3))
    key *= torch.rand(BATCH, length, generator=generator)[None, :, :, None] < 0.8
    again = torch.randint(length, (length // 2,), generator=generator)
    key[:, :, again] = query[:, :, again.flip(0)]
    return [key, value, query]


def whole(module: Match, kvq: list[Tensor]) -> Tensor:
    rows = Rows(None, BATCH, kvq[0].shape[2])
    return rows.spread(module(*(rows.pack(x) for x in kvq), rows))


def streamed(module: Match, kvq: list[Tensor]) -> tuple[Tensor, list[int]]:
    """Return the currents, and how many tokens were gathered at each."""
    state, currents, tokens = module.begin(BATCH), [], []
    for key, value, query in zip(*(x.unbind(2) for x in kvq), strict=True):
        # a state is changed in place, and so does not stand for two
        tokens.append(module.look(key, value, query, copy.deepcopy(state))[0].shape[2])
        current, state = module.advance(key, value, query, state)
        currents.append(current)
    return torch.stack(currents, 2), tokens


def looked_at(structure: Structure, geometry: Geometry, kvq: list[Tensor], episode: int, n: int) -> set[int]:
    """Say in words and sets what docs/attention.md says: the tokens that token n of an episode looks at."""
    size, oldest = structure.block, max(0, n - geometry.window + 1)
    if structure.sparsity == "block":
        block = n // size
        two = {j for j in range(n + 1) if j // size in (block - 1, block)}
        ends = {j for j in range(n + 1) if j % size == size - 1}
        return {j for j in two | ends if j >= oldest}
    key, _, query = (x[:, episode].transpose(0, 1).flatten(1).tolist() for x in kvq)
    generator = torch.Generator().manual_seed(structure.hash_seed)
    hashes = structure.hash_rounds * structure.hash_bits
    drawn = torch.randint(2, (hashes, geometry.steps * geometry.d_model), generator=generator).tolist()

    def bucket(token: list[float], number: int) -> list[bool]:
        signs = drawn[number * structure.hash_bits : (number + 1) * structure.hash_bits]
        met = [[s for b, s in zip(token, sign, strict=True) if b] for sign in signs]
        return [each.count(1) > each.count(0) for each in met]

    found = set(range(max(0, n - size + 1), n + 1))
    for number in range(structure.hash_rounds):
        mine = bucket(query[n], number)
        older = [j for j in range(n - size + 1) if any(key[j]) and bucket(key[j], number) == mine]
        found |= set(older[-size:])
    return {j for j in found if j >= oldest}


@every_structure
@every_attention
def test_the_stream_that_skips_is_the_masked_matrix_and_both_are_the_pattern(name: str, structure: Structure) -> None:
    geometry = geometry_of(name)
    module, kvq = make(geometry, structure), spikes(geometry, seed=1)
    parallel = whole(module, kvq)
    current, gathered = streamed(module, kvq)
    assert torch.equal(current, parallel)
    key, value, query = kvq
    size, expected, looked = geometry.d_model // 2, torch.zeros_like(parallel), []
    for episode in range(BATCH):
        for n in range(LENGTH):
            chosen = looked_at(structure, geometry, kvq, episode, n)
            looked.append(len(chosen))
            for j in chosen:
                for head in (slice(0, size), slice(size, 2 * size)):
                    each = (query[:, episode, n, head] * key[:, episode, j, head]).sum(-1)
                    count = each.sum().expand(geometry.steps) if name == "tssa" else each
                    expected[:, episode, n, head] += 0.125 * count[:, None] * value[:, episode, j, head]
    assert torch.equal(parallel, expected)
    rows = Rows(None, BATCH, LENGTH)
    assert int(module.looked(key, query, rows).expand(BATCH, 1, -1, -1).sum()) == sum(looked)
    dense = whole(make(geometry, Structure(scale=0.125)), kvq)
    assert not torch.equal(parallel, dense)
    # what is gathered is bounded by the pattern, not by the window
    block = structure.block
    most = 2 * block - 1 + 1 + -(-21 // block) if structure.sparsity == "block" else (1 + structure.hash_rounds) * block
    assert max(gathered) <= most


@every_structure
def test_padding_in_front_changes_nothing(structure: Structure) -> None:
    geometry = geometry_of("sssa")
    module, kvq = make(geometry, structure), spikes(geometry, seed=2)
    expected = whole(module, kvq)
    pad = 7
    real = torch.ones(BATCH, LENGTH + pad, dtype=torch.bool)
    real[:, :pad] = False
    rows = Rows(real, BATCH, LENGTH + pad)
    padded = [torch.cat([torch.ones_like(x[:, :, :pad]), x], 2) for x in kvq]
    assert torch.equal(rows.spread(module(*(rows.pack(x) for x in padded), rows))[:, :, pad:], expected)
    # of windows that are padded unequally, what is padding in all of them is not computed
    real[0, : pad + 9] = False
    rows = Rows(real, BATCH, LENGTH + pad)
    assert (rows.trimmed.length, rows.length) == (LENGTH, LENGTH + pad)
    current = rows.spread(module(*(rows.pack(x) for x in padded), rows))
    assert torch.equal(current[:, 1, pad:], expected[:, 1])
    assert torch.equal(current[:, 0, pad + 9 :], whole(module, [x[:, :, 9:] for x in kvq])[:, 0])


def test_blocks_are_counted_from_a_first_token_that_is_there() -> None:
    geometry = geometry_of("sssa")
    module, kvq = make(geometry, STRUCTURES["block 4"]), spikes(geometry, seed=2)
    real = torch.ones(BATCH, LENGTH, dtype=torch.bool)
    real[0, 5] = False
    rows = Rows(real, BATCH, LENGTH)
    with pytest.raises(ValueError, match="counts tokens from the first of a window: leave out no token of it"):
        module(*(rows.pack(x) for x in kvq), rows)


@every_structure
def test_episodes_that_go_on_keep_what_is_theirs(structure: Structure) -> None:
    geometry = geometry_of("tssa")
    module, kvq = make(geometry, structure), spikes(geometry, seed=3)
    expected, state = whole(module, kvq), module.begin(BATCH)
    for n in range(LENGTH):
        chosen = [0, 1] if n < 30 else [1]
        if n == 30:
            state = state.index_select(1, torch.tensor(chosen))
        current, state = module.advance(*(x[:, chosen, n] for x in kvq), state)
        assert torch.equal(current, expected[:, chosen, n])


@pytest.mark.parametrize("block", [2, 3, 4, 16])
def test_two_layers_of_blocks_reach_every_token_of_the_window_and_one_does_not(block: int) -> None:
    geometry = geometry_of("sssa", window=40)
    module = make(geometry, Structure(sparsity="block", block=block))
    nothing, length = torch.zeros(4, 1, 120, 16), 120
    one = module.looked(nothing, nothing, Rows(None, 1, length))[0, 0].bool()
    two = (one.float() @ one.float()) > 0
    within = torch.ones(length, length).tril().triu(1 - 40).bool()
    assert bool((two | ~within).all())
    assert not bool((one | ~within).all())
    assert bool((~one | within).all())


def test_equal_spikes_share_their_buckets_and_distant_ones_seldom_do() -> None:
    geometry = geometry_of("sssa", heads=1)
    module = make(geometry, Structure(sparsity="lsh", block=4, hash_bits=6, hash_rounds=8))
    assert isinstance(module, HashMatch)
    key, _, query = spikes(geometry, seed=4)
    assert torch.equal(module.codes(key), module.codes(key.clone()))
    near = key.clone()
    near[0, :, :, 0] = 1 - near[0, :, :, 0]
    shares = [(module.codes(key) == module.codes(other)).float().mean() for other in (near, query)]
    assert shares[0] > 0.4 > 4 * shares[1]
    codes = module.codes(query)
    assert codes.min() >= 0
    assert codes.max() < 64
    assert len(codes.unique()) > 32


def test_signs_are_drawn_from_the_seed_and_kept_with_the_network() -> None:
    geometry = geometry_of("sssa")
    one, again, other = (make(geometry, Structure(sparsity="lsh", block=4, hash_seed=s)) for s in (3, 3, 4))
    assert torch.equal(one.state_dict()["signs"], again.state_dict()["signs"])
    assert not torch.equal(one.signs, other.signs)
    assert set(one.signs.unique().tolist()) == {-1.0, 1.0}


@every_structure
def test_a_network_streams_what_it_computes_over_whole_windows(structure: Structure) -> None:
    geometry = geometry_of("sssa", window=21)
    torch.manual_seed(5)
    network = float_network(geometry, 15, 3, structure)
    for block in network.blocks:
        torch.nn.init.normal_(block.kvq.linear.weight, std=1.5)
    torch.nn.init.normal_(network.embed.linear.weight)
    network.eval()
    tokens, record = torch.randn(2, 50, 15), Record()
    with torch.no_grad():
        expected = network(tokens, record=record)
    stream, shown = network.stream(2), Record()
    for n in range(50):
        actions = stream.decide(tokens[:, n], shown)
        assert torch.allclose(actions, expected[:, n], atol=1e-5)
        for at, fired in shown.spikes.items():
            assert torch.equal(fired, record.spikes[at].unflatten(1, (2, 50))[:, :, n])
    assert 0.02 < record.spikes["layer1.window"].mean() < 0.9


@every_structure
def test_gradients_are_those_of_the_pairs_that_are_looked_at(structure: Structure) -> None:
    geometry = geometry_of("sssa", heads=1)
    module = make(geometry, structure)
    kvq = [x.requires_grad_() for x in spikes(geometry, seed=6, length=33)]
    rows = Rows(None, BATCH, 33)
    current = module(*(rows.pack(x) for x in kvq), rows)
    upstream = torch.randn(current.shape, generator=torch.Generator().manual_seed(0))
    got = torch.autograd.grad(current, kvq, upstream)
    key, value, query = kvq
    mask = module.looked(key, query, rows)[:, 0].detach()
    written = 0.125 * torch.einsum("tbnd,tbjd,bnj,tbje->tbne", query, key, mask.expand(BATCH, -1, -1), value)
    for one, other in zip(got, torch.autograd.grad(rows.pack(written), kvq, upstream), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
        assert one.abs().max() > 0.1


def test_what_blocks_keep_grows_like_the_root_of_the_window() -> None:
    sizes = {}
    for window, block in ((64, 8), (256, 16)):
        geometry = geometry_of("sssa", window=window)
        blocks = make(geometry, Structure(sparsity="block", block=block))
        hashed = make(geometry, Structure(sparsity="lsh", block=block, hash_bits=3))
        assert isinstance(blocks, BlockMatch)
        assert isinstance(hashed, HashMatch)
        state = blocks.begin(1)
        assert state.spikes[0].numel() * 4 == blocks.state_bits
        assert hashed.begin(1).spikes[0, :, :-1].numel() * 4 == 2 * 4 * 16 * window < hashed.state_bits
        sizes[window] = blocks.state_bits
    assert sizes[256] == 2 * sizes[64]


SPARSE = Structure(sparsity="block", block=4)


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"sparsity": "banded"}, "sparsity must be one of dense, block, lsh, not 'banded'"),
        ({"block": 8}, "block goes with the sparsity block or lsh: leave it at 16"),
        ({"hash_bits": 3}, "hash_bits goes with the sparsity lsh: leave it at 4"),
        ({"sparsity": "block", "hash_rounds": 1}, "hash_rounds goes with the sparsity lsh: leave it at 2"),
        ({"sparsity": "block", "hash_seed": 1}, "hash_seed goes with the sparsity lsh: leave it at 0"),
        ({"sparsity": "block", "block": 0}, "block must be a whole number from 2 to 256, not 0"),
        ({"sparsity": "block", "block": 2.0}, "block must be a whole number from 2 to 256, not 2.0"),
        ({"sparsity": "lsh", "hash_bits": 13}, "hash_bits must be a whole number from 1 to 12, not 13"),
        ({"sparsity": "lsh", "hash_rounds": 9}, "hash_rounds must be a whole number from 1 to 8, not 9"),
        ({"sparsity": "lsh", "hash_seed": -1}, "hash_seed must be a whole number from 0 to 4294967295, not -1"),
    ],
)
def test_sparse_choices_that_do_not_go_together_are_refused(choices: dict, says: str) -> None:
    with pytest.raises(ValueError, match=f"^{says}"):
        Structure(**choices)


@pytest.mark.parametrize(
    ("geometry", "structure", "changes", "says"),
    [
        (TINY, SPARSE, {}, "structure.sparsity goes with sssa, tssa alone: leave it at dense for pssa"),
        (TINY.with_attention("lrf-ssa"), SPARSE, {}, "structure.sparsity goes with sssa, tssa alone"),
        (geometry_of("sssa"), SPARSE, {"quant_steps": 5}, "the sparsity block has no integer form; set quant_steps"),
        (geometry_of("sssa"), SPARSE, {"inference": "recompute"}, "the sparsity block counts blocks from an episode's"),
        (geometry_of("sssa", 4), SPARSE, {}, "structure.block 4 leaves out no token of a window of 4: lower it"),
        (
            dataclasses.replace(geometry_of("sssa"), layers=1),
            SPARSE,
            {},
            "structure.sparsity block reaches the tokens within a block through its last one, which takes 2 layers",
        ),
    ],
)
def test_trainings_that_cannot_be_sparse_are_refused(geometry, structure, changes, says) -> None:
    with pytest.raises(ConfigError, match=f"^{says}"):
        TrainConfig(geometry=geometry, structure=structure, **{"length": 64, "quant_steps": 0} | changes)


def test_a_window_beyond_the_accumulators_is_refused() -> None:
    from model.deployed.geometry import GeometryError

    with pytest.raises(GeometryError, match="sssa over 100000 tokens needs 22 accumulator bits, at most 16: lower"):
        geometry_of("sssa", window=100_000, heads=1)


def test_configurations_keep_their_digests_and_sparse_ones_survive() -> None:
    dense = TrainConfig(geometry=TINY, length=16)
    assert not {"sparsity", "block", "hash_bits"} & set(json.loads(dense.to_json())["structure"])
    assert TrainConfig.from_json(dense.to_json()) == dense
    for structure in STRUCTURES.values():
        sparse = TrainConfig(geometry=geometry_of("sssa"), structure=structure, length=64, quant_steps=0)
        assert TrainConfig.from_json(sparse.to_json()) == sparse


# memory


def test_a_training_that_memory_cannot_hold_is_refused_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(geometry=geometry_of("sssa", heads=4), length=64, quant_steps=0, batch=8)
    # two layers, a count and a masked count of 4 bytes each: heads, steps and windows times tokens squared
    assert memory.match_bytes(config, 1000) == 2 * 2 * 4 * 4 * 4 * 8 * 64 * 64
    assert memory.match_bytes(config, 40) == 2 * 2 * 4 * 4 * 4 * 8 * 40 * 40
    joint = dataclasses.replace(config, geometry=geometry_of("tssa", heads=4))
    assert memory.match_bytes(joint, 1000) * 4 == memory.match_bytes(config, 1000)
    assert memory.match_bytes(TrainConfig(geometry=TINY, length=64), 1000) == 0
    memory.require_room(config, 1000)
    monkeypatch.setattr(memory, "physical", lambda: 2**22)
    with pytest.raises(
        ConfigError, match=r"^windows of 64 tokens keep 0\.0 GiB of matches, and this machine has 0\.0: low"
    ):
        memory.require_room(config, 1000)
