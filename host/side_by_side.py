# SPDX-License-Identifier: MIT
"""Episodes side by side: each job is a process with an environment and a circuit of its own."""

import argparse
import contextlib
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

from host.cockpit import cockpit
from host.episode import Episode, Step, fly
from model.deployed.artifact import Policy


class JobError(RuntimeError):
    """A job failed; the message is what it said."""


def fly_side_by_side(
    options: argparse.Namespace,
    expected: tuple[type[Exception], ...],
    policy: Policy,
    name: str,
    target: float,
    episodes: list[Episode],
    on_step: Callable[[int, Episode], None],
    on_end: Callable[[int, Episode], None],
) -> None:
    """Fly the episodes, `options.jobs` at a time, and fill them in as their steps come.

    Steps of different episodes come in any order, those of one in turn; on_step and on_end get an episode's number.
    What came stays in `episodes` however this ends. Raises `JobError` for one of the `expected` failures in a job or a
    job that ended without a word, and what the callbacks raise; the other jobs end then.
    """
    context = multiprocessing.get_context("spawn")  # the parent has threads
    waiting = list(range(len(episodes)))
    processes, connections = [], []
    try:
        for _ in range(min(options.jobs, len(episodes))):
            ours, theirs = context.Pipe()
            process = context.Process(target=_job, args=(theirs, options, expected, policy, name, target), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            connections.append(ours)
            ours.send((waiting[0], episodes[waiting.pop(0)].seed))
        flying = list(connections)
        while flying:
            for connection in wait(flying):
                assert isinstance(connection, Connection)
                try:
                    index, step, end = connection.recv()
                except (EOFError, ConnectionError):
                    raise JobError("a job ended without a word: it was killed, or there is no memory left") from None
                if isinstance(end, str):
                    raise JobError(end)
                episode = episodes[index]
                if step is not None:
                    episode.steps.append(step)
                    episode.total += step.reward
                    on_step(index, episode)
                if end is not None:
                    for field, value in end.items():
                        setattr(episode, field, value)
                    on_end(index, episode)
                    if waiting:
                        connection.send((waiting[0], episodes[waiting.pop(0)].seed))
                    else:
                        flying.remove(connection)
    finally:
        for connection in connections:
            connection.close()
        for process in processes:
            process.terminate()
            process.join()


def _job(
    connection: Connection,
    options: argparse.Namespace,
    expected: tuple[type[Exception], ...],
    policy: Policy,
    name: str,
    target: float,
) -> None:
    """Fly the episodes that are asked for: (number, seed) in; (number, step, end) out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent takes Ctrl-C and ends the jobs
    index = -1

    def send(step: Step | None, end: dict[str, Any] | str | None) -> None:
        connection.send((index, step, end))

    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent has no more, or is gone
        try:
            with cockpit(options, policy, name, target, lambda line: None, False) as ready:
                while True:
                    index, seed = connection.recv()
                    episode = Episode(seed)

                    def on_step(flown: Episode) -> None:
                        send(flown.steps[-1], None)
                        ready.scrub()

                    fly(episode, ready.environment, ready.agent, ready.device.driver, ready.check, on_step)
                    ended = ("terminated", "truncated", "checked_actions", "mismatches", "seconds")
                    send(None, {field: getattr(episode, field) for field in ended})
        except expected as error:
            send(None, f"seed {options.seed + index}: {error}")
