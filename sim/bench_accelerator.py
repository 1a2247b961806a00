# SPDX-License-Identifier: MIT
"""cocotb side of test_accelerator: the shipped driver on the circuit behind AXI4-Lite, against PyTorch."""

import cocotb
import numpy as np

from host.accelerator import Accelerator
from host.plastic_head import PlasticHead
from model.deployed.artifact import Policy
from model.deployed.geometry import Geometry
from model.deployed.golden_attention import Dynamics
from model.deployed.random_policy import random_policy, random_tokens
from sim.build import parameter
from sim.bus import CocotbBus, driven
from sim.reference import Reference

MOST_MS = 50
"""Of simulated time, 10 ns a cycle: the watchdog of every test here."""


def geometry() -> Geometry:
    return Geometry.from_json(parameter("geometry"))


class Flight:
    """One policy on the circuit and in PyTorch, side by side; counts what it compared."""

    def __init__(self, bus: CocotbBus, accelerator: Accelerator, policy: Policy, deep: bool = True) -> None:
        self.bus, self.accelerator, self.policy, self.deep = bus, accelerator, policy, deep
        self.reference = Reference(policy)
        self.ring = np.zeros((policy.geometry.layers, policy.geometry.window), object)
        self.compared = self.saturations = 0
        self.actions: set[tuple[int, ...]] = set()
        self.signatures: set[int] = set()
        self.activity: list[float] = []
        self.stalls = self.cycles = self.bound = 0
        accelerator.load(policy)
        self.head = PlasticHead(accelerator) if policy.geometry.plasticity else None
        self.changed = 0  # weights of the head, by all third factors
        self.begin()

    def begin(self) -> None:
        """Begin an episode on both sides."""
        self.accelerator.new_episode()
        self.reference.begin()
        self.tokens = 0

    def step(self, token: np.ndarray) -> None:
        """Decide on both sides and compare everything."""
        g, accelerator = self.policy.geometry, self.accelerator
        before = self.bus.busy_cycles
        decision, expected = accelerator.decide(token), self.reference.decide(token)
        seen = self.bus.busy_cycles - before
        np.testing.assert_array_equal(decision.words, expected.words)
        assert accelerator.signatures() == expected.signatures
        counters = accelerator.counters()
        assert counters.saturations == expected.saturations
        assert counters.layer_rows == expected.layer_rows
        assert counters.unit_rows == expected.unit_rows
        assert decision.cycles == seen
        assert sum(counters.unit_cycles.values()) == decision.cycles
        assert 0 < counters.stalls < decision.cycles
        fetches = sum(-(-rows // g.rows_per_cycle) for rows in counters.layer_rows)
        assert decision.cycles > fetches
        self.cycles += decision.cycles
        self.bound += fetches
        slot = self.tokens % g.window
        for layer in range(g.layers):
            self.ring[layer, slot] = expected.kept[layer]
        self.tokens += 1
        assert self.bus.read32(accelerator._at["TOKENS"]) == min(self.tokens, g.reach + 1)
        if self.deep:
            np.testing.assert_array_equal(accelerator.probe_residual(), expected.residual)
            if g.attention == "lrf-dyn":
                self.probe_state()
            else:
                self.probe_ring()
        self.compared += 1
        self.saturations += expected.saturations
        self.actions.add(tuple(expected.words))
        self.signatures.add(expected.signatures[-1])
        self.activity.append(expected.activity)

    def learn(self, factor: int, frozen: bool) -> None:
        """Give both sides a third factor, compare what it makes of the head, and freeze what follows or not."""
        assert self.head
        before = self.head.weights()
        self.head.learn(factor)
        self.reference.learn(factor)
        after = self.head.weights()
        np.testing.assert_array_equal(after, self.reference.weight)
        np.testing.assert_array_equal(self.head.traces(), self.reference.eligibility)
        self.changed += np.count_nonzero(after - before)
        self.head.frozen = self.reference.frozen = frozen
        assert self.head.frozen == frozen

    def probe_ring(self) -> None:
        """Compare the tokens of this episode that the rings hold."""
        found = self.accelerator.probe_ring()
        for (layer, slot), kept in np.ndenumerate(self.ring):
            if slot < self.tokens:
                np.testing.assert_array_equal(found[layer, slot], kept)

    def probe_state(self) -> None:
        """Compare the dendrites, and the value spikes that local taps reach back to."""
        x, values = self.accelerator.probe_state()
        for layer, attention in enumerate(self.reference.attention):
            assert isinstance(attention, Dynamics)
            np.testing.assert_array_equal(x[layer], attention.x)
            seen = attention.values[: values.shape[1]]
            np.testing.assert_array_equal(values[layer, : len(seen)], seen)
            assert not values[layer, len(seen) :].any()

    def assert_varied(self) -> None:
        """Check that the data could have told right from wrong."""
        assert len(self.signatures) > 0.9 * self.compared
        assert len(self.actions) > 2
        assert 0.02 < np.mean(self.activity) < 0.98


def fly_episodes(bus: CocotbBus, say) -> None:
    """Fly random policies on random tokens, several episodes each, with random stalls: all results are PyTorch's."""
    g = geometry()
    policies, lengths = int(parameter("policies")), [int(n) for n in parameter("lengths").split(",")]
    deep = parameter("deep") == "1"
    accelerator = Accelerator(bus, g)
    compared = saturations = actions = changed = 0
    rng = np.random.default_rng(17)
    for seed in range(policies):
        sizes = (None, None) if seed % 3 != 1 else (max(1, g.observation_size - 2), max(1, g.action_size - 1))
        bus.stall(0.0)  # loading is most of the transfers; the first words meet stalls in `protocol`
        flight = Flight(bus, accelerator, random_policy(g, 100 + seed, *sizes), deep)
        for episode, length in enumerate(lengths):
            bus.stall((0.3, 0.0, 0.6)[(seed + episode) % 3])
            if episode:
                flight.begin()
            for number, token in enumerate(random_tokens(flight.policy, length, 1000 * seed + episode)):
                flight.step(token)
                if g.plasticity and number % 3 == 1:
                    limit = 1 << (g.plasticity.factor_bits - 1)
                    flight.learn(int(rng.integers(-limit, limit)), rng.random() < 0.2)
        flight.assert_varied()
        changed += flight.changed
        compared += flight.compared
        saturations += flight.saturations
        actions += len(flight.actions)
    assert accelerator.status() == set()
    assert compared == policies * sum(lengths)
    assert actions > compared // 3
    if g.membrane_bits < 12:
        assert saturations > 0
    assert g.plasticity is None or changed > 100
    say(f"compared {compared} decisions over {bus.transfers} transfers, {saturations} saturations")


@cocotb.test(timeout_time=MOST_MS, timeout_unit="ms")
async def episodes(dut):
    await driven(dut, 1, lambda bus: fly_episodes(bus, dut._log.warning))
