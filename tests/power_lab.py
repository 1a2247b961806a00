# SPDX-License-Identifier: MIT
"""A measurement of power in made-up time: a clock that jumps, a subject of known rate, a meter of known power."""

from host.power.meters import PowerMeter, Reading
from host.power.subjects import RUNNING
from host.power.windows import Plan, Recording, measure


class JumpingClock:
    """Time passes only where somebody waits for it."""

    def __init__(self):
        self.at = 1000.0

    def now(self):
        return self.at

    def sleep_until(self, when_s):
        self.at = max(self.at, when_s)


class Subject:
    """Decides `rate` times a second while running, with 500 cycles a decision; a change of state takes `change_s`."""

    meanings = {}

    def __init__(self, clock, rate=1000.0, change_s=0.0):
        self.clock, self.rate, self.change_s = clock, rate, change_s
        self.entered = []  # (time, state)
        self.left = 0
        self.stuck = False
        self.runs_on = False

    def enter(self, state, round_):
        self.clock.at += self.change_s
        self.entered.append((self.clock.at, state))

    @property
    def state(self):
        return self.entered[-1][1] if self.entered else None

    def counts(self):
        running = self.runs_on or (self.state == RUNNING and not self.stuck)
        decisions = round((self.clock.at - self.entered[-1][0]) * self.rate) if running else 0
        return decisions % (1 << 32), 500 * decisions

    def work(self, until_s):
        self.clock.sleep_until(until_s)

    def check(self, state):
        pass

    def leave(self):
        self.left += 1


class Supply(PowerMeter):
    """Says what `power(state, seconds)` gives, in milliwatts by rail; `gone_at` is when it falls silent."""

    def __init__(self, subject, power, gone_at=float("inf")):
        super().__init__("supply", "made up")
        self.subject, self.power, self.gone_at = subject, power, gone_at
        self.start = subject.clock.at

    def read(self):
        seconds = self.subject.clock.at - self.start
        if seconds >= self.gone_at:
            return []
        return [Reading(rail, mw) for rail, mw in self.power(self.subject.state, seconds).items()]


def run(power, rounds=2, gone_at=float("inf"), plan=None, temperature=lambda: None, **options):
    """Return recording, readings with their places, subject and what ended the measurement."""
    clock = JumpingClock()
    subject = Subject(clock, **{k: v for k, v in options.items() if k in ("rate", "change_s")})
    subject.stuck, subject.runs_on = options.get("stuck", False), options.get("runs_on", False)
    recording, readings, error = Recording(), [], None
    plan = plan or Plan(rounds, 10.0)
    meter = Supply(subject, power, gone_at)
    try:
        for _ in measure(subject, meter, plan, recording, lambda *found: readings.append(found), temperature, clock):
            pass
    except RuntimeError as ended:
        error = ended
    return recording, readings, subject, error
