# SPDX-License-Identifier: MIT
"""All that an episode needs, opened together: environment, device with the policy on it, agent, check."""

import argparse
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gymnasium

from host.accelerator import Accelerator
from host.agent import Agent
from host.check import GoldenCheck
from host.devices import Device, open_device
from host.environment import make_environment
from host.learning import Learning
from host.plastic_head import PlasticHead
from host.policy_image import pack
from host.scrub import Scrubber
from model.deployed.artifact import Policy
from model.deployed.sizes import Plasticity


class Cockpit(NamedTuple):
    """What `host.episode.fly` takes, and where it comes from."""

    environment: gymnasium.Env[Any, Any]
    device: Device
    agent: Agent
    check: GoldenCheck | None
    scrubber: Scrubber | None
    learning: Learning | None

    @property
    def length(self) -> int | None:
        """Steps of an episode at most, None where the environment does not say."""
        return self.environment.spec.max_episode_steps if self.environment.spec else None

    def scrub(self) -> None:
        """Read a part of the policy back where that was asked for. Raises `AcceleratorError` if it has changed."""
        if self.scrubber:
            self.scrubber.step()


@contextlib.contextmanager
def cockpit(
    options: argparse.Namespace, policy: Policy, name: str, target: float, note: Callable[[str], None], render: bool
) -> Iterator[Cockpit]:
    """Open the environment `name` and the device that the options choose, load the policy, and close them at the end.

    target : return to ask for. note : told what takes so long, and which board decides. Raises `UnsuitableEnvironment`,
    and whatever opening a device and loading a policy raise, `GeometryError` where a head is to learn that cannot.
    """
    environment = make_environment(name, policy, render=render)
    with contextlib.ExitStack() as at_end:
        at_end.callback(environment.close)
        wanted = policy.geometry
        if options.learn is not None and wanted.plasticity is None:
            wanted = dataclasses.replace(wanted, plasticity=Plasticity())
        device = open_device(options, wanted, note)
        at_end.callback(device.driver.close)
        if device.name == "board":
            note(f"deciding on {device.reason}")
        device.driver.load(policy)
        there = policy.on(device.driver.geometry)
        agent = Agent(device.driver, policy, environment.action_space, target)
        check = GoldenCheck(there, options.learn is not None) if options.check else None
        scrubber, learning = None, None
        if options.scrub:
            assert isinstance(device.driver, Accelerator)  # the command line refuses a board server
            scrubber = Scrubber(device.driver, pack(there), options.scrub)
        if options.learn is not None:
            assert isinstance(device.driver, Accelerator)  # here too
            learning = Learning(PlasticHead(device.driver), options.learn, check)
        elif there.geometry.plasticity and isinstance(device.driver, Accelerator):
            PlasticHead(device.driver).frozen = True
        yield Cockpit(environment, device, agent, check, scrubber, learning)
