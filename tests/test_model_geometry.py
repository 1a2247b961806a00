# SPDX-License-Identifier: MIT
"""The geometry's attention: what goes together, what identifies it, what it keeps; and the command that prints that."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from model import state
from model.deployed.geometry import ATTENTIONS, Geometry, GeometryError
from model.deployed.presets import HOPPER_Z2, ODD, PRESETS, TINY
from model.network.layers import Structure, attention

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent


def test_geometries_without_dendrites_are_identified_as_before_there_were_any() -> None:
    # circuits and policies out in the world carry these
    digests = {name: geometry.digest[:8] for name, geometry in PRESETS.items()}
    assert digests == {
        **{"TINY": "9606cadc", "ODD": "900f8202", "HOPPER_Z2": "24025d3d", "CLASSIC": "296b2596"},
        **{
            "HOPPER_Z2_LEAN": "bdb4769c",
            "HOPPER_Z2_SSSA": "4be4a782",
            "HOPPER_Z2_TSSA": "1cf392af",
            "HOPPER_Z2_LRF": "3dc6a1cc",
            "HOPPER_Z2_SHALLOW": "41fb9f78",
            "HOPPER_Z2_PLASTIC": "0f485cad",
        },
        **{"WIDE": "5e629e4e", "Z2_256": "d705084a", "ZCU104_256": "8f97204d"},
    }
    old = json.loads(HOPPER_Z2.to_json())
    assert "dendrites" not in old
    assert "gate" not in old
    assert Geometry.from_json(json.dumps(old | {"dendrites": 8, "gate": True})) == HOPPER_Z2


@pytest.mark.parametrize("name", ATTENTIONS)
def test_every_attention_survives_its_json(name: str) -> None:
    geometry = ODD.with_attention(name)
    if name == "lrf-dyn":
        geometry = dataclasses.replace(geometry, dendrites=5, gate=False)
    assert Geometry.from_json(geometry.to_json()) == geometry
    assert len({ODD.with_attention(other).digest for other in ATTENTIONS}) == len(ATTENTIONS)


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"attention": "ssa"}, "attention must be one of pssa, sssa, tssa, lrf-ssa, lrf-dyn, not 'ssa'"),
        (
            {"weight_bits": 8, "mlp_ratio": 5000},
            "8-bit weights needs 25 accumulator bits; at most 24",
        ),
        ({"dendrites": 4}, "dendrites goes with lrf-dyn alone: leave it at 8 for pssa"),
        ({"attention": "tssa", "gate": False}, "gate goes with lrf-dyn alone: leave it at True for tssa"),
        ({"attention": "lrf-dyn", "window": 4}, "lrf-dyn has no window: leave window at 8, not 4"),
        ({"attention": "lrf-dyn", "window": 8, "dendrites": 33}, "dendrites must be 2 to 32, not 33"),
        ({"attention": "lrf-dyn", "window": 8, "gate": 1}, "gate must be true or false, not 1"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(choices: dict, says: str) -> None:
    with pytest.raises(GeometryError, match=says):
        dataclasses.replace(TINY, **choices)


def test_local_taps_are_two_causal_kernels_of_three() -> None:
    assert HOPPER_Z2.local_distances == ()
    for name in ("lrf-ssa", "lrf-dyn"):
        assert HOPPER_Z2.with_attention(name).local_distances == (0, 3, 5, 6, 10)


def test_reach_and_context_follow_the_window_and_the_taps() -> None:
    reach = {name: HOPPER_Z2.with_attention(name).reach for name in ATTENTIONS}
    assert reach == {"pssa": 7, "sssa": 7, "tssa": 7, "lrf-ssa": 10, "lrf-dyn": 10}
    assert dataclasses.replace(HOPPER_Z2, window=16).with_attention("lrf-ssa").reach == 15
    assert HOPPER_Z2.with_attention("lrf-dyn").context == 31
    assert [name for name in ATTENTIONS if HOPPER_Z2.with_attention(name).unbounded] == ["lrf-dyn"]


def test_ungated_dynamics_need_no_query() -> None:
    gated = HOPPER_Z2.with_attention("lrf-dyn")
    ungated = dataclasses.replace(gated, gate=False)
    assert (gated.projections, ungated.projections) == (("key", "value", "query"), ("key", "value"))
    assert gated.rows_per_layer - ungated.rows_per_layer == 128
    assert gated.passes_per_layer - ungated.passes_per_layer == 1


@pytest.mark.parametrize("window", [3, 14])
@pytest.mark.parametrize("name", ["pssa", "sssa", "tssa", "lrf-ssa"])
def test_state_bits_are_the_spikes_that_a_later_token_reads(name: str, window: int) -> None:
    geometry = Geometry(5, 2, d_model=4, layers=1, steps=2, window=window, group=4).with_attention(name)
    torch.manual_seed(0)
    module = attention(geometry, Structure()).requires_grad_(False)
    ones = torch.ones(geometry.steps, 1, geometry.d_model)

    def later(state: torch.Tensor) -> torch.Tensor:
        currents = []
        for _ in range(15):
            current, state = module.advance(ones, ones, ones, state)
            currents.append(current)
        return torch.stack(currents)

    full = torch.ones_like(module.begin(1))
    undisturbed, read = later(full), 0
    for index in range(full.numel()):
        changed = full.clone()
        changed.view(-1)[index] = 0
        read += not torch.equal(later(changed), undisturbed)
    assert geometry.state_bits == read > 0


@pytest.mark.parametrize("dendrites", [2, 8])
def test_state_bits_of_dynamics_are_its_dendrites_and_past_values(dendrites: int) -> None:
    geometry = dataclasses.replace(TINY.with_attention("lrf-dyn"), dendrites=dendrites)
    shape = attention(geometry, Structure()).begin(1).shape
    assert shape == (geometry.steps, 1, dendrites + 10, geometry.d_model)
    assert geometry.state_bits == geometry.steps * geometry.d_model * (dendrites * geometry.dendrite_bits + 10)


def test_state_table_is_printed_and_written(tmp_path, capsys) -> None:
    path = tmp_path / "state.json"
    assert state.main(["--json", str(path)]) == 0
    text = capsys.readouterr().out
    found = json.loads(path.read_text())
    bits = {row["form"]: row["bits_per_layer"] for row in found["forms"]}
    assert list(tmp_path.iterdir()) == [path]
    # by hand, for T 4, d 128, S 8, k 8: sums of 10 bits, 19 past tokens of 2 words, 7 and 10 past words of 512 bits
    assert bits["SSSA, SSA: the papers', causal sum"] == 4 * 128 * 128 * 10
    assert bits["SSSA, TSSA: the papers', 20 tokens"] == 19 * 2 * 512
    assert bits["LRF-Dyn: the paper's, in single precision"] == 8 * 32 * 512 + 10 * 512
    assert bits["pssa, S 8: ours"] == 7 * 512
    assert bits["tssa, S 8: ours"] == 14 * 512
    assert bits["lrf-ssa, S 8: ours"] == 17 * 512
    assert bits["lrf-dyn: ours"] == 8 * 16 * 512 + 10 * 512
    assert all(f"{number:,}" in text for number in bits.values())


def test_documentation_shows_the_table_that_is_printed(capsys) -> None:
    assert state.main([]) == 0
    assert capsys.readouterr().out.strip() in (ROOT / "docs" / "attention.md").read_text()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--geometry", "HUGE"], "the presets are TINY, ODD, HOPPER_Z2"),
        (["--d-model", "100"], "multiple of group"),
        (["--dendrites", "40"], "dendrites must be 2 to 32"),
        (["--json", "/dev/null/state.json"], "/dev/null/state.json cannot be written"),
    ],
)
def test_bad_sizes_and_files_are_one_sentence(options, says, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert state.main(options) == 2
    caught = capsys.readouterr()
    assert says in caught.err
    assert caught.err.count("\n") == 1
    assert caught.out == ""
    assert list(tmp_path.iterdir()) == []
