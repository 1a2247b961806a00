# SPDX-License-Identifier: MIT
"""A head that learns behind the driver: third factors, freeze, read-back, the artifact, the command."""

import dataclasses
import json

import numpy as np
import pytest

from host import run_episode
from host.accelerator import Accelerator, AcceleratorError
from host.check import Difference, GoldenCheck
from host.golden_device import GoldenBus
from host.learning import Learning
from host.plastic_head import PlasticHead
from model.deployed import zoo
from model.deployed.artifact import ArtifactError, Policy
from model.deployed.geometry import GeometryError
from model.deployed.golden_plasticity import PlasticNetwork
from model.deployed.learned import LearnedHead
from model.deployed.presets import ODD, TINY
from model.deployed.random_policy import random_policy, random_tokens
from model.deployed.sizes import Plasticity

RULE = Plasticity(trace_bits=10, trace_shift=2, rate_shift=5, factor_bits=6, most_change=9)


def loaded(geometry=ODD, actions=None, bus=GoldenBus):
    g = dataclasses.replace(geometry, plasticity=RULE)
    policy = random_policy(g, 3, None, actions)
    accelerator = Accelerator(bus(g), g)
    accelerator.load(policy)
    return accelerator, policy


@pytest.mark.parametrize("actions", [None, 1])
def test_what_is_read_back_is_what_golden_learns(actions):
    accelerator, policy = loaded(actions=actions)
    head, network, rng = PlasticHead(accelerator), PlasticNetwork(policy), np.random.default_rng(5)
    moved = 0
    for number, token in enumerate(random_tokens(policy, 60, 1)):
        if number % 20 == 0:
            accelerator.new_episode()
            network.reset()
            assert not head.traces().any()
        head.frozen = network.frozen = number % 7 == 6
        np.testing.assert_array_equal(accelerator.decide(token).words, network.decide(token).action)
        np.testing.assert_array_equal(head.traces(), network.eligibility)
        if number % 3 == 0:
            factor, before = int(rng.integers(-32, 32)), head.weights()
            head.learn(factor)
            network.learn(factor)
            np.testing.assert_array_equal(head.weights(), network.weight)
            assert head.weights().shape == (policy.action_size, ODD.d_model)
            moved += np.count_nonzero(head.weights() - before)
    assert moved > 20
    assert accelerator.status() == set()


def test_a_factor_counts_once_and_a_new_policy_forgets_what_was_learned():
    accelerator, policy = loaded()
    head = PlasticHead(accelerator)
    for token in random_tokens(policy, 5, 2):
        accelerator.decide(token)
    head.learn(31)
    once = head.weights()
    accelerator.bus.write32(accelerator._at["LEARN"], accelerator.bus.read32(accelerator._at["LEARN"]))
    np.testing.assert_array_equal(head.weights(), once)
    assert (once != policy.tensors["head.weight"]).any()
    accelerator.load(policy)
    np.testing.assert_array_equal(head.weights(), policy.tensors["head.weight"])


def test_refusals(monkeypatch):
    accelerator, _ = loaded()
    with pytest.raises(ValueError, match="third factor must be -32 to 31, not 32"):
        PlasticHead(accelerator).learn(32)
    plain = Accelerator(GoldenBus(TINY), TINY)
    with pytest.raises(GeometryError, match="head does not learn: choose one with plasticity"):
        PlasticHead(plain)
    monkeypatch.setattr(type(accelerator.bus), "decision_timeout_s", 0.05)
    monkeypatch.setattr(accelerator.bus, "_learn", lambda number: None)
    with pytest.raises(AcceleratorError, match="the change 1 of the head did not end"):
        PlasticHead(accelerator).learn(1)


def test_a_policy_meets_circuits_that_learn_and_such_that_do_not():
    plastic = dataclasses.replace(TINY, plasticity=RULE)
    assert random_policy(TINY, 0).on(plastic).geometry == plastic
    with pytest.raises(ArtifactError, match=r"of another geometry than the circuit .*plasticity: \{.*None"):
        random_policy(plastic, 0).on(TINY)
    other = dataclasses.replace(TINY, plasticity=dataclasses.replace(RULE, rate_shift=6))
    with pytest.raises(ArtifactError, match="'rate_shift': 5"):
        random_policy(plastic, 0).on(other)


@pytest.mark.parametrize("what", ["weights", "traces"])
def test_the_check_sees_a_wrong_head(what):
    accelerator, policy = loaded()
    head, check = PlasticHead(accelerator), GoldenCheck(policy, learning=True)
    for token in random_tokens(policy, 5, 2):
        check.add(token, accelerator.decide(token), accelerator.signatures())
    head.learn(20)
    check.learn(20, head.weights(), head.traces())
    assert check.compared == 5 * policy.action_size
    head.learn(7)
    found = {"weights": head.weights(), "traces": head.traces()}
    found[what][1, 4] += 1
    with pytest.raises(Difference, match=rf"{what} of the head differ .* third factor 7, first in action 1, channel 4"):
        check.learn(7, **found)


def test_the_artifact_keeps_its_parent(tmp_path):
    policy = random_policy(TINY, 0)
    weight = policy.tensors["head.weight"].astype(np.int64)
    weight[1, 3] += 1 if weight[1, 3] < 0 else -1
    path = tmp_path / "learned.safetensors"
    LearnedHead.of(policy, weight, {"every": 3}).save(path)
    head = LearnedHead.load(path)
    assert (head.parent, head.facts) == (policy.digest, {"every": 3})
    learned = head.onto(policy)
    np.testing.assert_array_equal(learned.tensors["head.weight"], weight)
    assert learned.provenance["learned"] == {"parent": policy.digest, "every": 3}
    assert learned.digest != policy.digest
    # what learns on is still the exported policy's
    assert LearnedHead.of(learned, weight, {}).parent == policy.digest
    with pytest.raises(ArtifactError, match="name the policy that it came from"):
        head.onto(random_policy(TINY, 1))
    octets = path.read_bytes()
    path.write_bytes(octets[:-1] + bytes([octets[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="was edited or damaged"):
        LearnedHead.load(path)
    path.write_bytes(octets[:-5])
    with pytest.raises(ArtifactError, match="is no whole learned head"):
        LearnedHead.load(path)
    with pytest.raises(ArtifactError, match="there is no learned head at"):
        LearnedHead.load(tmp_path / "none")
    policy.save(path)
    with pytest.raises(ArtifactError, match="is not a learned head of format"):
        LearnedHead.load(path)


@pytest.mark.parametrize("device", ["golden", "verilated"])
def test_an_episode_that_learns(device, tmp_path, capsys):
    arguments = ["--policy", "hopper-tiny", "--device", device, "--check"]
    assert run_episode.main([*arguments, "--learn", "5", "--out", str(tmp_path / "first")]) == 0
    out = capsys.readouterr().out
    assert "third factors" in out
    summary = json.loads((tmp_path / "first" / "episode.json").read_text())
    changes = summary["learning"]["changes"]
    assert summary["learning"]["every"] == 5
    assert [change["steps"] for change in changes[:-1]] == list(range(5, summary["steps"], 5))
    assert changes[-1]["steps"] == summary["steps"]
    assert sum(change["changed"] > 0 for change in changes) > 3
    assert all((change["factor"] == 0) <= (change["changed"] == 0) for change in changes)
    assert summary["mismatches"] == 0
    assert ">Learning<" in (tmp_path / "first" / "report.html").read_text()
    policy = Policy.load(zoo.find("hopper-tiny"))
    head = LearnedHead.load(tmp_path / "first" / "learned.safetensors")
    assert head.parent == policy.digest
    assert (head.weight != policy.tensors["head.weight"]).any()
    again = ["--learned", str(tmp_path / "first" / "learned.safetensors"), "--out", str(tmp_path / "second")]
    assert run_episode.main([*arguments, *again]) == 0
    second = json.loads((tmp_path / "second" / "episode.json").read_text())
    assert second["learning"] is None
    assert second["policy_digest"] == head.onto(policy).digest


def test_a_circuit_that_could_learn_stands_still_unless_told(tmp_path):
    file = tmp_path / "plastic.json"
    file.write_text(dataclasses.replace(TINY, plasticity=RULE).to_json())
    seen = []
    original = Accelerator.close

    def close(self):
        seen.append((PlasticHead(self).frozen, PlasticHead(self).traces().any()))
        original(self)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Accelerator, "close", close)
        arguments = ["--policy", "hopper-tiny", "--device", "golden", "--geometry", str(file), "--out", str(tmp_path)]
        assert run_episode.main(arguments) == 0
    assert seen == [(True, False)]


def test_nothing_is_learned_from_returns_alone_before_the_third(tmp_path):
    arguments = ["--policy", "hopper-tiny", "--device", "golden", "--learn", "0", "--episodes", "4"]
    assert run_episode.main([*arguments, "--out", str(tmp_path)]) == 0
    changes = json.loads((tmp_path / "episode.json").read_text())["learning"]["changes"]
    assert [change["episode"] for change in changes] == [0, 1, 2, 3]
    assert [change["factor"] == 0 for change in changes[:2]] == [True, True]
    assert any(change["factor"] for change in changes[2:])


@pytest.mark.parametrize(
    "more", [["--jobs", "2"], ["--scrub", "9"], ["--replay", "hopper/medium-v0"], ["--board", "a"]]
)
def test_options_that_do_not_go_together(more, capsys):
    with pytest.raises(SystemExit):
        run_episode.main(["--learn", *more])
    assert "--learn changes the head of one circuit at hand" in capsys.readouterr().err


def test_learning_keeps_count():
    accelerator, policy = loaded()
    learning = Learning(PlasticHead(accelerator), 2, None)
    assert not PlasticHead(accelerator).frozen
    assert learning.line(0).startswith("episode 0: 0 third factors, 0 units of weight changed")
    assert learning.learned(policy, "Hopper-v5", []).weight.tolist() == policy.tensors["head.weight"].tolist()
