# SPDX-License-Identifier: MIT
"""Where the bench says the CPU time goes."""

import time

import pytest

from sim.bench import PARTS, CpuTime


class Busy:
    """An object whose methods take CPU time, one of them through another."""

    def inner(self, seconds: float) -> float:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
        return seconds

    def outer(self, seconds: float) -> float:
        return self.inner(seconds) + self.inner(seconds)

    def fail(self) -> None:
        self.inner(0.01)
        raise RuntimeError("as it should")


def test_time_is_counted_once_and_under_its_part() -> None:
    cpu, busy, other = CpuTime(), Busy(), Busy()
    cpu.watch("check", busy, "inner", "outer", "fail")
    cpu.watch("environment", other, "inner")
    start = time.process_time()
    assert busy.outer(0.05) == 0.1
    with pytest.raises(RuntimeError, match="as it should"):
        busy.fail()
    other.inner(0.02)
    total = time.process_time() - start
    assert set(cpu.seconds) == set(PARTS)
    assert cpu.seconds["check"] >= 0.11
    assert cpu.seconds["environment"] >= 0.02
    assert sum(cpu.seconds.values()) <= total
    assert cpu.seconds["circuit"] == cpu.seconds["host"] == 0
