#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Fly episodes with the circuit in the loop: `python host/run_episode.py --help`."""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the script runs in place; see pyproject.toml

try:
    from tqdm import tqdm

    from model import caches

    caches.keep_here()  # the report imports matplotlib

    from host.accelerator import AcceleratorError
    from host.agent import AgentError
    from host.bus import BusError
    from host.check import Difference
    from host.cockpit import Cockpit, cockpit
    from host.devices import device_name, open_device
    from host.environment import UnsuitableEnvironment
    from host.episode import Episode, fly
    from host.learning import Learning
    from host.local import LocalError
    from host.power.files import PowerFileError, in_short, read_power_result
    from host.report import write_report
    from host.run_folder import RunFolderError, StepTable, new_folder, summarise, write_json
    from host.run_options import parse
    from host.side_by_side import JobError, fly_side_by_side
    from host.video import Gif, Video, VideoError, choose_renderer, no_renderer
    from model.data.environments import DataError
    from model.deployed import zoo
    from model.deployed.artifact import ArtifactError, Policy
    from model.deployed.geometry import GeometryError
    from model.deployed.learned import LearnedHead
except ModuleNotFoundError as missing:
    sys.exit(f"the Python package {missing.name} is missing; use `make episode`, or `pip install '.[host,hw]'`")

EXPECTED = (
    AcceleratorError,
    AgentError,
    ArtifactError,
    BusError,
    Difference,
    GeometryError,
    JobError,
    LocalError,
    PowerFileError,
    RunFolderError,
    UnsuitableEnvironment,
)
"""Failures whose message says all a user needs; anything else is a defect and shows its traceback."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as a shell reports it."""


@contextlib.contextmanager
def held_interrupts() -> Iterator[Callable[[], None]]:
    """Hold the first Ctrl-C back until the yielded function is called, so that no step is recorded by halves.

    A second one acts at once.
    """
    pending = False

    def take(number: int, frame: object) -> None:
        nonlocal pending
        if pending:
            raise KeyboardInterrupt
        pending = True

    def release() -> None:
        if pending:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, take)
    try:
        yield release
    finally:
        signal.signal(signal.SIGINT, before)


def say(line: str) -> None:
    """Print a line; progress goes to the error stream, so that it does not mix with results."""
    print(line, file=sys.stderr, flush=True)


class Progress:
    """The live line: where the episode is, what the last decision cost."""

    def __init__(self, label: str, length: int | None, clock_mhz: float) -> None:
        self._bar = tqdm(total=length, desc=label, unit="step", disable=None, leave=False, dynamic_ncols=True)
        self._clock_mhz = clock_mhz

    def show(self, episode: Episode, learning: Learning | None) -> None:
        """Take the last step in, and the last change of the head if it learns."""
        step = episode.steps[-1]
        cycles = step.decision.cycles
        took = f"{cycles} cycles {cycles / self._clock_mhz:.1f} µs" if cycles else "- cycles - µs"
        self._bar.set_postfix_str(
            f"reward {step.reward:.2f} return {episode.total:.1f} to go {step.return_to_go - step.reward:.1f} {took}"
            + (f" third factor {learning.changes[-1].factor:+d}" if learning and learning.changes else ""),
            refresh=False,
        )
        self._bar.update()

    def close(self) -> None:
        """Clear the line."""
        self._bar.close()


class Run:
    """A run of episodes, and what is known of it however it ends."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.policy = Policy.load(zoo.find(options.policy))
        if options.learned:
            self.policy = LearnedHead.load(options.learned).onto(self.policy)
        self.name = options.env or self.policy.environment
        self.target = self.policy.target_return if options.target_return is None else options.target_return
        self.power = read_power_result(options.power, self.policy.digest) if options.power else None
        self.episodes: list[Episode] = []
        self.circuit = self.policy.geometry  # until a device is open
        self.board: dict[str, Any] | None = None
        self.folder: Path | None = None
        self.films: list[Video | Gif] = []
        self.learning: Learning | None = None

    def fly(self) -> None:
        """Fly every episode. Raises one of `EXPECTED`, or `KeyboardInterrupt`; `finish` still works then."""
        options = self.options
        filming = options.video or options.gif
        if filming:
            filming = self._or_no_video(choose_renderer)
        else:
            no_renderer()
        with contextlib.ExitStack() as at_end:
            ready = at_end.enter_context(cockpit(options, self.policy, self.name, self.target, say, filming))
            self.circuit = ready.device.driver.geometry
            self.board = ready.device.board_facts(ready.device.driver.clock_mhz)
            self.learning = ready.learning
            self.folder = new_folder(options.out)
            table = StepTable(self.folder / "steps.csv", self.policy)
            at_end.callback(table.close)
            for name, kind, wanted in (("episode.mp4", Video, options.video), ("episode.gif", Gif, options.gif)):
                if filming and wanted:
                    self.films.append(kind(self.folder / name, ready.environment))
                    at_end.callback(self.films[-1].close)
            release = at_end.enter_context(held_interrupts())
            if options.jobs > 1:
                self._fly_side_by_side(table, release)
                return
            for index in range(options.episodes):
                self._fly_one(index, ready, table, release)

    def _fly_one(self, index: int, ready: Cockpit, table: StepTable, release: Callable[[], None]) -> None:
        episode = Episode(self.options.seed + index)
        self.episodes.append(episode)
        progress = Progress(f"episode {index} seed {episode.seed}", ready.length, self.options.clock_mhz)

        def on_step(episode: Episode) -> None:
            table.add(index, episode)
            if ready.learning:
                ready.learning.step(index, episode)
            progress.show(episode, ready.learning)
            self.films = [film for film in self.films if self._or_no_video(film.frame)]
            ready.scrub()
            release()

        try:
            fly(episode, ready.environment, ready.agent, ready.device.driver, ready.check, on_step)
        finally:
            progress.close()
        print(self._line(index, episode), flush=True)
        if ready.learning:
            print(ready.learning.line(index), flush=True)

    def _fly_side_by_side(self, table: StepTable, release: Callable[[], None]) -> None:
        options = self.options
        self.episodes = [Episode(options.seed + index) for index in range(options.episodes)]
        with tqdm(desc=f"{options.episodes} episodes", unit="step", disable=None, leave=False) as bar:

            def on_step(index: int, episode: Episode) -> None:
                table.add(index, episode)
                bar.update()
                release()

            def on_end(index: int, episode: Episode) -> None:
                bar.clear()
                print(self._line(index, episode), flush=True)

            fly_side_by_side(options, EXPECTED, self.policy, self.name, self.target, self.episodes, on_step, on_end)

    @staticmethod
    def _or_no_video(act: Callable[[], None]) -> bool:
        """Do what a film needs; if it cannot be done, say so and go on without."""
        try:
            act()
        except VideoError as error:
            say(str(error))
            return False
        return True

    def _line(self, index: int, episode: Episode) -> str:
        cycles = episode.cycles_median
        took = "- cycles" if cycles is None else f"{cycles:,.0f} cycles ({cycles / self.options.clock_mhz:.1f} µs)"
        check = f"{episode.checked_actions} actions equal the golden network's" if self.options.check else "unchecked"
        return (
            f"episode {index} seed {episode.seed}: return {episode.total:.2f} in {len(episode.steps)} steps, "
            f"{took} a decision, {episode.decisions_per_s:.1f} decisions/s, {check}"
        )

    def finish(self, interrupted: bool) -> None:
        """Write the summary and the page about whatever was flown."""
        flown = [episode for episode in self.episodes if episode.steps or episode.mismatches]
        if self.folder is None or not flown:
            return
        options = self.options
        summary = {
            **summarise(flown, self.policy, self.name, self.target, device_name(options), interrupted),
            "circuit_geometry_digest": self.circuit.digest,
            "board": self.board,
            "power": in_short(self.power) if self.power else None,
            "learning": self.learning.summary() if self.learning else None,
        }
        if self.learning:
            self.learning.learned(self.policy, self.name, flown).save(self.folder / "learned.safetensors")
        write_json(self.folder / "episode.json", summary)
        if with_steps := [episode for episode in flown if episode.steps]:
            write_report(self.folder / "report.html", summary, with_steps, self.policy, options.clock_mhz, self.power)
        if options.json:
            write_json(options.json, summary)
        if with_steps and (score := summary["normalized_score"]) is not None:
            print(f"mean return {summary['return']:.2f}, D4RL normalised score {score:.2f}")
        print(f"wrote {self.folder}/: {', '.join(sorted(path.name for path in self.folder.iterdir()))}")


def replay_recorded(options: argparse.Namespace) -> int:
    """Replay a data set and print what was found; return the exit code. Raises one of `EXPECTED`."""
    from host.replay import Replay, read_episodes, replay

    policy = Policy.load(zoo.find(options.policy))
    target = policy.target_return if options.target_return is None else options.target_return
    episodes = read_episodes(options.replay, policy, options.episodes)
    device = open_device(options, policy.geometry, say)
    result, interrupted = Replay(options.replay), False
    try:
        device.driver.load(policy)
        with held_interrupts() as release, tqdm(total=len(episodes.rewards), unit="decision", disable=None) as bar:
            for done in replay(device.driver, policy, episodes, target, device.rails.read, result):
                bar.update(done)
                release()
    except KeyboardInterrupt:
        interrupted = True
        say(f"interrupted after {result.decisions} decisions; what follows is of them")
    finally:
        device.driver.close()
    found = {
        **result.summary(),
        "device": device.name,
        "policy_digest": policy.digest,
        "circuit_geometry_digest": device.driver.geometry.digest,
        "interrupted": interrupted,
    }
    cycles = found["cycles_median"]
    took = "" if cycles is None else f", {cycles:,.0f} cycles ({cycles / options.clock_mhz:.1f} µs) a decision"
    print(
        f"replayed {options.replay}: {result.episodes} episodes, {result.decisions:,} decisions in "
        f"{result.seconds:.1f} s, {result.decisions_per_s:,.1f} decisions/s on the {device.name} device{took}"
    )
    for rail, milliwatts in result.rails().items():
        print(f"{rail}: {milliwatts:,.0f} mW")
    if result.differences:
        print(
            f"{result.word_differences} of {result.words:,} action words and {result.row_differences} counts of "
            f"weight rows differ from the golden network's, first in {result.first}"
        )
    else:
        print(f"{result.words:,} action words equal the golden network's, and the weight rows of every layer")
    if options.json:
        write_json(options.json, found)
    return INTERRUPTED if interrupted else int(result.differences > 0)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = parse(arguments)
    if options.replay:
        try:
            return replay_recorded(options)
        except (*EXPECTED, DataError) as error:
            say(f"run_episode: {error}")
            return 1
    run, code = None, 0
    try:
        run = Run(options)
        run.fly()
    except KeyboardInterrupt:
        steps = sum(len(episode.steps) for episode in run.episodes) if run else 0
        say(f"interrupted after {steps} steps" + ("; keeping what was flown" if steps else ""))
        code = INTERRUPTED
    except EXPECTED as error:
        say(f"run_episode: {error}")
        code = 1
    if run:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # this takes a second; half a page is of no use
        try:
            run.finish(code == INTERRUPTED)
        except (ArtifactError, RunFolderError) as error:
            say(f"run_episode: {error}")
            code = code or 1
        finally:
            signal.signal(signal.SIGINT, before)
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # whoever read the output, `head` for one, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
