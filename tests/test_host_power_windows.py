# SPDX-License-Identifier: MIT
"""The measurement of power in made-up time: order, drift, arithmetic, and all that can go wrong in between."""

import re

import numpy as np
import pytest

from host.accelerator import AcceleratorError
from host.board.rails import MeterError
from host.power.figures import interval, rail_figures, rate_figures, student
from host.power.windows import LEAST_WINDOW_S, ORDER, SILENCE_S, Plan, Window
from tests.power_lab import run

LEVELS = {"idle": 4000.0, "configured": 4100.0, "running": 4900.0}


def steady(state, seconds):
    return {"12V": LEVELS[state], "INT": LEVELS[state] / 10}


def test_a_round_goes_there_and_back_at_equal_distances():
    assert ORDER == ("idle", "configured", "running", "running", "configured", "idle")
    assert LEAST_WINDOW_S == 10
    recording, readings, subject, error = run(steady, rounds=3, change_s=0.25)
    assert error is None
    assert [state for _, state in subject.entered] == 3 * list(ORDER)
    assert [window.state for window in recording.windows] == 3 * list(ORDER)
    assert [window.round for window in recording.windows] == [n for n in range(3) for _ in ORDER]
    begins = [window.begin_s for window in recording.windows]
    np.testing.assert_allclose(np.diff(begins), 12.0)  # 2 s to settle, the change of state within
    assert begins[0] == 2.0
    np.testing.assert_allclose([w.end_s - w.begin_s for w in recording.windows], 10.0)
    assert subject.left == 1
    for number, window in enumerate(recording.windows):
        own = [p.t_s for p, r in readings if (p.round * 6 + p.window, r.rail) == (number, "12V") and p.settled]
        assert len(own) == window.readings["12V"] == 100
        assert np.mean(own) == pytest.approx((window.begin_s + window.end_s) / 2)
        assert window.begin_s < min(own) < max(own) < window.end_s
    assert {place.state for place, _ in readings if not place.settled} == set(LEVELS)


def test_readings_before_a_window_do_not_count():
    def settling(state, seconds):
        return {"12V": LEVELS[state] + (5000 if seconds % 12 <= 2.0 else 0)}

    recording, *_ = run(settling)
    assert [window.mw["12V"] for window in recording.windows] == pytest.approx([LEVELS[s] for s in 2 * ORDER])


@pytest.mark.parametrize("slope", [3.0, -0.7])
def test_a_linear_drift_cancels(slope):
    recording, *_ = run(lambda state, seconds: {"12V": LEVELS[state] + slope * seconds}, rounds=4, change_s=0.3)
    figures = rail_figures(recording.rounds())["12V"]
    assert figures["incremental_mw"]["rounds"] == pytest.approx(4 * [900.0], abs=1e-6)
    assert figures["over_configured_uj"]["rounds"] == pytest.approx(4 * [800.0], abs=1e-6)
    one_way = [{w.state: w.mw["12V"] for w in windows[:3]} for windows in recording.rounds()]
    assert abs(one_way[0]["running"] - one_way[0]["idle"] - 900) > 10  # A B C alone would carry it
    # and a round's powers are those of its centre
    centres = [(windows[0].begin_s + windows[-1].end_s) / 2 for windows in recording.rounds()]
    assert figures["idle_mw"]["rounds"] == pytest.approx([4000 + slope * at for at in centres])


def test_a_change_that_takes_longer_than_the_settling_delays_its_window():
    recording, *_ = run(steady, change_s=3.5)
    np.testing.assert_allclose(np.diff([w.begin_s for w in recording.windows]), 13.5)


# Arithmetic

T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 19: 2.093, 29: 2.045, 120: 1.980}
"""Two-sided 95 % points of Student's distribution, as printed in tables."""


@pytest.mark.parametrize(("freedom", "value"), T_95.items())
def test_student_s_points_are_those_of_the_tables(freedom, value):
    assert student(freedom) == pytest.approx(value, abs=6e-4)


def test_an_interval_of_known_values():
    values = [12.0, 15.0, 11.0, 14.0, 18.0]
    found = interval(values)
    assert found["mean"] == 14.0
    # deviations -2, 1, -3, 0, 4: variance 30 / 4
    assert found["ci95"] == pytest.approx(2.776 * np.sqrt(7.5 / 5), rel=1e-3)
    assert interval([3.0]) == {"mean": 3.0, "ci95": None, "rounds": [3.0]}


def made_up(rng, rounds):
    """Return windows with random powers and rates."""
    windows = []
    for number in range(rounds):
        for state in ORDER:
            running = state == "running"
            decisions = int(rng.integers(1_000_000, 2_000_000)) if running else 0
            mw = {rail: float(rng.normal(5000, 300)) for rail in ("12V", "INT")}
            counted = float(rng.uniform(9.9, 10.1))
            head = (number, state, 0.0, 10.0, decisions, 517 * decisions, counted, None)
            windows.append(Window(*head, mw, {"12V": 100, "INT": 100}))
    return [windows[6 * n : 6 * n + 6] for n in range(rounds)]


def test_figures_of_made_up_windows_are_those_of_the_formulas():
    rounds = made_up(np.random.default_rng(5), 5)
    found = rail_figures(rounds)
    power = np.array([[[w.mw[rail] for w in windows] for windows in rounds] for rail in ("12V", "INT")])
    state = (power + power[:, :, ::-1])[:, :, :3] / 2  # rail, round, idle configured running
    decisions = np.array([[w.decisions for w in windows] for windows in rounds]).sum(1)
    seconds = np.array([[w.counted_s for w in windows[2:4]] for windows in rounds]).sum(1)
    expected = {
        "idle_mw": state[:, :, 0],
        "configured_mw": state[:, :, 1],
        "running_mw": state[:, :, 2],
        "incremental_mw": state[:, :, 2] - state[:, :, 0],
        "total_uj": state[:, :, 2] * 1e-3 / (decisions / seconds) * 1e6,
        "incremental_uj": (state[:, :, 2] - state[:, :, 0]) * 1e-3 / (decisions / seconds) * 1e6,
        "over_configured_uj": (state[:, :, 2] - state[:, :, 1]) * 1e-3 / (decisions / seconds) * 1e6,
    }
    for index, rail in enumerate(("12V", "INT")):
        assert set(found[rail]) == set(expected)
        for name, values in expected.items():
            own = found[rail][name]
            np.testing.assert_allclose(own["rounds"], values[index])
            assert own["mean"] == pytest.approx(values[index].mean())
            half = 2.7764451 * np.sqrt(((values[index] - values[index].mean()) ** 2).sum() / 4 / 5)
            assert own["ci95"] == pytest.approx(half, rel=1e-6)
    rates = rate_figures(rounds)
    np.testing.assert_allclose(rates["decisions_per_s"]["rounds"], decisions / seconds)
    np.testing.assert_allclose(rates["cycles_per_decision"]["rounds"], 517.0)
    np.testing.assert_allclose(rates["busy_mhz"]["rounds"], 517 * decisions / seconds / 1e6)


def test_a_known_circuit_from_readings_to_energies():
    recording, *_ = run(steady, rate=200_000.0, temperature=lambda: 44.5)
    figures = rail_figures(recording.rounds())
    assert figures["12V"]["total_uj"]["mean"] == pytest.approx(4.9 / 200_000 * 1e6)
    assert figures["12V"]["incremental_uj"]["mean"] == pytest.approx(0.9 / 200_000 * 1e6)
    assert figures["INT"]["over_configured_uj"]["mean"] == pytest.approx(0.08 / 200_000 * 1e6)
    assert figures["12V"]["total_uj"]["ci95"] == pytest.approx(0, abs=1e-6)
    assert rate_figures(recording.rounds())["busy_mhz"]["mean"] == pytest.approx(100.0)
    assert {window.temperature_c for window in recording.windows} == {44.5}


def test_counters_that_wrap_in_a_window():
    recording, *_ = run(steady, rate=4e8)  # 0.8e9 where the window begins, 4.8e9 where it ends: above 2**32
    assert [w.decisions for w in recording.windows if w.state == "running"] == 4 * [4_000_000_000]


def test_nothing_measured_has_no_rails():
    assert rail_figures([]) == {}
    assert rate_figures([])["decisions_per_s"] is None


# What goes wrong


def test_a_meter_that_vanishes_ends_the_measurement_and_keeps_what_is_whole():
    recording, readings, subject, error = run(steady, rounds=3, gone_at=100.0)
    assert isinstance(error, MeterError)
    assert re.search(r"supply: rail 12V has given no reading for 3 s; see that it is connected", str(error))
    assert len(recording.windows) == 8
    assert len(recording.rounds()) == 1
    assert subject.left == 1
    assert 99 < max(place.t_s for place, _ in readings) < 100
    assert subject.clock.at - 1000 < 100 + SILENCE_S + 0.3


def test_one_rail_that_vanishes_is_missed():
    *_, error = run(lambda state, seconds: {"12V": 1.0} if seconds > 30 else {"12V": 1.0, "INT": 1.0})
    assert "rail INT has given no reading" in str(error)


def test_a_meter_that_never_speaks():
    recording, _, _, error = run(steady, gone_at=0.0)
    assert "the meter has given no reading for 3 s" in str(error)
    assert recording.windows == []


@pytest.mark.parametrize(("every_s", "what"), [(1.9, "too few readings"), (2.6, "no reading")])
def test_a_window_with_too_few_readings(every_s, what):
    # that is not silence, but no mean either
    def seldom(state, seconds):
        return {"12V": 1.0} if seconds % every_s < 0.09 else {}

    *_, error = run(seldom, plan=Plan(2, 2.4, settle_s=0.2))
    assert f"gave {what} in a window of 2.4 s; take longer windows" in str(error)


def test_a_circuit_that_is_stuck_or_runs_when_it_should_not():
    recording, _, subject, error = run(steady, stuck=True)
    assert isinstance(error, AcceleratorError)
    assert "0 decisions were made in a window in which the circuit was running" in str(error)
    assert [window.state for window in recording.windows] == ["idle", "configured"]
    assert subject.left == 1
    *_, error = run(steady, runs_on=True)
    assert "10000 decisions were made in a window in which the circuit was idle" in str(error)
