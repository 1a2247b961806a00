# SPDX-License-Identifier: MIT
"""cocotb side of test_accelerator: third factors through the register window, and what is refused around them."""

import numpy as np

from host.plastic_head import PlasticHead
from hw.memory_map import memory_map
from hw.registers import PAGE_OFFSET
from sim.bench_protocol import ALL, STALL, Bench, bench
from sim.reference import Reference


def learns_right(it: Bench, head: PlasticHead, factor: int) -> None:
    """Check what one third factor makes of weights and traces against PyTorch."""
    head.learn(factor)
    it.reference.learn(factor)
    same(it, head)


def same(it: Bench, head: PlasticHead) -> None:
    """Check weights and traces against PyTorch."""
    np.testing.assert_array_equal(head.weights(), it.reference.weight)
    np.testing.assert_array_equal(head.traces(), it.reference.eligibility)
    it.compared += 2


@bench(least=60)
def learning(it: Bench) -> None:
    """Changes counted once, refusals during decisions and changes, a change stopped half way."""
    bus, accelerator, rng = it.bus, it.accelerator, np.random.default_rng(11)
    it.load()
    head, began = PlasticHead(accelerator), it.policy.tensors["head.weight"]
    it.expect("LEARNED", 0)
    for token in it.tokens[:8]:
        it.decides_right(token)
        learns_right(it, head, int(rng.integers(-100, 100)))
    assert (head.weights() != began).any()

    # the same number again changes nothing
    it.write("LEARN", it.read("LEARN"))
    bus.wait(100)
    it.status()
    same(it, head)

    # while decisions run, everything about learning refuses a change
    it.begin_long(5000)
    it.status("BUSY")
    for name in ("FACTOR", "LEARN", "FROZEN"):
        value = it.read(name)
        it.write(name, value ^ 1)
        it.status("BUSY", "REFUSED")
        it.expect(name, value)
    it.control("SOFT_RESET")
    it.status()
    it.reference.begin()
    same(it, head)  # no traces; what was learned stays

    # while a change runs, so do an episode's beginning, START and the pages
    for token in it.tokens[8:12]:
        it.decides_right(token)
    bus.stall(0.0)
    factor, number, start = 90, it.read("LEARN"), it.read("START")
    it.write("FACTOR", factor)
    refused = (
        lambda: it.control("NEW_EPISODE"),
        lambda: it.write("START", start + 1),
        lambda: bus.write32(PAGE_OFFSET, ALL),
        lambda: it.write("LEARN", number + 77),
    )
    for act in refused:
        number += 1
        it.write("PAGE", memory_map(it.g)["head"].page)
        it.write("LEARN", number)
        act()
        assert accelerator.status() - {"BUSY"} == {"REFUSED"}
        it.write("STATUS", ALL)
        bus.poll(it.at["LEARNED"], ALL, number, 1.0)
        it.reference.learn(factor)
        same(it, head)
        it.expect("START", start)
        it.expect("LEARN", number)
        it.status()

    # one that is stopped leaves a circuit that loads, decides and learns
    it.write("LEARN", number + 1)
    accelerator.soft_reset()
    bus.wait(100)
    it.expect("LEARNED", 0)
    it.status()
    bus.stall(STALL)
    it.load()
    it.reference = Reference(it.policy)
    same(it, head)
    for token in it.tokens[12:16]:
        it.decides_right(token)
        learns_right(it, head, int(rng.integers(-100, 100)))
    it.status()
