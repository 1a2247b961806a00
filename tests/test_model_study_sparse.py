# SPDX-License-Identifier: MIT
"""The studies of sparse matching: exact costs where the patterns give them, a small real training for the rest."""

import dataclasses
from pathlib import Path

import pytest
import torch

from model.data.tasks import find
from model.deployed.presets import TINY
from model.network.layers import Structure, attention
from model.studies import sparse, sparse_cost
from model.studies.runs import Bench
from model.training.checkpoint import Checkpoint
from tests import swing

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A budget of seconds on a data set whose actions are a function of its observations."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(swing.make_task(tmp_path / "library")))
    return Bench(swing.budget(), tmp_path / "runs", "test")


def test_costs_of_random_tokens_grow_as_the_patterns_say(monkeypatch: pytest.MonkeyPatch, bench: Bench):
    monkeypatch.setattr(sparse_cost, "TOKENS", (32, 128))
    monkeypatch.setattr(sparse_cost, "TIMED", 4)
    rows = sparse_cost.measure(bench)
    at = {(row["matching"], row["tokens"]): row for row in rows}
    assert list(at) == [(name, n) for name in ("dense", "block", "lsh") for n in (32, 128, "exponent")]
    assert at["dense", 32]["pairs"] == 32
    assert at["dense", 128]["operations"] > 3 * at["dense", 32]["operations"] > 300
    assert at["dense", "exponent"]["pairs"] == pytest.approx(1.0)
    assert at["dense", 128]["state_bits"] == 2 * 127 * 4 * 16
    # blocks of 2: 3 tokens of two blocks on average and an end for each block before; of 4: 6 and 30
    assert at["block", 32]["pairs"] == pytest.approx(3 - 0.5 + 15, abs=1)
    assert at["block", 128]["pairs"] == pytest.approx(6 + 30.5, abs=1)
    assert max(at["lsh", 128]["pairs"], at["block", 128]["pairs"]) <= 40
    assert at["block", 128]["operations"] < at["dense", 128]["operations"]
    assert at["block", "exponent"]["state_bits"] < 0.6 < 0.9 < at["lsh", "exponent"]["state_bits"]
    # a spike is a float of 4 bytes, and dense matching copies a layer's state
    state = TINY.layers * 2 * 127 * 4 * 16 * 4 / 1024
    assert at["dense", 128]["peak_kib"] > 1.5 * state > state > at["block", 128]["peak_kib"]
    assert at["lsh", 128]["peak_kib"] > state
    assert all(row["decision_us"] > row["attention_us"] > 0 for row in rows if row["tokens"] != "exponent")


def test_operations_are_spikes_that_meet_and_values_that_are_weighed():
    g = dataclasses.replace(TINY.with_attention("sssa"), heads=2, window=8)
    match = attention(g, Structure())
    key, value, query = torch.zeros(4, 1, 3, 16), torch.zeros(4, 1, 3, 16), torch.zeros(4, 1, 16)
    query[0, 0, :5] = 1  # head 0
    key[0, 0, 1, 3:7] = 1  # meets two of them
    key[1, 0, 2] = 1  # another step
    value[0, 0, 1, 6:12] = 1  # two values of head 0, four of head 1, which has no match
    value[0, 0, 2] = 1  # a token without a match
    assert sparse_cost.operations(match, key, value, query) == 2 + 2


def test_peak_is_what_is_held_at_a_time():
    def work():
        first = torch.zeros(1000)
        second = first + 1
        del first
        return second + 1

    assert 8000 <= sparse_cost.peak_bytes(work) < 9000


def test_exponents_are_those_of_power_laws():
    costs = {name: number / 4 for number, name in enumerate(sparse_cost.COSTS)}
    rows = [
        {"matching": "block", "tokens": n, "seed": 1} | {name: 3 * n**power for name, power in costs.items()}
        for n in (32, 64, 500)
    ]
    assert sparse_cost.fitted(rows, 1) == {"matching": "block", "tokens": "exponent", "seed": 1} | {
        name: pytest.approx(power) for name, power in costs.items()
    }


def test_sparse_study_trains_on_delayed_reward_and_compares_within_a_seed(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sparse, "OTHERWISE", 32)
    own = Bench(dataclasses.replace(bench.budget, steps=6), tmp_path, "test")
    rows = sparse.measure(own)
    assert [(row["matching"], row["tokens"]) for row in rows] == [("dense", 32), ("block", 32), ("lsh", 32)]
    assert rows[0]["relative_return"] == 1.0
    assert rows[2]["relative_return"] == rows[2]["return"] / rows[0]["return"]
    saved = [Checkpoint.load(path) for path in tmp_path.glob("*/float.pt")]
    assert {c.config.structure.sparsity for c in saved} == {"dense", "block", "lsh"}
    assert all(c.config.delayed and c.config.length == 63 for c in saved)
    # what is held out shows the whole return until the last step
    tokens, _ = own.held_out(saved[0], 8, 24)
    assert torch.equal(tokens[:, 0, -1], tokens[:, -1, -1])


def test_corridors_have_a_window_of_their_length():
    assert sparse.window_of(find("key-to-door-128")) == 128
    assert sparse.window_of(find("hopper-medium")) == 64
    looked = [sparse.structure(name, 128) for name in ("dense", "block", "lsh")]
    assert [s.scale for s in looked] == [1 / 64, 1 / 32, 1 / 32]
    assert (looked[1].block, looked[2].block, looked[2].hash_bits) == (4, 8, 4)
