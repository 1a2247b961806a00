# SPDX-License-Identifier: MIT
"""Compiled functions against plain PyTorch, and against a network written step by step for autograd."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from model.deployed.presets import TINY
from model.network import kernels
from model.network.attention import Rows
from model.network.layers import Structure, float_network
from model.network.neuron import lif
from model.network.norm import PTBN, linear_norm, set_mixing
from model.network.product import spike_linear
from model.network.window import gated_sum, relative_sum

torch.set_num_threads(1)


class Rectangle(torch.autograd.Function):
    """The spike of one step with its surrogate; threshold 0.5."""

    @staticmethod
    def forward(ctx, m: Tensor) -> Tensor:
        ctx.save_for_backward(m)
        return (m > 0.5).float()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (m,) = ctx.saved_tensors
        return gradient * ((m - 0.5).abs() < 0.5)


def fire_step_by_step(current: Tensor) -> Tensor:
    m, spikes = torch.zeros_like(current[0]), []
    for u in current:
        m = u + 0.25 * m * (1 - (m > 0.5).float())
        spikes.append(Rectangle.apply(m))
    return torch.stack(spikes)


def gradients(result: Tensor, inputs: list[Tensor], seed: int = 7) -> tuple[Tensor, ...]:
    upstream = torch.randn(result.shape, generator=torch.Generator().manual_seed(seed))
    return torch.autograd.grad(result, inputs, upstream)


@pytest.fixture(params=["float32", "bfloat16"])
def tolerance(request: pytest.FixtureRequest) -> Iterator[float]:
    """Multiply in single precision, or as training does; yield how far gradients may be off, by their norm."""
    if request.param == "bfloat16":
        torch.set_float32_matmul_precision("medium")
    yield {"float32": 2e-6, "bfloat16": 0.008}[request.param]
    torch.set_float32_matmul_precision("highest")


def test_functions_are_compiled_here() -> None:
    # else the tests below would compare the plain path with itself
    assert kernels.library() is not None, "install g++, which the README asks for"
    assert kernels.fit(torch.zeros(2, 3, 4))


@pytest.mark.parametrize("shape", [(4, 6, 16), (1, 3, 5), (8, 2, 3, 7), (4, 40, 130)])
def test_neurons_fire_and_learn_exactly_as_plain_ones(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    # multiples of a quarter: thresholds are met exactly, zero ones and negative ones too
    current = (torch.randint(-8, 12, shape) / 4).requires_grad_()
    threshold = torch.randint(-1, 5, shape[-1:]) / 4
    spikes = lif(current, threshold)
    (gradient,) = gradients(spikes, [current])
    monkeypatch.setenv(kernels.SWITCH, "off")
    plain = lif(current, threshold)
    assert torch.equal(spikes, plain)
    assert 0.1 < plain.mean() < 0.9
    torch.testing.assert_close(gradient, gradients(plain, [current])[0], rtol=1e-6, atol=1e-6)


def test_neurons_take_one_current_for_all_steps() -> None:
    torch.manual_seed(1)
    current = torch.randn(40, 6).requires_grad_()
    spikes = lif(current.expand(4, -1, -1), torch.tensor(0.5))
    assert not torch.equal(spikes[0], spikes[1])
    expected = fire_step_by_step(current.expand(4, -1, -1))
    assert torch.equal(spikes, expected)
    torch.testing.assert_close(gradients(spikes, [current]), gradients(expected, [current]))


def layer(inputs: int, outputs: int) -> tuple[Tensor, PTBN]:
    norm = PTBN(outputs)
    nn.init.uniform_(norm.weight, 0.3, 1.0)
    nn.init.uniform_(norm.bias, -0.2, 0.4)
    return (torch.randn(outputs, inputs) / inputs**0.5).requires_grad_(), norm


@pytest.mark.parametrize("kind", ["spiking", "residual", "residual of one step"])
def test_layer_equals_the_written_out_one(kind: str, tolerance: float) -> None:
    torch.manual_seed(2)
    x = (torch.rand(4, 50, 32) < 0.3).float().requires_grad_()
    matrix, norm = layer(32, 48)
    if torch.get_float32_matmul_precision() == "medium":
        matrix.data = matrix.data.bfloat16().float()
    shortcut = torch.randn(1 if "one" in kind else 4, 50, 48).requires_grad_()
    fires = kind == "spiking"
    inputs = [x, matrix, norm.weight, norm.bias] + ([] if fires else [shortcut])
    y = torch.stack([x[t] @ matrix.T for t in range(4)])
    centred = (y - y.mean((0, 1))) / torch.sqrt(y.var((0, 1), correction=0) + 1e-5)
    y = centred * norm.weight + norm.bias
    expected = fire_step_by_step(y) if fires else shortcut + y
    got = linear_norm(
        x,
        matrix,
        norm,
        threshold=torch.full((48,), 0.5) if fires else None,
        shortcut=None if fires else shortcut.expand(4, -1, -1),
    )
    assert got.grad_fn.name() == "_LinearNormBackward"
    if fires:
        assert 0.1 < expected.mean() < 0.9
        assert torch.equal(got, expected)
    else:
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(gradients(got, inputs), gradients(expected, inputs), strict=True):
        assert other.abs().max() > 0.1
        assert (one - other).norm() < tolerance * other.norm()


def test_statistics_survive_a_mean_far_above_the_deviation() -> None:
    torch.manual_seed(3)
    x = torch.randn(500, 20) * 0.1 + 300.0
    mean, variance = torch.empty(20), torch.empty(20)
    kernels.run("statistics", x, mean, variance, 500, 20)
    torch.testing.assert_close(mean, x.double().mean(0).float())
    torch.testing.assert_close(variance, x.double().var(0, correction=0).float(), rtol=1e-4, atol=0)


def test_running_statistics_and_evaluation_are_those_of_the_plain_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(4)
    x, threshold = (torch.rand(4, 30, 8) < 0.4).float(), torch.full((12,), 0.5)
    matrix, norm = layer(8, 12)
    states, results = [], []
    for switch in ("on", "off"):
        monkeypatch.setenv(kernels.SWITCH, switch)
        norm.running_mean.zero_(), norm.running_var.fill_(1.0)
        for _ in range(3):
            norm.train()
            linear_norm(x, matrix, norm, threshold=threshold)
        states.append((norm.running_mean.clone(), norm.running_var.clone()))
        with torch.no_grad():
            results.append(linear_norm(x, matrix, norm.eval(), shortcut=torch.ones(4, 30, 12)))
    torch.testing.assert_close(*states)
    torch.testing.assert_close(*results)
    assert (states[0][1] - 1).abs().max() > 0.1


@pytest.mark.parametrize(("inputs", "outputs"), [(16, 16), (128, 48), (512, 144)])
def test_products_of_spikes_and_integers_are_exact(inputs: int, outputs: int) -> None:
    torch.manual_seed(9)
    x = (torch.rand(2, 101, inputs) < 0.4).float().requires_grad_()
    # what a signed byte and a shift can make
    matrix = (torch.randint(-128, 128, (outputs, inputs)) * 2.0 ** torch.randint(0, 8, (outputs, 1))).requires_grad_()
    bias = torch.randint(-5000, 5000, (outputs,)).float().requires_grad_()
    expected = functional.linear(x, matrix, bias)
    expected_gradients = gradients(expected, [x, matrix, bias])
    torch.set_float32_matmul_precision("medium")
    try:
        fast = kernels.multiply(202, *matrix.shape)
        got = spike_linear(x, matrix, bias)
        for one, other in zip(gradients(got, [x, matrix, bias]), expected_gradients, strict=True):
            assert (one - other).norm() < 0.005 * other.norm()
    finally:
        torch.set_float32_matmul_precision("highest")
    assert fast == bool(kernels.library().has_product())
    assert torch.equal(got, expected)


def test_layer_norm_share_takes_the_plain_path() -> None:
    torch.manual_seed(5)
    x = (torch.rand(2, 9, 8) < 0.4).float()
    matrix, norm = layer(8, 12)
    set_mixing(norm, 0.5)
    expected = norm(functional.linear(x, matrix).flatten(0, 1)).view(2, 9, 12)
    assert torch.equal(linear_norm(x, matrix, norm), expected)


def padded(batch: int, length: int) -> Tensor:
    return torch.arange(length)[None] >= torch.arange(batch)[:, None] % length


@pytest.mark.parametrize("integers", [True, False], ids=["integers", "reals"])
@pytest.mark.parametrize("window", [1, 4, 20])
def test_gated_window_equals_the_written_out_one(integers: bool, window: int) -> None:
    torch.manual_seed(6)
    steps, batch, length, d = 3, 6, 10, 5
    real = padded(batch, length)
    rows = Rows(real, batch, length)
    count = int(real.sum())
    spikes = (torch.rand(steps, count, 3 * d) < 0.5).float().requires_grad_()
    key, value, query = spikes.chunk(3, dim=-1)
    taps = (torch.randint(-8, 8, (d, window)).float() if integers else torch.rand(d, window)).requires_grad_()
    pairs = torch.zeros(steps, batch, length, d).masked_scatter(real[None, ..., None], key * value)
    total = []
    for n in range(length):
        total.append(sum(taps[:, j] * pairs[:, :, n - j] for j in range(min(window, n + 1))))
    expected = query * torch.stack(total, 2)[:, real]
    got = gated_sum(key, value, query, taps, rows.age)
    assert expected.abs().max() > 0.5
    if integers:
        assert torch.equal(got, expected)
    torch.testing.assert_close(got, expected)
    for one, other in zip(gradients(got, [spikes, taps]), gradients(expected, [spikes, taps]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    # and so is the public sum over windows without padding
    torch.testing.assert_close(relative_sum(pairs, taps)[:, real] * query, expected)


def test_age_counts_the_rows_before_in_the_window() -> None:
    real = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 1, 0]], dtype=torch.bool)
    assert Rows(real, 4, 4).age.tolist() == [0, 1, 0, 1, 2, 3, 0, 1]
    assert Rows(None, 2, 3).age.tolist() == [0, 1, 2, 0, 1, 2]
    real[1, 2] = False
    assert Rows(real, 4, 4).age is None


@pytest.mark.parametrize("holes", [False, True], ids=["padded", "with holes"])
def test_network_trains_alike_with_and_without_compiled_functions(holes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    real = padded(12, 9)
    real[3, 5] &= not holes
    results = []
    for switch in ("on", "off"):
        monkeypatch.setenv(kernels.SWITCH, switch)
        torch.manual_seed(8)
        network = float_network(TINY, 15, 3, Structure())
        losses = []
        for _ in range(3):
            loss = (network(torch.randn(12, 9, 15), real) - 0.5).square().mean()
            loss.backward()
            losses.append(loss)
        results.append([torch.stack(losses), *(p.grad for p in network.parameters())])
    for one, other in zip(*results, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_without_a_compiler_the_plain_path_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    kernels._load.cache_clear()
    try:
        assert kernels.library() is None
        assert lif(torch.ones(2, 1, 1), torch.tensor(0.5)).tolist() == [[[1.0]], [[1.0]]]
    finally:
        kernels._load.cache_clear()


def test_library_is_built_once_and_again_for_another_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kernels.build(tmp_path)
    written = first.stat().st_mtime_ns
    assert kernels.build(tmp_path) == first
    assert first.stat().st_mtime_ns == written
    source = tmp_path / "changed.cpp"
    source.write_text(kernels.SOURCE.read_text() + "// changed\n")
    monkeypatch.setattr(kernels, "SOURCE", source)
    assert kernels.build(tmp_path) != first
    source.write_text("no C++")
    with pytest.raises(subprocess.CalledProcessError):
        kernels.build(tmp_path)


@pytest.mark.parametrize(
    "unfit",
    [torch.zeros(2, 3, 4, dtype=torch.float64), torch.zeros(2, 3, 4).transpose(1, 2), torch.zeros(4, 0, 1).bfloat16()],
)
def test_other_tensors_take_the_plain_path(unfit: Tensor) -> None:
    assert not kernels.fit(torch.zeros(3), unfit)
