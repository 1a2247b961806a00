# SPDX-License-Identifier: MIT
"""Scrubbing finds any changed word of a policy within its period, and nothing where nothing changed."""

import numpy as np
import pytest

from host import run_episode
from host.accelerator import Accelerator, AcceleratorError
from host.golden_device import GoldenBus
from host.policy_image import pack
from host.scrub import Scrubber
from hw.memory_map import memory_map
from model.deployed.presets import ODD
from model.deployed.random_policy import random_policy, random_tokens

WORDS = 100


def all_of(scrubber: Scrubber) -> None:
    for _ in range(scrubber.period):
        scrubber.step()


@pytest.fixture
def loaded():
    policy = random_policy(ODD, 3)
    bus = GoldenBus(ODD)
    accelerator = Accelerator(bus, ODD)
    accelerator.load(policy)
    return bus, accelerator, policy


def test_an_unchanged_policy_passes_beside_decisions(loaded):
    _, accelerator, policy = loaded
    scrubber = Scrubber(accelerator, pack(policy), WORDS)
    words = sum(-(-len(words) // WORDS) for words in pack(policy).sections.values())
    assert scrubber.period == words > 10
    for token in random_tokens(policy, scrubber.period + 3, 1):
        accelerator.decide(token)
        scrubber.step()


def test_any_flipped_bit_is_found_within_the_period(loaded):
    bus, accelerator, policy = loaded
    image, rng = pack(policy), np.random.default_rng(5)
    for name, words in image.sections.items():
        section = memory_map(ODD)[name]
        for _ in range(3):
            row, word = int(rng.integers(section.rows)), int(rng.integers(section.words))
            at = row * section.stride + word
            scrubber = Scrubber(accelerator, image, WORDS)
            for _ in range(int(rng.integers(scrubber.period))):
                scrubber.step()
            bit = np.uint32(1 << int(rng.integers(min(32, section.row_bits - 32 * word))))
            bus._memory[name][at] ^= bit
            with pytest.raises(AcceleratorError, match=rf"{name} memory has changed .* word {at} reads"):
                all_of(scrubber)
            bus._memory[name][at] ^= bit
            assert words[at] == bus._memory[name][at]


def test_an_episode_is_scrubbed(capsys, tmp_path):
    options = ["--policy", "cartpole", "--device", "golden", "--scrub", "50", "--out", str(tmp_path / "run")]
    assert run_episode.main(options) == 0
    assert "return" in capsys.readouterr().out


@pytest.mark.parametrize("option", [["--board", "pynq.local"], ["--replay", "hopper/medium-v0"]])
def test_what_does_not_go_with_scrubbing(capsys, option):
    with pytest.raises(SystemExit) as ended:
        run_episode.main(["--scrub", "10", *option])
    assert ended.value.code == 2
    assert "--scrub reads the circuit's memory itself" in capsys.readouterr().err
