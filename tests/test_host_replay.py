# SPDX-License-Identifier: MIT
"""Recorded episodes through a circuit, the self-test and the bench."""

import contextlib
import dataclasses
import json
import re
import time

import numpy as np
import pytest
from gymnasium.spaces import Box

from host import bench, run_episode, selftest
from host.accelerator import Accelerator
from host.agent import Agent
from host.golden_device import GoldenBus
from host.replay import Replay, forced_tokens, golden, read_episodes, replay
from model.data.offline import DataError, Episodes
from model.deployed.golden import GoldenNetwork
from model.deployed.presets import TINY
from model.deployed.random_policy import random_policy
from tests.swing import make


def recorded(policy, lengths, seed=0):
    """Let an agent act on random observations; return what a data set would hold of it, and its tokens."""
    rng, size = np.random.default_rng(seed), policy.action_size
    accelerator = Accelerator(GoldenBus(TINY), TINY)
    accelerator.load(policy)
    agent = Agent(accelerator, policy, Box(-1, 1, (size,), np.float64), 500.0)
    seen, actions, rewards, tokens = [], [], [], []
    for length in lengths:
        agent.begin()
        for _ in range(length):
            observation = rng.normal(size=policy.observation_size).astype(np.float32)
            reward = np.float32(200 * rng.normal())
            seen.append(observation)
            actions.append(agent.act(observation))
            agent.reward(float(reward))
            rewards.append(reward)
            tokens.append(agent.token)
    arrays = [np.array(values, np.float32) for values in (seen, actions, rewards)]
    return Episodes("recorded", "random", *arrays, np.array(lengths)), tokens


@pytest.mark.parametrize("delayed", [False, True])
def test_forced_tokens_are_those_an_agent_made_of_the_same_steps(delayed):
    policy = random_policy(TINY, 1, 5, 2)
    policy = dataclasses.replace(policy, provenance={"config": {"delayed": delayed}})
    episodes, tokens = recorded(policy, [9, 1, 6])
    forced = forced_tokens(policy, episodes, 500.0)
    assert [len(part) for part in forced] == [9, 1, 6]
    np.testing.assert_array_equal(np.concatenate(forced), tokens)
    assert len({tuple(token) for token in tokens}) == 16


def test_golden_episodes_side_by_side_are_the_golden_network_s_one_by_one():
    policy = random_policy(TINY, 1, 5, 2)
    tokens = forced_tokens(policy, recorded(policy, [4, 9, 1, 6, 9])[0], 500.0)
    words, rows = golden(policy, tokens)
    for part, found, counts in zip(tokens, words, rows, strict=True):
        driver = Accelerator(GoldenBus(TINY), TINY)
        driver.load(policy)
        for token, word, count in zip(part, found, counts, strict=True):
            np.testing.assert_array_equal(driver.decide(token).words, word)
            assert driver.counters().layer_rows == count.tolist()


class Faulty(Accelerator):
    """Gives one wrong word, or one wrong row count, in its n-th decision."""

    def __init__(self, at, what):
        super().__init__(GoldenBus(TINY), TINY)
        self.at, self.what, self.done = at, what, 0

    def decide_all(self, tokens):
        records = super().decide_all(tokens)
        for record in records:
            if self.done == self.at:
                if self.what == "word":
                    record.decision.words[1] ^= 1
                elif self.what == "row":
                    record.counters.layer_rows[1] += 1
            self.done += 1
        return records


@pytest.mark.parametrize(("what", "found"), [("word", (1, 0)), ("row", (0, 1)), ("", (0, 0))])
def test_a_single_difference_is_found_and_placed(what, found):
    policy = random_policy(TINY, 1, 5, 2)
    episodes, _ = recorded(policy, [300, 1, 20])
    driver, result = Faulty(310, what), Replay("recorded")
    driver.load(policy)
    power = iter(range(100))
    steps = list(replay(driver, policy, episodes, 500.0, lambda: [{"rail": "12V", "mw": next(power)}], result))
    assert steps == [256, 44, 1, 20]
    assert (result.word_differences, result.row_differences) == found
    assert result.first == ("episode 2, decision 9" if what else "")
    summary = result.summary()
    assert (summary["decisions"], summary["action_words"], summary["episodes"]) == (321, 642, 3)
    assert summary["power_mw"] == {"12V": 1.5}
    assert summary["decisions_per_s"] > 0
    assert summary["cycles_median"] is None


@pytest.fixture
def swing(tmp_path, monkeypatch):
    make(tmp_path, "swing/test-v0", [12, 7, 30])
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    policy = dataclasses.replace(random_policy(TINY, 4, 3, 1), environment="Pendulum-v1")
    path = tmp_path / "policy.safetensors"
    policy.save(path)
    return path


@pytest.mark.parametrize("device", ["golden", "verilated"])
def test_the_command_replays_a_data_set(swing, tmp_path, capsys, device):
    result = tmp_path / "replay.json"
    options = ["--device", device, "--policy", swing, "--replay", "swing/test-v0", "--json", result]
    assert run_episode.main([str(option) for option in options]) == 0
    output = capsys.readouterr().out
    assert "3 episodes, 49 decisions in" in output
    assert f"decisions/s on the {device} device" in output
    assert "49 action words equal the golden network's" in output
    found = json.loads(result.read_text())
    assert (found["decisions"], found["word_differences"], found["row_differences"]) == (49, 0, 0)
    assert (found["cycles_median"] is None) == (device == "golden")


def test_fewer_episodes_and_what_does_not_fit(swing, tmp_path, capsys):
    policy = random_policy(TINY, 4, 3, 1)
    assert read_episodes("swing/test-v0", policy, 2).lengths.tolist() == [12, 7]
    assert len(read_episodes("swing/test-v0", policy, 2).actions) == 19
    assert read_episodes("swing/test-v0", policy, 9).lengths.tolist() == [12, 7, 30]
    with pytest.raises(DataError, match="observations of 3 components, the policy was trained with 4"):
        read_episodes("swing/test-v0", random_policy(TINY, 4, 4, 1), None)
    with pytest.raises(DataError, match="swing/test-v0 has continuous actions, the policy was made for discrete ones"):
        read_episodes("swing/test-v0", dataclasses.replace(policy, discrete=True), None)
    arguments = ["--device", "golden", "--policy", str(swing), "--replay"]
    assert run_episode.main([*arguments, "swing/none-v0"]) == 1
    assert "there is no data set swing/none-v0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_episode.main([*arguments, "swing/test-v0", "--video"])
    assert "--video has no use with --replay" in capsys.readouterr().err


def test_a_difference_fails_the_command(swing, capsys, monkeypatch):
    honest = GoldenNetwork.decide

    def flip(network, token):
        trace = honest(network, token)
        if token.ndim == 1:  # the device's, not the reference's
            trace.action[0] ^= 1
        return trace

    monkeypatch.setattr(GoldenNetwork, "decide", flip)
    assert run_episode.main(["--device", "golden", "--policy", str(swing), "--replay", "swing/test-v0"]) == 1
    assert "49 of 49 action words and 0 counts of weight rows differ" in capsys.readouterr().out


# Self-test and bench


@pytest.mark.parametrize("device", ["golden", "verilated"])
def test_a_sound_circuit_passes(device, tmp_path, capsys):
    result = tmp_path / "selftest.json"
    options = ["--device", device, "--geometry", "TINY", "--policies", "3", "--decisions", "12", "--json", str(result)]
    assert selftest.main(options) == 0
    assert "passed: 36 decisions" in capsys.readouterr().out
    found = json.loads(result.read_text())
    assert found["words_equal"] > 36 * 10
    assert (found["cycles"]["p50"] > 50) == (device == "verilated")
    for figure in (found["latency_us"], found["cycles"]):
        assert figure["p50"] <= figure["p99"]
    units = found["counters"]["unit_cycles_p50"]
    assert (50 < sum(units.values()) <= found["cycles"]["p99"]) == (device == "verilated")


def test_the_selftest_prints_latency_and_what_the_circuit_counted(tmp_path, capsys, monkeypatch):
    honest, seen = Accelerator.counters, []
    monkeypatch.setattr(Accelerator, "counters", lambda accelerator: seen.append(honest(accelerator)) or seen[-1])
    file = tmp_path / "found.json"
    options = ["--device", "verilated", "--geometry", "TINY", "--policies", "2", "--decisions", "12"]
    assert selftest.main([*options, "--json", str(file)]) == 0
    found = json.loads(file.read_text())["counters"]
    assert len(seen) == 24
    assert found["weight_rows_p50"] == np.median([sum(counters.unit_rows.values()) for counters in seen]) > 0
    assert found["saturations"] == sum(counters.saturations for counters in seen) > 0
    assert found["stalls"] == sum(counters.stalls for counters in seen) > 0
    assert found["unit_cycles_p50"]["FC1"] == np.median([counters.unit_cycles["FC1"] for counters in seen])
    text = capsys.readouterr().out
    assert re.search(r"latency: p50 [\d,]+ µs, p99 [\d,]+ µs, seen from here; p50 \d+, p99 \d+ cycles\n", text)
    assert (
        f"counters: p50 {found['weight_rows_p50']:,.0f} weight rows; {found['saturations']:,} saturations and "
        f"{found['stalls']:,} stalls in all; p50 busy cycles: EMBED"
    ) in text


@pytest.mark.parametrize(
    ("name", "fault", "sentence"),
    [
        ("ACTION", lambda words: [words[0] ^ 1, *words[1:]], "decision 5: the action words are"),
        ("SIGNATURE", lambda words: [*words[:-1], words[-1] ^ 1 << 31], "decision 5: the signatures are"),
        ("SATURATIONS", lambda words: [words[0] + 1], "decision 5: SATURATIONS are"),
        ("LAYER_ROWS", lambda words: [words[0], words[1] + 1], "decision 5: LAYER_ROWS are"),
        ("ROWS_FC2", lambda words: [words[0] + 1], r"decision 5: ROWS_\* are"),
        ("STATUS", lambda words: [words[0] | 4], "STATUS shows BAD_ADDRESS at the end"),
        ("SCRATCH", lambda words: [0], "SCRATCH reads 0x00000000 after 0x00000001"),
    ],
)
def test_a_faulty_circuit_fails(name, fault, sentence, capsys, monkeypatch):
    honest = GoldenBus._record

    def record(bus, trace):
        honest(bus, trace)
        if bus._decisions == 6:
            bus._stored[name] = fault(list(bus._stored[name]))

    if name == "SCRATCH":
        write = GoldenBus._write_register
        monkeypatch.setattr(GoldenBus, "_write_register", lambda bus, at, word: write(bus, at, 0 if at == 12 else word))
    monkeypatch.setattr(GoldenBus, "_record", record)
    assert selftest.main(["--device", "golden", "--geometry", "TINY", "--policies", "1", "--decisions", "20"]) == 1
    assert re.search(sentence, capsys.readouterr().err)


def test_the_bench_times_every_bus_that_is_here(tmp_path, capsys):
    result = tmp_path / "bench.json"
    assert bench.main(["--geometry", "TINY", "--decisions", "10", "--json", str(result)]) == 0
    rows = json.loads(result.read_text())["us"]
    assert list(rows) == [
        "memory, compiled",
        "memory, Python",
        "golden",
        "verilated",
        "at once, loopback",
        "verilated, loopback",
    ]
    assert set(rows["golden"]) == {"total", "host", "bus"}
    assert set(rows["verilated, loopback"]) == {"total", "host", "bus", "network", "device", "echo", "held echo"}
    for parts in rows.values():
        for spread in parts.values():
            assert 0 < spread["p50"] <= spread["p99"] <= spread["max"]
    assert "a bare TCP echo of the same sizes" in capsys.readouterr().out


def test_what_an_echo_computes_is_no_part_of_its_way():
    with contextlib.closing(bench.Echo(26, 84)) as echo:
        start = time.perf_counter()
        way = echo.seconds(20_000_000)
        assert 0 < way <= time.perf_counter() - start - 0.02
        assert echo.seconds() > 0
