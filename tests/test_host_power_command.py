# SPDX-License-Identifier: MIT
"""The power command: without a meter, on a board behind a server, interrupted; its result in an episode's report."""

import csv
import dataclasses
import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from host import run_episode
from host.accelerator import Accelerator, AcceleratorError
from host.board import messages
from host.golden_device import GoldenBus
from host.power import __main__ as command
from host.power.subjects import CircuitSubject, Clock, ProcessorSubject, draw_tokens
from host.power.windows import ORDER, Plan
from model.deployed.presets import TINY
from model.deployed.random_policy import random_policy
from tests.served import TOKEN, Counting, closing_what_is_left_open, serving

ROOT = Path(__file__).resolve().parent.parent

FACTS = {
    "device": "board",
    "bus": "uio at 0x40000000 on Zynq-7000 (PYNQ-Z2): the kernel lends the window",
    "clock_mhz": None,
    "bitstream": "top.bit",
    "bitstream_sha256": 64 * "5",
    "rails": "hwmon",
}


class Ticking(Counting):
    """A board's circuit: it repeats a decision in its own time, whether or not anybody looks."""

    def __init__(self, geometry):
        super().__init__(geometry)
        self.accesses = 0

    def _start(self, number):
        super()._start(number)
        self.since = time.monotonic()

    def _advance(self):
        self.accesses += 1

    def _snapshot(self):
        decisions = int((time.monotonic() - self.since) * 200_000) if self._repeats_left else self._decisions
        self._stored["TOTAL_DECISIONS"] = [decisions]
        self._stored["TOTAL_CYCLES_LOW"] = [500 * decisions]


def rails(board):
    """Return the board's reading: 5 W, and 400 mW more while its circuit runs."""
    board.asked += 1
    extra = 400.0 if board.bus._repeats_left else 0.0
    return [{"sensor": "ina226", "rail": "12V", "v": 12.0, "a": 0.5, "mw": 5000.0 + extra}]


@pytest.fixture
def policy(tmp_path):
    policy = dataclasses.replace(random_policy(TINY, 3, 5, 2), environment="Still-v0", target_return=300.0)
    policy.save(tmp_path / "policy.safetensors")
    return policy


@pytest.fixture
def quick(monkeypatch):
    """Windows of tenths of a second, as the command line refuses them."""
    monkeypatch.setattr(command, "Plan", functools.partial(Plan, settle_s=0.02, period_s=0.02))
    monkeypatch.setattr(command, "LEAST_WINDOW_S", 0.0)


@pytest.fixture
def board(monkeypatch):
    monkeypatch.setenv(messages.TOKEN_VARIABLE, TOKEN.decode())
    with closing_what_is_left_open(), serving(bus=Ticking, facts=FACTS) as board:
        board.server._service._power = lambda: rails(board)
        yield board


def power(tmp_path, *options):
    """Run the command; return its exit code and the result it wrote."""
    out = tmp_path / "power.json"
    code = command.main(["--policy", str(tmp_path / "policy.safetensors"), "--json", str(out), *map(str, options)])
    return code, json.loads(out.read_text()) if out.exists() else None


def served_at(board):
    return f"127.0.0.1:{board.address[1]}"


@pytest.mark.parametrize("options", [["--device", "golden"], ["--device", "verilated"], ["--cpu", "--meter", "none"]])
def test_without_a_meter_nothing_is_called_measured(policy, quick, tmp_path, capsys, options):
    picture = tmp_path / "power.png"
    code, result = power(tmp_path, *options, "--rounds", 2, "--window-s", 0.4, "--png", picture)
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert "power: not measured" in printed.out
    assert "mW" not in printed.out
    assert "µJ" not in printed.out
    assert "no picture: nothing was measured" in printed.err
    assert not picture.exists()
    assert (result["measured"], result["rails"], result["board"]) == (False, {}, None)
    assert result["complete"]
    assert [window["state"] for window in result["windows"]] == 2 * list(ORDER)
    assert result["decisions_per_s"]["mean"] > 0
    assert (result["cycles_per_decision"] is None) == ("verilated" not in options)
    device, running = ("cpu", "one core") if "--cpu" in options else (options[1], "a processor simulates")
    assert result["device"] == device
    assert result["states"]["running"].startswith(running)
    assert running in printed.err


def test_a_board_behind_a_server_is_measured_with_its_own_rails(policy, quick, board, tmp_path, capsys):
    table, picture = tmp_path / "power.csv", tmp_path / "power.png"
    options = ["--board", served_at(board), "--rounds", 3, "--window-s", 0.2, "--csv", table, "--png", picture]
    code, result = power(tmp_path, *options)
    printed = capsys.readouterr()
    assert code == 0
    assert "meter: hwmon (as the board server at 127.0.0.1" in printed.err
    assert "power, measured by hwmon" in printed.out
    assert result["measured"]
    assert result["meter"]["source"] == "hwmon"
    assert result["temperature_c"] == {"min": 41.5, "max": 41.5}
    assert result["board"] == {
        "bus": FACTS["bus"],
        "clock_mhz": None,
        "clock_set_mhz": None,
        "bitstream": "top.bit",
        "bitstream_sha256": 64 * "5",
    }
    figures, rates = result["rails"]["12V"], result["decisions_per_s"]["rounds"]
    assert figures["idle_mw"]["rounds"] == figures["configured_mw"]["rounds"] == [5000.0] * 3
    assert figures["running_mw"]["rounds"] == [5400.0] * 3
    np.testing.assert_allclose(figures["incremental_uj"]["rounds"], [400e3 / rate for rate in rates])
    np.testing.assert_allclose(figures["total_uj"]["rounds"], [5400e3 / rate for rate in rates])
    assert result["cycles_per_decision"]["mean"] == pytest.approx(500)
    assert picture.read_bytes().startswith(b"\x89PNG")
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == result["readings"] == board.asked
    own = [row for row in rows if (row["round"], row["window"], row["settled"]) == ("1", "3", "1")]
    assert {(row["state"], row["rail"], row["mw"], row["volts"]) for row in own} == {
        ("running", "12V", "5400.000", "12.0")
    }
    assert len(own) == result["windows"][9]["readings"]["12V"] == 10
    assert board.server._service.accelerator.status() == set()  # stopped at the end


def test_while_it_runs_nobody_looks_at_the_circuit(policy, quick, board, tmp_path):
    seen = []
    measured = rails

    def note_accesses():
        seen.append((bool(board.bus._repeats_left), board.bus.accesses))
        return measured(board)

    board.server._service._power = note_accesses
    assert power(tmp_path, "--board", served_at(board), "--rounds", 2, "--window-s", 0.4)[0] == 0
    steps = [after - before for (was, before), (now, after) in itertools.pairwise(seen) if was and now]
    # of the 80 readings taken while running, only those beside a window's edges have accesses before them
    assert len(steps) > 70
    assert sum(step > 0 for step in steps) <= 3 * 4


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--window-s", 9], "windows of at least 10 s are needed"),
        (["--meter", "pynq"], "the board server reads hwmon, not pynq; start it with --meter pynq"),
        (["--meter", "csv:/nowhere.csv"], "/nowhere.csv cannot be read"),
        (["--csv", "/proc/nothing/x.csv"], "/proc/nothing/x.csv cannot be written"),
    ],
)
def test_what_cannot_be_done_is_said_before_it_begins(policy, board, tmp_path, capsys, options, sentence):
    code, result = power(tmp_path, "--board", served_at(board), *options)
    printed = capsys.readouterr()
    assert (code, result) == (1, None)
    assert sentence in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    "options", [["--rounds", "1"], ["--window-s", "0"], ["--seed", "-1"], ["--cpu", "--board", "somewhere"]]
)
def test_options_that_make_no_sense(options, capsys):
    with pytest.raises(SystemExit) as ended:
        command.parse(options)
    assert ended.value.code == 2
    capsys.readouterr()


def interruptible() -> None:
    """Take Ctrl-C as usual: a shell's background job, and all it starts, ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize(("why", "code"), [("interrupt", 130), ("silence", 1), ("stuck", 1)])
def test_what_was_measured_survives_what_ends_it(policy, quick, board, tmp_path, capsys, why, code):
    table = tmp_path / "power.csv"
    monkey = board.server._service
    count = 0
    interruptible()

    def failing():
        nonlocal count
        count += 1
        if count > 90 and why == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        if count > 90 and why == "stuck":
            board.bus._repeats_left = 0
        return [] if count > 90 and why == "silence" else rails(board)

    monkey._power = failing
    found, result = power(tmp_path, "--board", served_at(board), "--rounds", 9, "--window-s", 0.2, "--csv", table)
    printed = capsys.readouterr()
    assert found == code
    assert (result["complete"], result["measured"]) == (False, True)
    assert 1 <= result["rounds"] < 9
    assert len(result["windows"]) >= 6 * result["rounds"]
    assert len(result["rails"]["12V"]["idle_mw"]["rounds"]) == result["rounds"]
    assert result["ended_by"]
    assert f"PARTIAL: {result['rounds']} of 9 rounds are whole" in printed.out
    assert len(table.read_text().splitlines()) - 1 == result["readings"] >= 80
    assert "Traceback" not in printed.err
    assert board.server._service.accelerator.status() == set()
    sentence = {
        "interrupt": "keeping what was read",
        "silence": "hwmon gave no reading",
        "stuck": "0 decisions were made",
    }
    assert sentence[why] in printed.err


def test_ctrl_c_in_the_first_window_keeps_the_readings(policy, tmp_path):
    supply, table, out = (tmp_path / name for name in ("supply.csv", "power.csv", "power.json"))
    supply.write_text("voltage,current\n")
    arguments = [sys.executable, "-m", "host.power", "--cpu", "--policy", tmp_path / "policy.safetensors"]
    arguments += ["--meter", f"csv:{supply}", "--csv", table, "--json", out]
    process = subprocess.Popen(
        [str(argument) for argument in arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=interruptible,
    )
    deadline = time.monotonic() + 60
    while not table.exists() or len(table.read_text().splitlines()) < 4:
        assert time.monotonic() < deadline
        assert process.poll() is None
        if table.exists() and table.read_text():  # its first line is there at once, whatever comes
            with supply.open("a") as file:
                file.write("5.0,0.5\n")
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "power: not measured (no round is whole)" in output
    result = json.loads(out.read_text())
    assert (result["measured"], result["complete"], result["ended_by"]) == (False, False, "Ctrl-C")
    assert result["readings"] == len(table.read_text().splitlines()) - 1 >= 3
    assert result["meter"]["source"] == f"csv:{supply}"


def test_the_processor_decides_in_place_of_the_circuit(policy):
    tokens = draw_tokens(policy, 2, 7)
    assert [token.tolist() for token in draw_tokens(policy, 2, 7)] == [token.tolist() for token in tokens]
    assert tokens[0].tolist() != tokens[1].tolist()
    clock = Clock()
    subject = ProcessorSubject(policy, tokens, clock)
    counts = []
    for state in ORDER:
        subject.enter(state, 0)
        before, _ = subject.counts()
        subject.work(clock.now() + 0.1)
        subject.check(state)
        counts.append(subject.counts()[0] - before)
    subject.leave()
    assert [count > 0 for count in counts] == [state == "running" for state in ORDER]


def test_a_state_that_did_not_last_is_noticed(policy):
    accelerator = Accelerator(GoldenBus(TINY), TINY)
    subject = CircuitSubject(accelerator, policy, draw_tokens(policy, 1, 0), False, Clock())
    for state in ORDER:
        subject.enter(state, 0)
        subject.check(state)
    subject.enter("running", 0)
    accelerator.bus._soft_reset()  # as its watchdog would
    with pytest.raises(AcceleratorError, match="the circuit should be running, STATUS shows no flag"):
        subject.check("running")
    subject.enter("running", 0)
    with pytest.raises(AcceleratorError, match="the circuit should be idle, STATUS shows BUSY"):
        subject.check("idle")
    subject.leave()
    assert accelerator.status() == set()


# In the report of an episode


class Still(gymnasium.Env):
    """An environment that ends after ten steps."""

    def __init__(self, render_mode=None):
        self.observation_space = Box(-9, 9, (5,), np.float64)
        self.action_space = Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.normal(size=5), {}

    def step(self, action):
        self.steps += 1
        return self.np_random.normal(size=5), 1.0, self.steps == 10, False, {}


@pytest.fixture
def _still():
    gymnasium.register("Still-v0", Still)
    yield
    del gymnasium.registry["Still-v0"]


def fly(tmp_path, *options):
    out = tmp_path / "out"
    code = run_episode.main(["--policy", str(tmp_path / "policy.safetensors"), "--out", str(out), *map(str, options)])
    if code:
        return code, None, None
    return code, json.loads((out / "episode.json").read_text()), (out / "report.html").read_text()


@pytest.mark.usefixtures("_still")
def test_an_episode_s_summary_and_page_take_the_result(policy, quick, board, tmp_path):
    at = served_at(board)
    _, result = power(tmp_path, "--board", at, "--rounds", 2, "--window-s", 0.1)
    code, summary, page = fly(tmp_path, "--board", at, "--power", tmp_path / "power.json")
    assert code == 0
    short = summary["power"]
    assert short["measured"]
    assert short["meter"] == result["meter"]
    figures = result["rails"]["12V"]
    assert short["rails"] == {
        "12V": {name: {k: figures[name][k] for k in ("mean", "ci95")} for name in ("total_uj", "incremental_uj")}
    }
    assert short["decisions_per_s"] == result["decisions_per_s"]["mean"]
    assert summary["board"]["bitstream"] == "top.bit"
    assert summary["board"]["bus"] == FACTS["bus"]
    assert "Measured by hwmon" in page
    assert page.count("data:image/png;base64,") == 6
    assert "top.bit, SHA-256 5555555555555555" in page


@pytest.mark.usefixtures("_still")
def test_what_was_not_measured_is_not_in_the_report_as_if_it_were(policy, quick, tmp_path):
    power(tmp_path, "--device", "golden", "--rounds", 2, "--window-s", 0.05)
    options = ["--device", "golden", "--power", tmp_path / "power.json"]
    code, summary, page = fly(tmp_path, *options)
    assert code == 0
    assert (summary["power"]["measured"], summary["power"]["rails"], summary["board"]) == (False, {}, None)
    assert "<p>Not measured.</p>" in page
    assert page.count("data:image/png;base64,") == 5
    code, summary, page = fly(tmp_path, "--device", "golden")
    assert summary["power"] is None
    assert "<h2>Power</h2>" not in page


@pytest.mark.usefixtures("_still")
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"policy_digest": 64 * "0"}, "is of policy 0000000000000000, this one is"),
        ({"rails": None}, "is no power result"),
        ({"measured": False, "rails": {"12V": {}}}, "is no power result"),
        (None, "cannot be read"),
    ],
)
def test_a_result_that_does_not_belong_to_the_policy(policy, tmp_path, capsys, change, sentence):
    file = tmp_path / "other.json"
    if change is not None:
        whole = {"policy_digest": policy.digest, "measured": True, "rails": {}, "windows": []}
        file.write_text(json.dumps(whole | change))
    assert fly(tmp_path, "--device", "golden", "--power", file)[0] == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
