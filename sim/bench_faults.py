# SPDX-License-Identifier: MIT
"""cocotb side of `sim.faults`: one fault at a time into the accelerator, and what becomes of its decisions."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.task import resume
from cocotb.triggers import FallingEdge, RisingEdge
from cocotbext.axi import AxiLiteBus, AxiLiteMaster

from host.accelerator import Accelerator, AcceleratorError
from host.policy_image import pack
from host.scrub import Scrubber
from model.deployed.artifact import Policy
from model.deployed.geometry import Geometry
from model.deployed.golden import GoldenNetwork
from model.deployed.random_policy import random_policy, random_tokens
from sim.build import parameter
from sim.bus import CocotbBus, quiet, released

BEFORE, AFTER = 2, 4
"""Decisions of an episode before the one that is hit, and from it on."""

WATCHDOG_CYCLES = 4_000

SCRUB_WORDS = 256


def _child(place: Any, name: str) -> Any:
    """Return what an instance holds under a name; Verilator may spell what is no letter or digit in hexadecimal."""
    spelled = re.sub(r"\W", lambda found: f"__0{ord(found[0]):02X}", name)
    for candidate in (name, spelled, f"\\{name} "):
        with contextlib.suppress(KeyError, AttributeError):
            return place[candidate]
    raise KeyError(f"{place._path} holds no {name}, but {', '.join(sorted(child._name for child in place))}")


class Victim:
    """The accelerator with a policy on it, what it should do, and handles of what can be hit."""

    def __init__(self, dut: Any, bus: CocotbBus) -> None:
        self.dut, self.bus = dut, bus
        geometry = Geometry.from_json(parameter("geometry"))
        self.accelerator = Accelerator(bus, geometry)
        bus.write32(self.accelerator._at["WATCHDOG"], WATCHDOG_CYCLES)
        self.policy: Policy = random_policy(geometry, int(parameter("seed")))
        self.image = pack(self.policy)
        self.accelerator.load(self.policy)
        self.tokens = random_tokens(self.policy, BEFORE + AFTER, int(parameter("seed")))
        network = GoldenNetwork(self.policy)
        self.expected = [network.decide(token) for token in self.tokens]
        # without a fault: how long the decision takes that will be hit, and that all is as it should be
        self.accelerator.new_episode()
        cycles = [self.accelerator.decide(token).cycles for token in self.tokens]
        self.cycles = cycles[BEFORE]

    def handle(self, path: list[str], name: str) -> Any:
        """Return a variable's handle."""
        place = self.dut
        for level in (*path, name):
            place = _child(place, level)
        return place

    @resume
    async def prepare(self, fault: dict[str, Any]) -> None:
        """Let the fault happen `fault["cycle"]` cycles after the core begins its next decision."""
        handle = self.handle(fault["path"], fault["name"])
        cocotb.start_soon(self._strike(fault, handle if fault["word"] is None else handle[fault["word"]]))

    async def _strike(self, fault: dict[str, Any], handle: Any) -> None:
        while not self.dut.accelerator.core.busy.value:
            await RisingEdge(self.dut.clk)
        for _ in range(fault["cycle"]):
            await RisingEdge(self.dut.clk)
        await FallingEdge(self.dut.clk)
        if fault["stuck"] is None:
            handle.value = int(handle.value) ^ 1 << fault["bit"]
            return
        while self.dut.accelerator.core.busy.value:  # held until the decision ends, one way or another
            handle.value = fault["stuck"]
            await FallingEdge(self.dut.clk)

    def suffer(self, fault: dict[str, Any]) -> dict[str, Any]:
        """Fly an episode with the fault in one of its decisions; return what was seen of it."""
        accelerator, seen = (
            self.accelerator,
            dict.fromkeys(("wrong", "signature", "watchdog", "flag", "read_back"), False),
        )
        accelerator.new_episode()
        try:
            for number, (token, expected) in enumerate(zip(self.tokens, self.expected, strict=True)):
                if number == BEFORE:
                    self.prepare(fault)
                decision = accelerator.decide(token)
                seen["wrong"] |= not np.array_equal(decision.words, expected.action)
                seen["signature"] |= accelerator.signatures() != expected.signatures
            seen["flag"] = bool(accelerator.status() - {"BUSY"})
        except AcceleratorError:
            seen["watchdog"] = True
        accelerator.soft_reset()
        accelerator._clear_status()
        if fault["memory"]:
            scrubber = Scrubber(accelerator, self.image, SCRUB_WORDS)
            try:
                for _ in range(scrubber.period):
                    scrubber.step()
            except AcceleratorError:
                seen["read_back"] = True
        self.repair()
        return seen

    def repair(self) -> None:
        """Bring registers and policy back to what they were."""
        self.bus.write32(self.accelerator._at["WATCHDOG"], WATCHDOG_CYCLES)
        self.bus.write32(self.accelerator._at["REPEAT"], 0)
        self.accelerator.load(self.policy)


def campaign(dut: Any, bus: CocotbBus) -> None:
    """Run the faults of the parameter file, write what was seen beside it."""
    victim, plan = Victim(dut, bus), Path(parameter("plan"))
    results = []
    for fault in json.loads(plan.read_text()):
        fault["cycle"] = int(fault.pop("moment") * victim.cycles)
        results.append(fault | victim.suffer(fault))
        with plan.with_suffix(".done").open("a") as done:
            done.write(json.dumps(results[-1]) + "\n")


@cocotb.test()
async def faults(dut):
    quiet()
    Clock(dut.clk, 10, "ns").start()
    dut.rst.value = 1
    master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil_"), dut.clk, dut.rst)
    bus = CocotbBus(dut.clk, master, dut.accelerator.core.busy, 1)
    await released(bus, dut.clk, dut.rst, 0, lambda bus: campaign(dut, bus))
