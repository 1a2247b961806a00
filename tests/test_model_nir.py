# SPDX-License-Identifier: MIT
"""A NIR graph, read back and run by an interpreter that knows only NIR, spikes and acts as the golden network."""

import dataclasses
import sys
from pathlib import Path

import nir
import numpy as np
import pytest

from model import export
from model.deployed import zoo
from model.deployed.artifact import Policy
from model.deployed.geometry import ATTENTIONS, Geometry
from model.deployed.golden import GoldenNetwork
from model.deployed.presets import ODD, TINY
from model.deployed.random_policy import random_policy, random_tokens
from model.integer.nir_graph import DT, NirError, save, to_nir
from tests import nir_machine

POLICIES = Path(__file__).resolve().parent.parent / "model" / "policies"
TOKENS = 40


def signal(tokens: np.ndarray, steps: int) -> np.ndarray:
    """Return what the graph is given: each token for T steps, then a flushing step, for which it stays there."""
    held = np.repeat(tokens.astype(float), steps + 1, axis=0)
    flush = np.tile([0.0] * steps + [1.0], len(tokens))
    return np.column_stack([held, flush])


def per_token(output: np.ndarray, steps: int) -> np.ndarray:
    """Return a node's output [time, size] as [tokens, steps, size], flushing steps left out."""
    return output.reshape(-1, steps + 1, output.shape[1])[:, :steps]


def compare(policy: Policy, graph: nir.NIRGraph, tokens: np.ndarray, fires=np.greater) -> dict[str, float]:
    """Hold every spike and action of the graph to the golden network's; return each neuron layer's firing rate."""
    g, golden = policy.geometry, GoldenNetwork(policy)
    outputs = nir_machine.run(graph, signal(tokens, g.steps), graph.metadata["dt"], fires=fires)
    traces = [golden.decide(token) for token in tokens]
    names = list(traces[0].spikes)
    assert len(names) == 7 * g.layers
    # no layer of neurons is left out
    neurons = {name for name, node in graph.nodes.items() if isinstance(node, nir.LIF)}
    assert neurons == {name.replace(".", "_") for name in names}
    rates = {}
    for name in names:
        expected = np.array([trace.spikes[name] for trace in traces])
        np.testing.assert_array_equal(per_token(outputs[name.replace(".", "_")], g.steps), expected, err_msg=name)
        rates[name] = expected.mean()
    index = per_token(outputs["output"], g.steps)[:, -1]
    np.testing.assert_array_equal(index, np.rint(index))
    words = graph.nodes["output"].metadata["table"][index.astype(int)]
    np.testing.assert_array_equal(words, [trace.action for trace in traces])
    assert len(np.unique(words, axis=0)) > len(tokens) // 4
    return rates


def written(policy: Policy, folder: Path) -> nir.NIRGraph:
    save(to_nir(policy), folder / "policy.nir")
    return nir.read(folder / "policy.nir")


ONE_STEP = dataclasses.replace(TINY, steps=1, window=2, layers=1)
LONG = dataclasses.replace(TINY, steps=8, d_model=8, group=4, layers=1, weight_bits=8, window=8)


@pytest.mark.parametrize(
    ("geometry", "seed", "sizes"),
    [
        (TINY, 1, (11, 3)),
        (TINY, 2, (4, 2)),
        (ODD, 3, (5, 2)),
        (ODD, 4, (3, 1)),
        (ONE_STEP, 5, (11, 3)),
        (LONG, 6, (7, 3)),
    ],
    ids=["tiny", "tiny-small", "odd", "odd-small", "one-step", "eight-steps"],
)
def test_random_policies_spike_and_act_as_the_golden_network(
    geometry: Geometry, seed: int, sizes: tuple[int, int], tmp_path: Path
) -> None:
    policy = random_policy(geometry, seed, *sizes)
    tokens = random_tokens(policy, TOKENS, seed)
    rates = compare(policy, written(policy, tmp_path), tokens)
    assert sum(0 < rate < 1 for rate in rates.values()) >= len(rates) - 1


def of_window(name: str) -> bool:
    return Policy.load(zoo.find(name)).geometry.attention == "pssa"


@pytest.mark.parametrize("name", [name for name in zoo.shipped() if of_window(name)])
def test_shipped_policies_spike_and_act_as_the_golden_network(name: str, tmp_path: Path) -> None:
    policy = Policy.load(POLICIES / f"{name}.safetensors")
    rates = compare(policy, written(policy, tmp_path), random_tokens(policy, TOKENS, 0))
    assert all(0 < rate < 1 for rate in rates.values())


def test_thresholds_lie_between_membranes_so_that_at_least_fires_like_greater() -> None:
    policy = random_policy(TINY, 7)
    graph, tokens = to_nir(policy), random_tokens(policy, TOKENS, 7)
    compare(policy, graph, tokens, fires=np.greater_equal)
    quantum = DT * 4.0 ** -(TINY.steps - 1)
    for node in graph.nodes.values():
        if isinstance(node, nir.LIF):
            assert (np.mod(node.v_threshold / quantum, 1) == 0.5).all()


def test_what_nir_has_no_node_for_matters_and_is_where_the_page_says() -> None:
    policy = random_policy(ODD, 3)
    graph, tokens = to_nir(policy), random_tokens(policy, TOKENS, 3)
    noted = {name: set(node.metadata) for name, node in graph.nodes.items() if node.metadata and name != "input"}
    membranes = ["embed_membrane", *(f"layer{n}_{part}_membrane" for n in range(2) for part in ("proj", "fc2"))]
    assert noted == {name: {"clip"} for name in membranes} | {
        "embed": {"floor"},
        "head": {"floor", "clip"},
        "output": {"table"},
    }
    page = (POLICIES.parent.parent / "docs" / "nir.md").read_text()
    for facts in (graph.metadata, *(node.metadata for node in graph.nodes.values())):
        assert [key for key in facts if f"`{key}`" not in page] == []
    heeded, ignored = (
        nir_machine.run(graph, signal(tokens, ODD.steps), DT, extras=extras)["layer1_fc1"] for extras in (True, False)
    )
    assert (heeded != ignored).any()


def test_a_token_leaves_nothing_but_its_keys_and_values() -> None:
    """The flushing step empties every neuron: a window later, the same tokens give the same spikes."""
    policy = random_policy(TINY, 1)
    tokens = random_tokens(policy, TINY.context, 1)
    past = random_tokens(policy, 5, 2)
    graph = to_nir(policy)
    alone, after = (
        nir_machine.run(graph, signal(fed, TINY.steps), DT) for fed in (tokens, np.concatenate([past, tokens]))
    )
    for name in ("layer0_key", "layer1_fc1", "output"):
        last = [per_token(outputs[name], TINY.steps)[-1] for outputs in (alone, after)]
        np.testing.assert_array_equal(*last)


def test_the_file_says_what_it_is_of(tmp_path: Path) -> None:
    policy = Policy.load(POLICIES / "hopper-tiny.safetensors")
    graph = written(policy, tmp_path)
    facts = graph.metadata
    assert (facts["format"], facts["policy_digest"]) == ("spikeloop-nir-1", policy.digest)
    assert Geometry.from_json(facts["geometry"]) == policy.geometry
    assert (facts["environment"], facts["steps"], facts["dt"]) == ("Hopper-v5", 4, 0.75)
    seen = graph.nodes["input"].metadata
    for name in ("mean", "std", "scale"):
        np.testing.assert_array_equal(seen[name], getattr(policy, f"input_{name}"))
    assert (seen["bits"], seen["return_scale"], seen["target_return"]) == (8, 1000.0, 3600.0)


@pytest.mark.parametrize("attention", sorted(set(ATTENTIONS) - {"pssa", "lrf-ssa"}))
def test_an_attention_that_nir_cannot_express_is_named(attention: str) -> None:
    policy = random_policy(TINY.with_attention(attention), 1)
    with pytest.raises(NirError, match=rf"^NIR cannot express the attention {attention}: its .*; export a policy with"):
        to_nir(policy)


# the command


def test_command_makes_a_graph_of_an_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "tiny.nir"
    assert export.main(["hopper-tiny", "--nir", str(out)]) == 0
    policy = Policy.load(POLICIES / "hopper-tiny.safetensors")
    assert nir.read(out).metadata["policy_digest"] == policy.digest
    assert f"{out}: {out.stat().st_size} bytes, digest {policy.digest[:16]}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "nothing to write: give --out for an artifact, --nir for a NIR graph, or both"),
        (["--out", "copy.safetensors"], "hopper-tiny.safetensors is an artifact already: only --nir can be made of it"),
        (["--nir", "a.nir", "--scores", "a.json"], "is an artifact already"),
    ],
)
def test_options_that_make_no_sense(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        export.main([str(POLICIES / "hopper-tiny.safetensors"), *arguments])
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_missing_package_is_one_sentence_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "nir", None)
    assert export.main([str(POLICIES / "hopper-tiny.safetensors"), "--nir", str(tmp_path / "new" / "tiny.nir")]) == 2
    assert capsys.readouterr().err == "error: the Python package nir is missing; `pip install '.[nir]'`\n"
    assert list(tmp_path.iterdir()) == []


def test_a_refused_attention_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random_policy(TINY.with_attention("tssa"), 1).save(tmp_path / "tssa.safetensors")
    assert export.main([str(tmp_path / "tssa.safetensors"), "--nir", str(tmp_path / "tssa.nir")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: NIR cannot express the attention tssa: ")
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["tssa.safetensors"]
