# SPDX-License-Identifier: MIT
"""Attention on the grid of an image, the blocks around it, the sets of images, and what is measured of them."""

import hashlib
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from model.network.attention import Rows
from model.network.dynamics import Dynamics
from model.network.match import Match
from model.network.network import Record
from model.vision import blocks as styles
from model.vision import images
from model.vision.attention import ATTENTIONS, SCALE, GridDynamics, GridMatch, TokenGate, attention, geometry
from model.vision.classifier import Classifier, Shape, VisionError
from model.vision.measures import described, measure, state_bits
from model.vision.peak import peak_of
from model.vision.taps import DILATIONS, Grid, GridTaps

GRID = Grid(6, 7)
D, STEPS, BATCH = 5, 3, 2


def spikes(seed: int, share: float = 0.4, grid: Grid = GRID) -> Tensor:
    return (torch.rand(STEPS, BATCH, grid.tokens, D, generator=torch.Generator().manual_seed(seed)) < share).double()


def looking(name: str, grid: Grid = GRID):
    torch.manual_seed(3)
    return attention(name, geometry(name, D, 1, STEPS, grid), grid).double()


# taps


@pytest.mark.parametrize("causal", [False, True])
def test_taps_are_the_explicit_loop(causal):
    torch.manual_seed(0)
    taps, value = GridTaps(D, GRID, 0.6, causal).double(), spikes(0)
    expected = torch.zeros_like(value)
    seen = 0
    for y, x, n, i, j in itertools.product(range(6), range(7), range(2), range(3), range(3)):
        row, column = y + DILATIONS[n] * (i - 1), x + DILATIONS[n] * (j - 1)
        if not (0 <= row < 6 and 0 <= column < 7) or (causal and (i, j) > (1, 1)):
            continue
        seen += 1
        expected[:, :, y * 7 + x] += taps.weight[n, :, i, j] * value[:, :, row * 7 + column]
    assert seen > 2 * GRID.tokens
    torch.testing.assert_close(taps(value), expected)
    assert expected.std() > 0.1


def test_matrix_of_taps_is_what_a_lone_spike_gives():
    taps = GridTaps(D, GRID, 0.6, causal=False)
    lone = torch.eye(GRID.tokens)[None, :, :, None].expand(1, -1, -1, D)  # image j has one spike, at token j
    torch.testing.assert_close(taps.matrix(), taps(lone)[0].mean(2).t().detach())


# attention


def test_attentions_are_those_of_the_token_streams():
    assert issubclass(GridMatch, Match)
    assert issubclass(GridDynamics, Dynamics)


@pytest.mark.parametrize("name", ["ssa", "lrf-ssa", "taps"])
def test_matches_are_the_explicit_sum(name):
    looks, (k, v, q) = looking(name), (spikes(n) for n in range(3))
    expected = torch.zeros_like(v)
    for n, j in itertools.product(range(GRID.tokens), repeat=2):
        expected[:, :, n] += (q[:, :, n] * k[:, :, j]).sum(-1, keepdim=True) * v[:, :, j] * SCALE
    if name == "taps":
        expected.zero_()
    if name != "ssa":
        expected += looks.local(v)
    rows = Rows(None, BATCH, GRID.tokens)
    current = rows.spread(looks(*(rows.pack(x) for x in (k, v, q)), rows))
    torch.testing.assert_close(current, expected)


def test_scan_equals_the_prefix_and_token_by_token():
    looks, (k, v, q) = looking("lrf-dyn"), (spikes(n) for n in range(3))
    rows = Rows(None, BATCH, GRID.tokens)
    whole = rows.spread(looks(*(rows.pack(x) for x in (k, v, q)), rows))
    assert whole.std() > 0.1
    for end in (1, 8, 9, 30):  # what comes later changes nothing
        cut = [torch.cat([x[:, :, :end], 1 - x[:, :, end:]], 2) for x in (k, v, q)]
        prefix = rows.spread(looks(*(rows.pack(x) for x in cut), rows))
        torch.testing.assert_close(prefix[:, :, :end], whole[:, :, :end])
        assert not torch.allclose(prefix[:, :, end:], whole[:, :, end:])
    state, currents = looks.begin(BATCH), []
    with torch.no_grad():
        for n in range(GRID.tokens):
            current, state = looks.advance(k[:, :, n], v[:, :, n], q[:, :, n], state)
            currents.append(current)
    torch.testing.assert_close(torch.stack(currents, 2), whole)
    assert state.index_select(1, torch.tensor([1])).values.shape == (STEPS, 1, looks.local.reach, D)


def test_whole_images_do_not_stream():
    with pytest.raises(ValueError, match="cannot stream; choose lrf-dyn"):
        looking("ssa").begin(1)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_weights_are_the_answer_to_one_value(name):
    """With one value spike in all channels at j, the mean current of token n is the weight of j on n (queries on)."""
    looks, k, v = looking(name), spikes(0), torch.zeros_like(spikes(0))
    q = torch.ones_like(k) if name == "lrf-dyn" else spikes(2)
    if name == "lrf-dyn":
        with torch.no_grad():  # answers of one sign: the weights are their sizes
            looks.dendrites.upper.zero_()
            looks.dendrites.lower.zero_()
    weights, rows = looks.weights(k, q), Rows(None, BATCH, GRID.tokens)
    for j in (0, 9, 40):
        lone = v.clone()
        lone[:, :, j] = 1
        current = rows.spread(looks(*(rows.pack(x) for x in (k, lone, q)), rows))
        torch.testing.assert_close(weights[:, :, j].float(), current.mean((0, 3)).detach().float())


def test_token_gate_passes_keys_where_queries_fire():
    size = geometry("ssa", 32, 1, 1, GRID)
    gate = TokenGate(size, torch.full((32,), 0.5))
    key = (torch.rand(1, 4, 32) < 0.5).float()
    query = torch.zeros(1, 4, 32)
    query[0, 1, :4], query[0, 2, :5], query[0, 3] = 1, 1, 1  # of 1/8 each; a spike needs more than half
    out = gate(key, key, query, Rows(None, 1, 4))
    assert torch.equal(out, key * torch.tensor([0.0, 0, 1, 1])[None, :, None])


# blocks


def networks(name: str = "lrf-ssa", **changes):
    shape = Shape(1, 8, 8, 1, 10)
    for style in styles.STYLES:
        torch.manual_seed(1)
        yield style, Classifier(style, name, shape, **{"d_model": 16, "layers": 2, "steps": 3} | changes)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_every_style_takes_every_attention_and_learns(name):
    torch.manual_seed(0)
    pixels = torch.rand(4, 1, 8, 8)
    for _, network in networks(name):
        scores = network(pixels)
        assert scores.shape == (4, 10)
        torch.nn.functional.cross_entropy(scores, torch.arange(4)).backward()
        idle = {n for n, p in network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
        if name != "taps":  # whose matches count for nothing
            assert not {n for n in idle if "kvq" in n}, idle


def test_styles_differ_in_what_their_shortcuts_add():
    pixels = torch.rand(4, 1, 8, 8)
    seen = {}
    for style, network in networks():
        record = Record()
        network(pixels, record)
        seen[style] = record
        whole = bool((record.membranes[0] == record.membranes[0].round()).all())
        assert whole == (style != "sdt-v3"), style
        assert any(isinstance(block.attention, TokenGate) for block in network.blocks) == (style == "qkformer")
        assert any(isinstance(m, styles.Separable) for m in network.modules()) == (style == "sdt-v3")
    assert "layer0.value" not in seen["qkformer"].spikes
    assert "layer1.value" in seen["qkformer"].spikes


def test_branches_of_a_separable_convolution_fold_into_one():
    torch.manual_seed(0)
    layer, x = styles.SeparableSpiking(4, 6, GRID), torch.rand(2, 3 * GRID.tokens, 4)
    layer.linear.weight.data.normal_()
    for _ in range(3):
        layer.current(x)  # moves the running statistics
    layer.eval()
    y = layer.linear(x)
    apart = layer.norms[0](layer._convolved(y, layer.kernel)) + layer.norms[1](y)
    torch.testing.assert_close(layer.current(x), apart, rtol=1e-4, atol=1e-5)
    assert apart.std() > 0.1


def test_unknown_choices_are_named():
    with pytest.raises(VisionError, match="style must be one of spikformer, qkformer, sdt-v3, not 'resnet'"):
        Classifier("resnet", "ssa", images.DIGITS, 16, 1, 2)
    with pytest.raises(VisionError, match="attention must be one of"):
        Classifier("sdt-v3", "softmax", images.DIGITS, 16, 1, 2)


# measures


def test_entropy_and_field_of_maps_made_by_hand():
    grid = Grid(4, 4)
    even = described(torch.ones(3, 16, 16), grid)
    assert even["entropy"] == pytest.approx(1.0)
    assert even["expected_distance"] == pytest.approx(2.5)  # twice the mean of |a - b| for a, b in 0..3
    assert described(torch.eye(16)[None], grid) == {"entropy": 0, "expected_distance": 0, "near": 1, "empty": 0}
    two = torch.eye(16)[None] + torch.eye(16).flip(1)[None]  # itself and its opposite: one bit of four
    assert described(two, grid)["entropy"] == pytest.approx(0.25)
    assert described(two, grid)["expected_distance"] == pytest.approx(2.0)
    # the four corners have 6 to go, with half their weight
    assert described(two, grid)["near"] == pytest.approx(1 - 4 / 32)
    half = torch.ones(2, 16, 16)
    half[0] = 0
    assert described(half, grid) == even | {"empty": 0.5}
    assert described(half * 0, grid)["entropy"] is None


def test_distances_are_manhattan():
    found = Grid(3, 5).distances()
    assert (found[0, 14], found[7, 7], found[4, 5]) == (6, 0, 5)


def test_state_of_the_paper_and_of_a_scan():
    word, n = STEPS * D, GRID.tokens
    assert state_bits(looking("ssa")) == word * D * math.ceil(math.log2(n + 1))
    assert state_bits(looking("lrf-ssa")) - state_bits(looking("ssa")) == state_bits(looking("taps")) == word * n
    assert state_bits(looking("lrf-dyn")) == word * (8 * 32 + 5 * 7 + 5)


def test_peak_is_what_lives_together():
    a = torch.ones(1000)
    assert peak_of(lambda: a + 1) == 4000
    assert peak_of(lambda: a * 2 + 1 + 1 + 1) == 8000
    assert peak_of(lambda: a.view(10, 100)) == 0
    assert peak_of(lambda: [a * n for n in range(3)]) == 12000


def test_measured_values_are_in_range():
    for style, network in networks("lrf-dyn"):
        network.eval()
        found = measure(network, torch.rand(4, 1, 8, 8))
        assert found["layers_described"] == (1 if style == "qkformer" else 2)
        assert found["peak_kib"] > 8
        if found["entropy"] is not None:
            assert 0 <= found["entropy"] <= 1


# images


def test_digits_are_split_by_seed_and_survive_a_file(tmp_path):
    pytest.importorskip("sklearn")
    first, other = images.load("digits", 0, None), images.load("digits", 1, None)
    assert first.train[0].shape == (1438, 1, 8, 8)
    assert len(first.test[0]) == 359
    assert (first.train[0].min(), first.train[0].max()) == (0, 1)
    assert set(first.test[1]) == set(range(10))
    assert not np.array_equal(first.test[1], other.test[1])
    images.export_digits(tmp_path / "digits.npz")
    again = images.load("digits", 0, None, tmp_path / "digits.npz")
    assert all(np.array_equal(a, b) for a, b in zip(first.train + first.test, again.train + again.test, strict=True))


def test_pairs_are_far_apart_and_say_nothing_one_by_one():
    found = images.pairs(0, (2000, 10))
    pixels, classes = found.train
    assert pixels.shape == (2000, 1, 8, 80)
    bright = pixels[:, 0] > 0.5
    assert (bright.sum((1, 2)) == 4).all()
    assert not bright[:, :, 6:74].any()
    lies = (bright[:, :, 0:-1:2] & bright[:, :, 1::2]).any(1)  # both columns of a patch
    left, right = lies[:, :3].any(1), lies[:, -3:].any(1)
    assert np.array_equal(left == right, classes == 1)
    for side in (left, right):
        assert abs(classes[side].mean() - classes[~side].mean()) < 0.08
    # the best linear read-out of how many marks of a kind there are is as good as none
    counts = np.stack([left.astype(int) + right, np.ones(2000)], 1)
    fit = counts @ np.linalg.lstsq(counts, classes.astype(float), rcond=None)[0]
    assert abs(((fit > 0.5) == classes).mean() - 0.5) < 0.08 or np.ptp(fit) < 0.1


def cifar_folder(tmp_path, monkeypatch, name):
    rng, digests = np.random.default_rng(0), {}
    for file in images.CIFAR_FILES[name]:
        label = b"labels" if name == "cifar-10" else b"fine_labels"
        batch = {b"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8), label: [0, 1, 2, 9]}
        content = pickle.dumps(batch)
        (tmp_path / file).write_bytes(content)
        digests[file] = hashlib.md5(content).hexdigest()
    monkeypatch.setitem(images.CIFAR_FILES, name, digests)
    return tmp_path


@pytest.mark.parametrize(("name", "count", "classes"), [("cifar-10", 20, 10), ("cifar-100", 4, 100)])
def test_cifar_is_read(name, count, classes, tmp_path, monkeypatch):
    found = images.load(name, 0, cifar_folder(tmp_path, monkeypatch, name))
    assert (len(found.train[0]), len(found.test[0]), found.shape.classes) == (count, 4, classes)
    assert found.train[0].shape[1:] == (3, 32, 32)
    assert found.train[0].max() <= 1
    assert found.train[0].std() > 0.1
    assert list(found.test[1]) == [0, 1, 2, 9]
    assert found.shape.grid == Grid(8, 8)


def test_bad_files_are_refused(tmp_path, monkeypatch):
    folder = cifar_folder(tmp_path, monkeypatch, "cifar-10")
    with pytest.raises(VisionError, match="cifar-10 is not fetched for you"):
        images.load("cifar-10", 0, None)
    with pytest.raises(
        VisionError, match=r"data_batch_1 cannot be read; give --folder the unpacked cifar-10-batches-py"
    ):
        images.load("cifar-10", 0, folder / "nowhere")
    ran = []
    monkeypatch.setattr(pickle, "loads", lambda *_, **__: ran.append(1))
    (folder / "data_batch_1").write_bytes(b"something else")
    with pytest.raises(VisionError, match="data_batch_1 is not the file that was published"):
        images.load("cifar-10", 0, folder)
    assert not ran
    (folder / "digits.npz").write_bytes(b"no archive")
    with pytest.raises(VisionError, match=r"digits\.npz holds no digits; make it with --export-digits"):
        images.load("digits", 0, None, folder / "digits.npz")
    np.savez(folder / "digits.npz", pixels=np.full((2, 8, 8), 99), classes=np.zeros(2, np.int64))
    with pytest.raises(VisionError, match="no 8 x 8 digits of 0 to 16"):
        images.load("digits", 0, None, folder / "digits.npz")
    with pytest.raises(VisionError, match="data must be one of digits, pairs"):
        images.load("mnist", 0, None)


@pytest.mark.parametrize("style", styles.STYLES)
def test_taps_alone_never_bring_two_marks_together(style):
    """No token of the last block depends on both ends of a field of pairs; with matches some do."""
    touched = {}
    for name in ("taps", "ssa"):
        torch.manual_seed(0)
        network = Classifier(style, name, images.PAIRS, 16, 2, 2).eval()
        for module in network.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                torch.nn.init.normal_(module.weight)  # large currents, so that little is lost in silent neurons
        pixels = torch.rand(8, 1, 8, 80)
        changed = [pixels.clone(), pixels.clone()]
        changed[0][..., : 2 * images.EDGE] = 1 - pixels[..., : 2 * images.EDGE]
        changed[1][..., -2 * images.EDGE :] = 1 - pixels[..., -2 * images.EDGE :]
        seen = []
        with torch.no_grad():
            for given in (pixels, *changed):
                x, rows = network.patches(given), Rows(None, 8, network.grid.tokens)
                for block in network.blocks:
                    x = block(x, rows, lambda *_, **__: None)
                seen.append(rows.spread(x))
        touched[name] = [(part != seen[0]).any(0).any(0).any(1) for part in seen[1:]]
    left, right = touched["taps"]
    assert left.any()
    assert right.any()
    assert not (left & right).any()
    left, right = touched["ssa"]
    assert (left & right).any()
