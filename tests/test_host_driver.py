# SPDX-License-Identifier: MIT
"""The driver on the golden device: equality with the golden network, and every refusal."""

import dataclasses
import re

import numpy as np
import pytest

from host.accelerator import Accelerator, AcceleratorError
from host.bus import BusError, BusTimeout
from host.golden_device import GoldenBus
from host.policy_image import pack
from hw.memory_map import memory_map
from hw.registers import MAGIC, PAGE_OFFSET, field_mask, offsets, register_table
from model.deployed.artifact import ArtifactError
from model.deployed.geometry import Geometry
from model.deployed.golden import GoldenNetwork
from model.deployed.presets import HOPPER_Z2, HOPPER_Z2_LEAN, HOPPER_Z2_SSSA, HOPPER_Z2_TSSA, ODD, PRESETS, TINY
from model.deployed.random_policy import random_policy, random_tokens

# those of 256 channels take ten seconds each and have nothing that the others lack
GEOMETRIES = {name: preset for name, preset in PRESETS.items() if preset.d_model < 256} | {
    "TINY LRF-Dyn, ungated": dataclasses.replace(TINY.with_attention("lrf-dyn"), gate=False),
    "ODD LRF-Dyn": dataclasses.replace(ODD.with_attention("lrf-dyn"), dendrites=3),
}


def loaded(policy):
    accelerator = Accelerator(GoldenBus(policy.geometry), policy.geometry)
    accelerator.load(policy)
    return accelerator


def assert_ring_is_shown(accelerator, network, number):
    g, ring = network.geometry, accelerator.probe_ring()
    for layer in range(g.layers):
        for age, spikes in enumerate(network.ring(layer)):
            np.testing.assert_array_equal(ring[layer, (number - age) % g.window], spikes)


def assert_state_is_shown(accelerator, network):
    x, values = accelerator.probe_state()
    for layer, attention in enumerate(network.attention):
        np.testing.assert_array_equal(x[layer], attention.x)
        seen = attention.values[: values.shape[1]]
        np.testing.assert_array_equal(values[layer, : len(seen)], seen)
        assert not values[layer, len(seen) :].any()


@pytest.mark.parametrize("smaller", [False, True], ids=["full", "smaller"])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_decisions_equal_the_golden_network(geometry, smaller):
    policy = random_policy(geometry, 5, *((3, 1) if smaller else (None, None)))
    accelerator, network = loaded(policy), GoldenNetwork(policy)
    actions, saturations = set(), 0
    for episode in range(2):
        accelerator.new_episode()
        network.reset()
        tokens = random_tokens(policy, 2 * geometry.reach + 3, episode)
        for number, token in enumerate(tokens):
            decision, trace = accelerator.decide(token), network.decide(token)
            np.testing.assert_array_equal(decision.words, trace.action)
            assert decision.words.dtype == np.int16
            assert decision.cycles == 0
            assert accelerator.signatures() == trace.signatures
            np.testing.assert_array_equal(accelerator.probe_residual(), trace.membranes[-1])
            counters = accelerator.counters()
            assert counters.saturations == trace.saturations
            assert sum(counters.layer_rows) == sum(counters.unit_rows.values()) > 0
            if "state" in memory_map(geometry):
                assert_state_is_shown(accelerator, network)
            else:
                assert_ring_is_shown(accelerator, network, number)
            actions.update(decision.words.tolist())
            saturations += trace.saturations
    assert len(actions) > 4
    assert accelerator.status() == set()
    assert accelerator.totals() == (2 * len(tokens), 0)


def test_another_policy_replaces_the_first_one():
    first, second = random_policy(TINY, 1), random_policy(TINY, 2, 4, 2)
    accelerator = loaded(first)
    accelerator.decide(random_tokens(first, 1, 0)[0])
    accelerator.load(second)
    network = GoldenNetwork(second)
    for token in random_tokens(second, 5, 0):
        np.testing.assert_array_equal(accelerator.decide(token).words, network.decide(token).action)


def test_repeat_and_soft_reset():
    policy = random_policy(TINY, 1)
    accelerator, network = loaded(policy), GoldenNetwork(policy)
    bus, at = accelerator.bus, offsets(TINY)
    token = random_tokens(policy, 1, 0)[0]
    bus.write32(at["REPEAT"], 2)
    decision = accelerator.decide(token)
    for _ in range(3):
        trace = network.decide(token)
    np.testing.assert_array_equal(decision.words, trace.action)
    assert bus.read32(at["TOKENS"]) == 3
    bus.write32(at["REPEAT"], 0)
    accelerator.soft_reset()
    for name in ("DONE", "TOKENS", "SATURATIONS", "ACTION"):
        assert bus.read32(at[name]) == 0, name
    network.reset()
    np.testing.assert_array_equal(accelerator.decide(token).words, network.decide(token).action)


# The register model


def test_register_table_answers_as_declared():
    bus = GoldenBus(ODD)
    for register in register_table(ODD):
        for index in range(register.count):
            address = register.offset + 4 * index
            before = bus.read32(address)
            if register.name in ("CONTROL", "START", "STATUS"):
                continue
            bus.write32(address, 0xA5A5_A5A5)
            expected = 0xA5A5_A5A5 & ((1 << register.width) - 1) if register.access == "RW" else before
            assert bus.read32(address) == expected, register.name
    assert bus.read32(offsets(ODD)["STATUS"]) == 0
    assert bus.read32(offsets(ODD)["MAGIC"]) == MAGIC


def test_pages_keep_the_bits_that_exist():
    bus, at = GoldenBus(ODD), offsets(ODD)
    for section in memory_map(ODD).values():
        bus.write32(at["PAGE"], section.page)
        bus.write_block(PAGE_OFFSET, np.full(section.stride, 0xFFFF_FFFF, np.uint32))
        found = sum(int(word) << 32 * i for i, word in enumerate(bus.read_block(PAGE_OFFSET, section.stride)))
        assert found == ((1 << section.row_bits) - 1 if section.writable else 0), section.name
        if section.writable:
            assert bus.read32(at["STATUS"]) == 0
    bus.write32(at["STATUS"], 0xFFFF_FFFF)


@pytest.mark.parametrize("access", ["register", "page", "row", "probe"])
def test_addresses_without_a_word_are_reported(access):
    bus, at = GoldenBus(TINY), offsets(TINY)
    bad = field_mask(TINY, "STATUS", "BAD_ADDRESS")
    residual = memory_map(TINY)["residual"]
    if access == "register":
        bus.write32(0x7FFC, 1)
    elif access == "page":
        bus.write32(at["PAGE"], 0xFFFF)
        assert bus.read32(PAGE_OFFSET) == 0
    elif access == "row":
        bus.write32(at["PAGE"], residual.page)
        assert bus.read32(PAGE_OFFSET + 4 * residual.rows * residual.stride) == 0
    else:
        bus.write32(at["PAGE"], residual.page)
        bus.write32(PAGE_OFFSET, 1)
    assert bus.read32(at["STATUS"]) == bad
    bus.write32(at["STATUS"], bad)
    assert bus.read32(at["STATUS"]) == 0


def test_addresses_outside_the_window_are_a_defect_of_the_caller():
    with pytest.raises(BusError, match="register window"):
        GoldenBus(TINY).read_block(0xFFFC, 2)
    with pytest.raises(BusError, match="register window"):
        GoldenBus(TINY).read32(2)


def test_starting_without_a_policy_says_so():
    bus = GoldenBus(TINY)
    with pytest.raises(BusError, match="load one before START"):
        bus.write32(offsets(TINY)["START"], 1)


def test_polling_gives_up():
    with pytest.raises(BusTimeout, match=r"0x0200 stayed 0x00000000 for 0\.01 s"):
        GoldenBus(TINY).poll(offsets(TINY)["DONE"], 0xFF, 1, 0.01)


# Refusals


class Altered(GoldenBus):
    """A circuit whose words at some addresses read otherwise than they are."""

    def __init__(self, geometry, change):
        super().__init__(geometry)
        self.change = change

    def read_block(self, address, count):
        words = super().read_block(address, count)
        return np.array([self.change(address + 4 * i, int(word)) for i, word in enumerate(words)], np.uint32)


def reading(name, value, geometry=TINY):
    address = offsets(geometry)[name]
    return Altered(geometry, lambda at, word: value if at == address else word)


def test_no_circuit_is_refused():
    with pytest.raises(AcceleratorError, match="no spikeloop circuit answers: MAGIC reads 0xffffffff"):
        Accelerator(reading("MAGIC", 0xFFFF_FFFF), TINY)


def test_another_interface_version_is_refused():
    with pytest.raises(AcceleratorError, match="version 9, this driver needs 1"):
        Accelerator(reading("VERSION", 9), TINY)


def test_another_preset_is_named_with_what_differs():
    with pytest.raises(AcceleratorError, match=r"geometry ODD.*d_model: 20, 128; .*membrane_bits: 8, 12"):
        Accelerator(GoldenBus(ODD), HOPPER_Z2)


def test_an_unknown_geometry_is_refused():
    other = dataclasses.replace(TINY, layers=3)
    with pytest.raises(AcceleratorError, match=f"0x{other.identifier:08x} is not the one asked for"):
        Accelerator(GoldenBus(other), TINY)


def test_a_policy_of_another_geometry_is_refused():
    accelerator = Accelerator(GoldenBus(TINY), TINY)
    with pytest.raises(ArtifactError, match=r"another geometry.*: layers: 3, 2; window: 5, 4; use"):
        accelerator.load(random_policy(dataclasses.replace(TINY, layers=3, window=5, group=16), 0))


WIDE = {"rows_per_cycle": 4, "group": 2}


@pytest.mark.parametrize("geometry", [TINY, ODD, TINY.with_attention("tssa"), TINY.with_attention("lrf-dyn")])
def test_a_policy_decides_the_same_on_a_circuit_of_other_rows_and_groups(geometry):
    policy = random_policy(geometry, 3, 4, 2)
    circuit = dataclasses.replace(geometry, **WIDE)
    accelerator = Accelerator(GoldenBus(circuit), circuit)
    accelerator.load(policy)
    one, there = GoldenNetwork(policy), GoldenNetwork(policy.on(circuit))
    signed = set()
    for token in random_tokens(policy, 3 * geometry.reach + 2, 1):
        decision, trace = accelerator.decide(token), one.decide(token)
        np.testing.assert_array_equal(decision.words, trace.action)
        np.testing.assert_array_equal(accelerator.probe_residual(), trace.membranes[-1])
        assert accelerator.counters().saturations == trace.saturations
        assert accelerator.signatures() == there.decide(token).signatures
        signed.add(accelerator.signatures() == trace.signatures)
    assert signed == {False}  # a group more or less is another order of the same words


def test_what_is_packed_for_another_circuit_lies_elsewhere():
    policy = random_policy(TINY, 0)
    here, there = pack(policy), pack(policy.on(dataclasses.replace(TINY, **WIDE)))
    assert here.registers == there.registers
    assert {name for name in here.sections if here.sections[name].tolist() != there.sections[name].tolist()} == {
        *("taps", "channels", "embed", "head")
    }


def test_every_field_but_rows_and_group_must_be_the_circuit_s():
    policy = random_policy(HOPPER_Z2_LEAN, 0, 5, 2)
    sizes = {field.name for field in dataclasses.fields(Geometry) if type(field.default) is not str}
    # pssa has but one value of some, and a choice that goes with others alone is not changed alone
    alone = sizes - {"rows_per_cycle", "group", "dendrites", "gate", "heads", "period", "plasticity"}
    for name in alone:
        value = getattr(HOPPER_Z2_LEAN, name)
        other = not value if type(value) is bool else value // 2
        circuit = dataclasses.replace(HOPPER_Z2_LEAN, **{name: other})
        with pytest.raises(ArtifactError, match="another geometry .*: " + re.escape(f"{name}: {value}, {other}; use")):
            policy.on(circuit)
    for choice in ({"phase": "query"}, {"phase": "input", "heads": 2}, {"routing": "count"}):
        with pytest.raises(ArtifactError, match=r"another geometry than the circuit .*: .*(phase|routing): none, "):
            policy.on(dataclasses.replace(HOPPER_Z2_LEAN, **choice))
    assert policy.on(HOPPER_Z2).geometry == HOPPER_Z2


def test_another_attention_is_refused_in_words():
    with pytest.raises(AcceleratorError, match=r"geometry HOPPER_Z2, .* differ in attention: pssa, tssa; load"):
        Accelerator(GoldenBus(HOPPER_Z2), HOPPER_Z2_TSSA)
    with pytest.raises(ArtifactError, match=r"another geometry .*: attention: sssa, tssa; use a policy"):
        Accelerator(GoldenBus(HOPPER_Z2_TSSA), HOPPER_Z2_TSSA).load(random_policy(HOPPER_Z2_SSSA, 0))


def test_step_gates_and_a_circuit_without_them_are_refused_in_words():
    gated = dataclasses.replace(TINY, adaptive=True)
    with pytest.raises(ArtifactError, match=r"another geometry .*: adaptive: True, False; use a policy or a circuit"):
        Accelerator(GoldenBus(TINY), TINY).load(random_policy(gated, 0))
    with pytest.raises(ArtifactError, match=r"another geometry .*: adaptive: False, True; use a policy or a circuit"):
        Accelerator(GoldenBus(gated), gated).load(random_policy(TINY, 0))


def test_with_step_gates_the_group_is_the_policy_s():
    gated = dataclasses.replace(TINY, adaptive=True)
    policy = random_policy(gated, 0)
    assert policy.on(dataclasses.replace(gated, rows_per_cycle=2)).geometry.rows_per_cycle == 2
    with pytest.raises(ArtifactError, match=r"another geometry .*: group: 8, 4; use"):
        policy.on(dataclasses.replace(gated, group=4))


def test_step_gates_are_loaded_and_decide_as_golden():
    gated = dataclasses.replace(TINY, adaptive=True)
    policy = random_policy(gated, 3)
    accelerator, network = Accelerator(GoldenBus(gated), gated), GoldenNetwork(policy)
    accelerator.load(policy)
    for token in random_tokens(policy, 6, 3):
        trace = network.decide(token)
        assert accelerator.decide(token).words.tolist() == trace.action.tolist()
        assert accelerator.signatures() == trace.signatures


@pytest.mark.parametrize("name", [name for name, section in memory_map(TINY).items() if section.writable])
def test_a_memory_that_does_not_hold_its_words_is_found(name):
    section = memory_map(TINY)[name]

    class Leaky(GoldenBus):
        def read_block(self, address, count):
            words = super().read_block(address, count)
            if address == PAGE_OFFSET and self.read32(offsets(TINY)["PAGE"]) == section.page:
                words[section.stride * (section.rows - 1)] ^= 1  # one bit of the last row
            return words

    with pytest.raises(AcceleratorError, match=f"the circuit's {name} memory reads back with CRC"):
        Accelerator(Leaky(TINY), TINY).load(random_policy(TINY, 0))


def test_a_register_that_does_not_hold_its_value_is_found():
    accelerator = Accelerator(reading("ENTRY_THRESHOLD", 1 << 20), TINY)
    with pytest.raises(AcceleratorError, match="register ENTRY_THRESHOLD reads 1048576"):
        accelerator.load(random_policy(TINY, 0))


def test_errors_during_loading_are_reported():
    accelerator = Accelerator(reading("STATUS", field_mask(TINY, "STATUS", "REFUSED")), TINY)
    with pytest.raises(AcceleratorError, match="reports REFUSED after loading"):
        accelerator.load(random_policy(TINY, 0))


def test_deciding_without_a_policy_or_with_a_wrong_token_is_refused():
    accelerator = Accelerator(GoldenBus(TINY), TINY)
    with pytest.raises(AcceleratorError, match="no policy is loaded"):
        accelerator.decide(np.zeros(15, int))
    accelerator.load(random_policy(TINY, 0))
    with pytest.raises(AcceleratorError, match="14 components does not fit the loaded policy's 15"):
        accelerator.decide(np.zeros(14, int))


def test_a_decision_that_does_not_end_is_reported():
    class Stuck(GoldenBus):
        decision_timeout_s = 0.01

        def _start(self, number):
            self._flag("WATCHDOG")

    accelerator = Accelerator(Stuck(TINY), TINY)
    accelerator.load(random_policy(TINY, 0))
    stuck = r"decision 1 did not end.*STATUS shows WATCHDOG; START 1, DONE 0, CYCLES 0"
    with pytest.raises(AcceleratorError, match=stuck):
        accelerator.decide(np.zeros(15, int))
