# SPDX-License-Identifier: MIT
"""Episodes side by side: the same episodes as one after the other, and what a job that fails leaves."""

import argparse
import csv
import json

import pytest

from host import run_episode
from host.episode import Episode
from host.side_by_side import JobError, fly_side_by_side
from model.deployed import zoo
from model.deployed.artifact import Policy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gymnasium", "ignore::DeprecationWarning:mujoco")


def test_jobs_fly_what_one_process_flies(tmp_path, capsys):
    """Returns, steps and every line of the table; only the order of lines of different episodes may differ."""
    summaries, tables = [], []
    for jobs in (1, 2):
        out = tmp_path / str(jobs)
        options = ["--policy", "cartpole", "--device", "golden", "--check", "--episodes", "3"]
        assert run_episode.main([*options, "--jobs", str(jobs), "--out", str(out)]) == 0
        summary = json.loads((out / "episode.json").read_text())
        for part in (summary, *summary["episodes"]):
            del part["decisions_per_s"]
        summaries.append(summary)
        with (out / "steps.csv").open() as file:
            tables.append(sorted(map(tuple, csv.reader(file))))
        assert capsys.readouterr().out.count("actions equal the golden network's") == 3
    assert summaries[0] == summaries[1]
    assert summaries[1]["checked_actions"] > 100
    assert tables[0] == tables[1]
    assert len(tables[1]) == 1 + summaries[1]["steps"]


def options_of(seed):
    unused = dict.fromkeys(("board", "geometry", "scrub", "learn"))
    return argparse.Namespace(jobs=2, seed=seed, device="golden", check=False, **unused)


def test_a_job_that_fails_says_why():
    policy = Policy.load(zoo.find("cartpole"))
    options = options_of(seed=5)
    episodes = [Episode(5), Episode(6)]
    with pytest.raises(JobError, match="Hopper-v5"):
        fly_side_by_side(
            *(options, run_episode.EXPECTED, policy, "Hopper-v5", 1.0, episodes),
            lambda index, episode: None,
            lambda index, episode: None,
        )
    assert not episodes[0].steps


def test_an_interrupt_keeps_what_came():
    policy = Policy.load(zoo.find("cartpole"))
    options = options_of(seed=0)
    episodes, seen = [Episode(0), Episode(1), Episode(2)], []

    def on_step(index, episode):
        seen.append(index)
        if len(seen) == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fly_side_by_side(
            *(options, run_episode.EXPECTED, policy, policy.environment, 500.0, episodes),
            on_step,
            lambda index, episode: None,
        )
    assert [len(episode.steps) for episode in episodes] == [seen.count(index) for index in range(3)]
    assert sum(episode.total for episode in episodes) == 30  # a reward of 1 for every step


@pytest.mark.parametrize("option", [["--board"], ["--replay", "hopper/medium-v0"], ["--video"], ["--gif"]])
def test_what_does_not_go_with_jobs(capsys, option):
    with pytest.raises(SystemExit) as ended:
        run_episode.main(["--jobs", "2", *option])
    assert ended.value.code == 2
    assert "--jobs is for simulated circuits without a film" in capsys.readouterr().err
