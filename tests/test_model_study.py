# SPDX-License-Identifier: MIT
"""Studies: exact answers where theory gives them, small real trainings for the rest, and the command around them."""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from model import study
from model.deployed.geometry import Geometry
from model.deployed.presets import TINY
from model.network.attention import Rows
from model.network.layers import Structure, attention, float_network
from model.network.network import Network, Record
from model.network.neuron import lif
from model.scores import evaluation
from model.studies import bits as bits_study
from model.studies import norms, position, streaming, window
from model.studies.entropy import independent, total_correlation
from model.studies.field import field, maps, mixture
from model.studies.runs import Bench, Run, relate, summed_up
from model.training.checkpoint import Checkpoint
from tests import swing

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")

SMALL = ["--task", swing.TASK, "--geometry", "TINY", "--batch", "8", "--seeds", "1", "--episodes", "1"]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set under the id of a task, its actions a function of its observations."""
    return swing.make_task(tmp_path_factory.mktemp("library"))


@pytest.fixture(autouse=True)
def _local_data(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(library))


@pytest.fixture(scope="module")
def bench(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Trainings are shared by the tests, as studies share them."""
    return Bench(swing.budget(), tmp_path_factory.mktemp("runs"), "test")


def lively(geometry: Geometry, structure: Structure | None = None) -> Network:
    """An untrained network that spikes everywhere, and whose spikes depend on the tokens."""
    torch.manual_seed(0)
    network = float_network(geometry, 15, 3, structure or Structure())
    torch.nn.init.normal_(network.embed.linear.weight)
    for block in network.blocks:
        for layer in (block.kvq, block.proj, block.fc1, block.fc2):
            torch.nn.init.normal_(layer.linear.weight, std=0.6)
    return network.eval()


@pytest.fixture
def rounded() -> Iterator[None]:
    """What a command sets, for training."""
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")


# entropy


def bits(*columns: list[int]) -> torch.Tensor:
    """Spikes [steps, tokens, 1] of one channel from a list per step."""
    return torch.tensor(columns, dtype=torch.float32)[..., None]


def test_steps_that_repeat_each_other_share_their_whole_entropy():
    found = total_correlation(bits([0, 1] * 500, [0, 1] * 500))
    correction = 1 / (2 * 1000 * math.log(2))
    assert found["joint_bits"] == pytest.approx(1 + correction)
    assert found["marginal_bits"] == pytest.approx(2 * (1 + correction))
    assert found["gap_bits"] == pytest.approx(1 + correction)
    assert (found["samples"], found["rate"]) == (1000, 0.5)


def test_steps_without_anything_in_common_have_no_gap():
    found = total_correlation(bits([0, 0, 1, 1] * 250, [0, 1, 0, 1] * 250))
    assert found["joint_bits"] == pytest.approx(2 + 3 / (2000 * math.log(2)))
    # what is left is correction: two marginals of two kinds against one joint of four
    assert found["gap_bits"] == pytest.approx(-1 / (2000 * math.log(2)))
    assert found["correction_bits"] == pytest.approx(found["gap_bits"])


def test_silence_has_no_entropy():
    found = total_correlation(torch.zeros(4, 10, 3))
    assert (found["joint_bits"], found["marginal_bits"], found["gap_share"]) == (0.0, 0.0, None)


def test_gap_is_the_mean_of_the_channels():
    both = torch.cat([bits([0, 1] * 500, [0, 1] * 500), bits([0, 1] * 500, [1] * 1000)], dim=2)
    correction = 1 / (2 * 1000 * math.log(2))
    assert total_correlation(both)["gap_bits"] == pytest.approx((1 + correction) / 2)


def test_shuffled_steps_keep_their_rates_and_lose_the_gap():
    spikes = (torch.rand(1, 4000, 6, generator=torch.Generator().manual_seed(1)) < 0.3).float().expand(4, -1, -1)
    apart = independent(spikes, torch.Generator().manual_seed(2))
    assert torch.equal(apart.sum(1), spikes.sum(1))
    assert total_correlation(spikes)["gap_bits"] > 2.5
    assert abs(total_correlation(apart)["gap_bits"]) < 2e-3


# position


def test_taps_of_one_are_an_or_gate():
    layer = attention(TINY, Structure(tap_floor=1.0, tap_init=1.0))
    generator = torch.Generator().manual_seed(3)
    k, v, q = (torch.rand(4, 20, 16, generator=generator).lt(0.4).float() for _ in range(3))
    fired = lif(layer(k, v, q, Rows(None, 2, 10)), layer.threshold).detach()
    both = (k * v).unflatten(1, (2, 10))
    expected = torch.zeros_like(both)
    for n in range(10):
        expected[:, :, n] = both[:, :, max(0, n - TINY.window + 1) : n + 1].amax(2)
    assert torch.equal(fired, (q.unflatten(1, (2, 10)) * expected).flatten(1, 2))
    assert 0.1 < fired.mean() < 0.5


def test_an_or_gate_changes_nothing_where_taps_are_one_and_much_where_not():
    tokens = torch.randn(8, 24, 15, generator=torch.Generator().manual_seed(4))
    ones = Structure(tap_floor=1.0, tap_init=1.0)
    assert position.changed_by_or(lively(TINY, ones), tokens) == 0.0
    assert position.changed_by_or(lively(TINY, Structure(tap_init=0.4)), tokens) > 0.2


@pytest.mark.parametrize(("value", "silent"), [(1.0, True), (1.1, True), (1.0 - 2.0**-24, False), (0.3, False)])
def test_window_and_what_is_before_it_get_no_gradient_from_one_on(value: float, silent: bool):
    generator = torch.Generator().manual_seed(5)
    tokens, actions = torch.randn(8, 24, 15, generator=generator), torch.randn(8, 24, 3, generator=generator)
    found = position.gradients(position.at_constant(lively(TINY), value), tokens, actions)
    assert (found["taps"] == 0.0, found["qkv"] == 0.0) == (silent, silent)
    assert found["rest"] > 0.0


def test_or_gate_has_no_taps_to_learn():
    tokens = torch.randn(2, 24, 15, generator=torch.Generator().manual_seed(6))
    assert position.gradients(lively(TINY, Structure(taps="or")), tokens, torch.zeros(2, 24, 3))["taps"] is None


def test_taps_that_start_at_one_stay_there_without_decay(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    kept = ("relative, channel", "relative, channel, P = 1, no decay")
    monkeypatch.setattr(position, "VARIANTS", {name: position.VARIANTS[name] for name in kept})
    rows = {row["variant"]: row for row in position.measure(bench)}
    learned, fixed = (rows[name] for name in kept)
    assert (fixed["moved"], fixed["taps"], fixed["qkv"], fixed["changed_by_or"]) == (0.0, 0.0, 0.0, 0.0)
    assert learned["moved"] > 0.3
    assert learned["taps"] > 0.0
    assert sum(fixed["histogram"]) == sum(learned["histogram"]) == 2 * 16 * TINY.window
    assert rows["P = 1"]["taps"] == 0.0 < rows["P = 0.4"]["taps"]


# field


def test_field_of_known_weights():
    even = field(np.ones((3, 9)))
    assert even["expected_distance"] == pytest.approx(4.0)
    assert even["entropy"] == pytest.approx(1.0)
    assert even["near"] == pytest.approx(6 / 9)
    single = field(np.eye(9)[[3]] * 7.0)
    assert (single["expected_distance"], single["entropy"], single["near"]) == (3.0, 0.0, 1.0)
    slope = field(np.arange(9.0, 0.0, -1)[None])
    assert slope["r2"] == pytest.approx(1.0)
    assert slope["expected_distance"] == pytest.approx(8 / 3)


def test_windows_without_weight_are_left_out_and_counted():
    found = field(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]]))
    assert (found["empty"], found["expected_distance"]) == (0.5, 2.0)
    assert field(np.zeros((4, 3)))["empty"] == 1.0


def test_mixture_finds_its_lambda():
    part, local = np.array([0.1, 0.2, 0.7]), np.array([0.9, 0.1, 0.0])
    share, residual = mixture(0.7 * part + 0.3 * local, part, local)
    assert share == pytest.approx(0.3)
    assert residual < 1e-12
    assert mixture(np.array([0.0, 1.0, 0.0]), part, local)[1] > 0.1


@pytest.mark.parametrize("form", ["sssa", "lrf-ssa"])
def test_maps_are_the_weights_that_the_attention_gives_values(form: str):
    g = dataclasses.replace(TINY, attention=form, window=24)
    network, tokens = lively(g), torch.randn(3, 24, 15, generator=torch.Generator().manual_seed(7))
    record = Record()
    with torch.no_grad():
        network(tokens, record=record)
    for layer, (match, local) in enumerate(maps(network, tokens)):
        query, key = record.spikes[f"layer{layer}.query"], record.spikes[f"layer{layer}.key"]
        with torch.no_grad():
            # with a value everywhere the current is the sum of the weights
            current = network.blocks[layer].attention(key, torch.ones_like(key), query, Rows(None, 3, 24))
        summed = current.unflatten(1, (3, 24))[:, :, -1].mean((0, 2))
        assert match.sum(1) + local.sum() == pytest.approx(summed.numpy(), rel=1e-5)
        assert match.sum() > 0
        assert (local.sum() > 0) == (form == "lrf-ssa")
        # and with a value at one distance only, the weight there
        at = torch.zeros(4, 3, 24, 16)
        at[:, :, 24 - 1 - 3] = 1.0
        with torch.no_grad():
            current = network.blocks[layer].attention(key, at.flatten(1, 2), query, Rows(None, 3, 24))
        there = current.unflatten(1, (3, 24))[:, :, -1].mean((0, 2))
        assert match[:, 3] + local[3] == pytest.approx(there.numpy(), rel=1e-5, abs=1e-7)


# streaming, bits, window, norms


@pytest.mark.usefixtures("rounded")
def test_streaming_and_recompute_part_below_the_context():
    network = lively(TINY)
    episodes = [torch.randn(40, 15, generator=torch.Generator().manual_seed(seed)) for seed in (8, 9)]
    context = TINY.context
    below, at = (streaming.differences(network, episodes, length) for length in (TINY.window, context))
    assert below["decisions"] == 80
    assert below["share_different"] > 0.0
    assert below["largest_difference"] > streaming.DIFFERENT
    assert at["share_different"] == 0.0
    assert at["largest_difference"] < 1e-5
    assert streaming.lengths(8, 22) == [8, 15, 20, 21, 22, 24]


def test_recompute_decides_early_tokens_from_what_there_is():
    network, tokens = lively(TINY), torch.randn(5, 15, generator=torch.Generator().manual_seed(10))
    with torch.no_grad():
        expected = network(tokens[None])[0]
    assert torch.allclose(streaming.recomputed(network, tokens, 24, batch=2), expected, atol=1e-6)


@pytest.mark.usefixtures("rounded")
def test_streaming_study_flies_both(bench: Bench):
    rows = streaming.measure(bench)
    streamed, again = rows[0], rows[-1]
    assert (streamed["inference"], again["tokens"]) == ("stream", TINY.context + 2)
    assert again["decisions"] == 200
    assert again["share_different"] == 0.0
    assert again["return"] == pytest.approx(streamed["return"], rel=1e-4)


def test_bits_start_from_one_float_network_and_fly_as_integers(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bits_study, "BITS", (2, 8))
    rows = bits_study.measure(bench)
    assert [row["weight_bits"] for row in rows] == [None, 2, 8]
    assert rows[1]["weight_kib"] * 4 == rows[2]["weight_kib"] == TINY.weight_rows * TINY.d_model / 1024
    quantised = list(bench.out.glob("*/quant.pt"))
    assert len(quantised) == 2
    origin = Checkpoint.load(bench.folder(bench.budget.config(0)) / "float.pt").network.state_dict()
    for path in quantised:
        start = Checkpoint.load(path.with_name("float.pt")).network.state_dict()
        assert all(torch.equal(origin[name], start[name]) for name in origin)
        width = Checkpoint.load(path).config.geometry.weight_bits
        flown = evaluation.evaluate(path, 1, 0, None)["mean_return"]
        assert flown == next(row["return"] for row in rows if row["weight_bits"] == width)


def test_every_spike_adds_a_row_and_every_gated_value_its_taps():
    network = lively(TINY)
    network.entry.fill_(-1e9)
    for block in network.blocks:
        for part in (block.kvq, block.fc1, block.attention.taps):
            part.threshold.fill_(-1e9)
    d, h = TINY.d_model, TINY.d_mlp
    full = TINY.layers * TINY.steps * (3 * d * d + d * d + d * h + h * d + d * TINY.window)
    assert window.accumulates(network, torch.zeros(2, 9, 15)) == full


def test_sweep_changes_one_size_at_a_time_on_windows_of_one_length(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(window, "WINDOWS", (16,))
    monkeypatch.setattr(window, "STEPS", (1,))
    rows = window.measure(bench)
    assert [(row["window"], row["steps"], row["context"]) for row in rows] == [(16, 4, 31), (4, 1, 7)]
    assert [row["length"] for row in rows] == [31, 31]
    assert rows[1]["ac_per_decision"] < rows[0]["ac_per_decision"]


def test_norms_learn_and_are_compared_within_a_seed(bench: Bench):
    rows = norms.compare(bench, norms.NORM_VARIANTS)
    assert [row["variant"] for row in rows] == ["PTBN", "PTRepBN", "tdBN only", "tdLN only"]
    assert all(row["curve"][-1][2] < row["curve"][0][2] for row in rows)
    assert rows[0]["relative_loss"] == 1.0
    assert rows[1]["relative_loss"] == rows[1]["validation_loss"] / rows[0]["validation_loss"]


def test_curve_is_the_last_phase_and_a_repeated_update_counts_once(bench: Bench, tmp_path: Path):
    lines = ["phase,step,loss,validation_loss", "float,300,9,9", "quant,100,3,4", "quant,200,2,3", "quant,100,3,5"]
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    run = Run(bench.budget.config(0, quant_steps=200), tmp_path)
    assert run.curve() == [(100, 3.0, 5.0), (200, 2.0, 3.0)]
    assert run.loss == 3.0


def test_rows_are_summed_up_over_what_is_no_key():
    rows = [{"a": 1, "x": 1.0}, {"a": 1, "x": 3.0}, {"a": 2, "x": None}]
    first, second = summed_up(rows, ("a",), ("x",))
    half = pytest.approx(12.706, rel=1e-3)  # Student's quantile of one degree of freedom, times sqrt(2 / 2)
    assert first == {"a": 1, "n": 2, "x": 2.0, "x_std": pytest.approx(math.sqrt(2)), "x_half": half}
    assert second == {"a": 2, "n": 1, "x": None, "x_std": None, "x_half": None}


def test_losses_relate_to_the_first_variant_of_their_seed():
    rows = [{"v": v, "seed": s, "validation_loss": x} for v, s, x in (("p", 0, 2.0), ("p", 1, 4.0), ("q", 1, 1.0))]
    relate(rows, "v")
    assert [row["relative_loss"] for row in rows] == [1.0, 1.0, 0.25]


# the command


def test_command_writes_result_and_figure_and_goes_on_where_it_stopped(tmp_path: Path, monkeypatch, capsys):
    call = ["schedule", *SMALL, "--steps", "20", "--out", str(tmp_path / "runs")]
    outputs = ["--json", str(tmp_path / "a.json"), "--png", str(tmp_path / "a.png")]
    original = study.Bench.score_all

    def stopped(self, runs):
        raise KeyboardInterrupt

    monkeypatch.setattr(study.Bench, "score_all", stopped)
    assert study.main([*call, *outputs]) == 130
    assert "same command again" in capsys.readouterr().err
    assert not (tmp_path / "a.json").exists()
    monkeypatch.setattr(study.Bench, "score_all", original)
    trained = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/float.pt")}
    assert len(trained) == len(norms.SCHEDULE_VARIANTS)
    assert study.main([*call, *outputs]) == 0
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
    result = json.loads((tmp_path / "a.json").read_text())
    assert (result["study"], result["budget"]["steps"], result["budget"]["seeds"]) == ("schedule", 20, 1)
    assert len(result["dataset_digest"]) == 64
    assert result["commit"]
    assert [row["variant"] for row in result["rows"]] == list(norms.SCHEDULE_VARIANTS)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert all(variant in printed for variant in norms.SCHEDULE_VARIANTS)
    # the figure follows from the result alone
    again = ["schedule", "--redraw", str(tmp_path / "a.json"), "--png", str(tmp_path / "b.png")]
    assert study.main(again) == 0
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()
    assert study.main(["norms", *again[1:]]) == 2
    assert "is a result of the study schedule, not of norms" in capsys.readouterr().err


def test_command_lists_its_studies(capsys):
    assert study.main(["--list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == list(study.STUDIES)
    assert len(listed) == 21


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["normes"], "unknown study normes; there are entropy, norms"),
        ([], "name a study"),
        (["norms", "--seeds", "0"], "--seeds must be at least 1"),
        (["changed", "--episodes", "0"], "the study changed is about the returns of episodes; set --episodes to at"),
        (["norms", "bits", "--redraw", "x.json", "--png", "x.png"], "--redraw draws one study"),
    ],
)
def test_command_refuses_what_it_cannot_read(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as stopped:
        study.main(arguments)
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["norms", "--task", "hoper-medium"], "hopper-medium"),
        (["norms", "--geometry", "HUGE"], "unknown geometry 'HUGE'"),
        (["norms", "--task", swing.TASK, "--d-model", "17"], "d_model must be a multiple of group"),
        (["norms", "--redraw", "{here}/none.json", "--png", "x.png"], "none.json"),
        (["norms", "--redraw", "{here}/swing.npz", "--png", "x.png"], "no result of a study"),
    ],
)
def test_command_says_in_a_sentence_what_is_wrong(arguments, sentence, library: Path, tmp_path: Path, capsys):
    arguments = [argument.format(here=library) for argument in arguments]
    assert study.main([*arguments, *([] if "--redraw" in arguments else ["--out", str(tmp_path)])]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert list(tmp_path.iterdir()) == []
