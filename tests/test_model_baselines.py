# SPDX-License-Identifier: MIT
"""The baselines: their size, what they may look at, what their grid holds, and that they learn."""

import dataclasses

import pytest
import torch

from model.deployed.presets import TINY, preset
from model.network import baselines
from model.network.baselines import Quantiser
from model.training.checkpoint import build
from model.training.config import NETWORKS, ConfigError, TrainConfig

torch.set_num_threads(1)

KINDS = NETWORKS[1:]
INPUTS, ACTIONS, LENGTH = 9, 2, 6
CONFIG = TrainConfig(geometry=TINY, length=LENGTH, inference="recompute", quant_steps=0)


def network(kind: str) -> baselines.Baseline:
    torch.manual_seed(0)
    return build(dataclasses.replace(CONFIG, network=kind), INPUTS, ACTIONS, quantised=False).eval()


def windows() -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, and which are real: windows without padding, with some, and with all but the last token padded."""
    torch.manual_seed(1)
    first = torch.tensor([0, 2, LENGTH - 1])
    return torch.randn(3, LENGTH, INPUTS), torch.arange(LENGTH)[None] >= first[:, None]


@pytest.mark.parametrize("geometry", ["TINY", "HOPPER_Z2"])
@pytest.mark.parametrize("kind", KINDS)
def test_parameters_match_the_spiking_network(kind: str, geometry: str) -> None:
    config = dataclasses.replace(CONFIG, geometry=preset(geometry), length=24)
    counts = [
        baselines.parameters(build(dataclasses.replace(config, network=name), 15, 3, quantised=False))
        for name in ("spiking", kind)
    ]
    assert counts[1] == pytest.approx(counts[0], rel=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing_and_gets_no_action(kind: str) -> None:
    tokens, real = windows()
    model = network(kind)
    actions = model(tokens, real)
    assert actions.shape == (3, LENGTH, ACTIONS)
    assert (actions[real] != 0).all()
    assert (actions[~real] == 0).all()
    assert torch.equal(model(torch.where(real[..., None], tokens, 1e3), real), actions)
    # what a decision early in an episode sees: the real tokens alone
    alone = model(tokens[1:2, 2:])
    assert torch.allclose(alone, actions[1:2, 2:], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_actions_depend_on_the_past_alone(kind: str) -> None:
    tokens, real = windows()
    model = network(kind)
    before = model(tokens, real)
    changed = tokens.clone()
    changed[:, -1] += 1.0
    after = model(changed, real)
    assert torch.equal(after[:, :-1], before[:, :-1])
    assert (after[:, -1] != before[:, -1]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_only_behaviour_cloning_is_blind_to_return_and_history(kind: str) -> None:
    tokens, real = windows()
    model = network(kind)
    before = model(tokens, real)[0, -1]
    for column, row in ((-1, -1), (0, -2), (INPUTS - 2, -1)):  # return-to-go, earlier observation, previous action
        changed = tokens.clone()
        changed[:, row, column] += 5.0
        assert torch.equal(model(changed, real)[0, -1], before) == (kind == "bc")


def test_the_grid_has_eight_levels_and_learns_its_step() -> None:
    torch.manual_seed(0)
    x = torch.randn(4000, requires_grad=True)
    for signed, levels in ((True, range(-4, 4)), (False, range(8))):
        quantiser = Quantiser(signed)
        y = quantiser(x)
        ratio = (y / quantiser.step).detach()
        assert sorted(set(ratio.round().int().tolist())) == list(levels)
        assert torch.allclose(ratio, ratio.round(), atol=1e-4)
        (y - x.detach()).square().mean().backward()
        assert quantiser.step.grad is not None
        assert quantiser.step.grad != 0
    assert 0 < (x.grad == 0).float().mean() < 1  # what is clipped gets none


def test_the_coarse_transformer_starts_from_its_checkpoint() -> None:
    tokens, real = windows()
    model = network("dt-3-bit")
    model(tokens, real)
    copy = network("dt-3-bit")
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy(2 * tokens, real), model(2 * tokens, real))


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"quant_steps": 10}, "the baseline bc has no integer form; set quant_steps to 0"),
        ({"inference": "stream"}, "the baseline bc keeps no bounded state; set inference to recompute"),
        ({"network": "gpt"}, "network must be one of spiking, dt-3-token, dt-1-token, dt-3-bit, bc, not 'gpt'"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(choices: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^{sentence}$"):
        dataclasses.replace(CONFIG, **{"network": "bc", **choices})  # type: ignore[arg-type]
