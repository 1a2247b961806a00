# SPDX-License-Identifier: MIT
"""What is measured while it is idle, configured and running: a circuit, or this machine's processor in its place."""

import time
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from host.accelerator import AcceleratorError, Driver
from model.deployed.artifact import Policy, quantise_token
from model.deployed.golden import GoldenNetwork

IDLE, CONFIGURED, RUNNING = STATES = ("idle", "configured", "running")


class Clock:
    """Time in seconds, and waiting for it."""

    def now(self) -> float:
        """Return the time."""
        return time.monotonic()

    def sleep_until(self, when_s: float) -> None:
        """Return at that time, at once if it is past."""
        if (left := when_s - time.monotonic()) > 0:
            time.sleep(left)


class Subject(Protocol):
    """What draws the power. `meanings` says what each state is, for people."""

    meanings: dict[str, str]

    def enter(self, state: str, round_: int) -> None:
        """Go into a state."""

    def counts(self) -> tuple[int, int]:
        """Return decisions and busy cycles so far; they may wrap or begin anew when a state is entered."""

    def work(self, until_s: float) -> None:
        """Let time pass until then, in the state entered last."""

    def check(self, state: str) -> None:
        """Raise `AcceleratorError` where the state did not last until now."""

    def leave(self) -> None:
        """Stop whatever runs."""


def draw_tokens(policy: Policy, count: int, seed: int) -> list[NDArray[np.int64]]:
    """Return tokens [inputs] of usual size: normalised observations, any action, the policy's own return-to-go."""
    rng = np.random.default_rng(seed)
    tokens = []
    for _ in range(count):
        action = rng.uniform(-1, 1, policy.action_size)
        observation = rng.normal(size=policy.observation_size)
        goal = policy.target_return / policy.return_scale
        tokens.append(quantise_token(policy, np.array([*observation, *action, goal])))
    return tokens


class CircuitSubject:
    """A circuit behind a driver.

    tokens : one a round; the circuit decides on it over and over. simulated : whether it goes on only while somebody
    looks at it.
    """

    def __init__(
        self, driver: Driver, policy: Policy, tokens: list[NDArray[np.int64]], simulated: bool, clock: Clock
    ) -> None:
        self._driver = driver
        self._policy = policy
        self._tokens = tokens
        self._simulated = simulated
        self._clock = clock
        self._running = False
        self.meanings = {
            IDLE: "the circuit is reset and not started",
            CONFIGURED: "the policy is loaded, one decision is made, the circuit waits",
            RUNNING: "a processor simulates the circuit, which no board does"
            if simulated
            else "the circuit repeats a decision by itself (REPEAT); no processor polls",
        }

    def enter(self, state: str, round_: int) -> None:
        """Reset the circuit, then load or start it."""
        token = self._tokens[round_]
        self._driver.stop()
        self._running = state == RUNNING
        if state == CONFIGURED:
            self._driver.load(self._policy)
            self._driver.decide(token)
        elif state == RUNNING:
            self._driver.repeat(token)

    def counts(self) -> tuple[int, int]:
        """Return decisions and busy cycles since the state was entered."""
        return self._driver.totals()

    def work(self, until_s: float) -> None:
        """Sleep; look at a simulated circuit instead, so that it goes on."""
        while self._simulated and self._running and self._clock.now() < until_s:
            self._driver.status()
        self._clock.sleep_until(until_s)

    def check(self, state: str) -> None:
        """See that a running circuit runs still, and another does not."""
        status = self._driver.status()
        if ("BUSY" in status) != (state == RUNNING):
            flags = ", ".join(sorted(status)) or "no flag"
            raise AcceleratorError(
                f"at the end of a window the circuit should be {state}, STATUS shows {flags}; reset it and try again"
            )

    def leave(self) -> None:
        """Stop the circuit."""
        self._driver.stop()


class ProcessorSubject:
    """The golden network on one core of this machine, in place of a circuit."""

    def __init__(self, policy: Policy, tokens: list[NDArray[np.int64]], clock: Clock) -> None:
        self._policy = policy
        self._tokens = tokens
        self._clock = clock
        self._network: GoldenNetwork | None = None
        self._token: NDArray[np.int64] | None = None
        self._decisions = 0
        self.meanings = {
            IDLE: "this machine's processor waits, nothing is loaded",
            CONFIGURED: "the policy is loaded, one decision is made, the processor waits",
            RUNNING: "one core of this machine's processor decides: the golden network in numpy, the same integers as "
            "the circuit, not tuned for speed",
        }

    def enter(self, state: str, round_: int) -> None:
        """Load the network, or let go of it."""
        self._token = None
        if state == IDLE:
            self._network = None
        elif state == CONFIGURED or self._network is None:
            self._network = GoldenNetwork(self._policy)
            self._network.decide(self._tokens[round_])
        if state == RUNNING:
            self._token = self._tokens[round_]

    def counts(self) -> tuple[int, int]:
        """Return decisions; a processor has no cycles of the circuit."""
        return self._decisions, 0

    def work(self, until_s: float) -> None:
        """Decide, or sleep."""
        if self._token is None or self._network is None:
            self._clock.sleep_until(until_s)
            return
        while self._clock.now() < until_s:
            self._network.decide(self._token)
            self._decisions += 1

    def check(self, state: str) -> None:
        """A processor is where it was put."""

    def leave(self) -> None:
        """Nothing runs outside `work`."""
