# SPDX-License-Identifier: MIT
"""The measurement: windows of idle, configured and running in an order in which a drift cancels.

A round goes there and back (A B C C B A), window after window at equal distances, so that every state's windows have
the same centre in time: whatever grows or falls linearly adds the same to all three.
"""

from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, field
from typing import Any

from host.accelerator import AcceleratorError
from host.board.rails import MeterError
from host.power.meters import PowerMeter, Reading
from host.power.subjects import CONFIGURED, IDLE, RUNNING, Clock, Subject

ORDER = (IDLE, CONFIGURED, RUNNING, RUNNING, CONFIGURED, IDLE)

LEAST_WINDOW_S = 10.0
"""A shorter one is of no use where a sensor averages over tens of milliseconds and a board warms in seconds."""

SETTLE_S = 2.0
"""Between windows: the change of state, the sensor's averaging, the first warmth."""

PERIOD_S = 0.1
"""Between looks at the meter."""

SILENCE_S = 3.0
"""A meter that says nothing for so long is gone."""

LEAST_READINGS = 2
"""Of a rail in a window."""


@dataclass(frozen=True)
class Plan:
    """How long, how often. Times in seconds."""

    rounds: int
    window_s: float
    settle_s: float = SETTLE_S
    period_s: float = PERIOD_S


@dataclass
class Window:
    """A window and what it gave. Times in seconds since the measurement began."""

    round: int
    state: str
    begin_s: float
    end_s: float
    decisions: int
    cycles: int
    counted_s: float  # between the two looks at the counters
    temperature_c: float | None  # at its end
    mw: dict[str, float]  # rail -> mean of its readings
    readings: dict[str, int]  # rail -> how many


@dataclass
class Recording:
    """What was measured so far: whole windows."""

    windows: list[Window] = field(default_factory=list)

    def rounds(self) -> list[list[Window]]:
        """Return the windows of each complete round."""
        whole = len(self.windows) // len(ORDER)
        return [self.windows[len(ORDER) * number : len(ORDER) * (number + 1)] for number in range(whole)]

    def to_json(self) -> list[dict[str, Any]]:
        """Return the windows for a result."""
        return [asdict(window) for window in self.windows]


@dataclass(frozen=True)
class Place:
    """Where in the measurement a reading was taken."""

    t_s: float  # since it began
    round: int
    window: int  # of the round
    state: str
    settled: bool  # whether it counts


class Listener:
    """Reads the meter, tells every reading to `note`, and notices silence."""

    def __init__(self, meter: PowerMeter, note: Callable[[Place, Reading], None]) -> None:
        self._meter = meter
        self._note = note
        self._heard: dict[str, float] = {}
        self._began: float | None = None

    def listen(self, place: Place) -> list[Reading]:
        """Return what is new. Raises `MeterError` where the meter, or a rail that it had, is silent."""
        now = place.t_s
        self._began = now if self._began is None else self._began
        readings = self._meter.read()
        for reading in readings:
            self._heard[reading.rail] = now
            self._note(place, reading)
        silent = [rail for rail, heard in self._heard.items() if now - heard > SILENCE_S]
        if self._meter.measures and (silent or (not self._heard and now - self._began > SILENCE_S)):
            what = f"rail {silent[0]}" if silent else "the meter"
            raise MeterError(
                f"{self._meter.source}: {what} has given no reading for {SILENCE_S:g} s; see that it is connected and "
                "its program writes each line at once"
            )
        return readings


def measure(
    subject: Subject,
    meter: PowerMeter,
    plan: Plan,
    recording: Recording,
    note: Callable[[Place, Reading], None],
    temperature: Callable[[], float | None],
    clock: Clock,
) -> Generator[Place, None, None]:
    """Run the rounds and add each whole window to `recording`, which stays valid however this ends.

    note : told of every reading at once. temperature : of the die, in degrees Celsius. Yields after each look at the
    meter. Raises `MeterError`, `AcceleratorError` and what the subject's driver raises; the subject is left stopped.
    """
    listener, start = Listener(meter, note), clock.now()
    end = start

    def counts() -> tuple[float, tuple[int, int]]:
        before, found = clock.now(), subject.counts()
        return (before + clock.now()) / 2, found

    try:
        for number in range(plan.rounds):
            for index, state in enumerate(ORDER):
                subject.enter(state, number)
                begin = max(end + plan.settle_s, clock.now())
                while (at := clock.now()) < begin:
                    listener.listen(place := Place(at - start, number, index, state, False))
                    yield place
                    subject.work(min(begin, at + plan.period_s))
                listener.listen(Place(clock.now() - start, number, index, state, False))  # what came before the window
                since, (decisions, cycles) = counts()
                sums: dict[str, list[float]] = {}
                for tick in range(max(1, round(plan.window_s / plan.period_s))):
                    subject.work(begin + (tick + 0.5) * plan.period_s)  # so their centre is the window's
                    place = Place(clock.now() - start, number, index, state, True)
                    for reading in listener.listen(place):
                        sums.setdefault(reading.rail, []).append(reading.mw)
                    yield place
                end = begin + plan.window_s
                subject.work(end)
                until, (more, other) = counts()
                subject.check(state)
                window = Window(
                    *(number, state, begin - start, end - start),
                    *((more - decisions) % (1 << 32), other - cycles, until - since),
                    temperature(),
                    {rail: sum(values) / len(values) for rail, values in sums.items()},
                    {rail: len(values) for rail, values in sums.items()},
                )
                _judge(window, meter)
                recording.windows.append(window)
    finally:
        subject.leave()


def _judge(window: Window, meter: PowerMeter) -> None:
    """Raise where a window cannot be what it should."""
    if (window.decisions > 0) != (window.state == RUNNING):
        raise AcceleratorError(
            f"{window.decisions} decisions were made in a window in which the circuit was {window.state}; reset it and "
            "try again"
        )
    few = [rail for rail, count in window.readings.items() if count < LEAST_READINGS]
    if meter.measures and (few or not window.readings):
        raise MeterError(
            f"{meter.source} gave {'too few readings' if few else 'no reading'} in a window of "
            f"{window.end_s - window.begin_s:g} s; take longer windows (--window-s) or a faster meter"
        )
