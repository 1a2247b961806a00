# SPDX-License-Identifier: MIT
"""Policies as memory words: the round trip, and single fields where the memory map says they are."""

import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host.policy_image import pack, unpack
from hw.memory_map import channel_bits, memory_map
from model.deployed.geometry import Geometry, GeometryError
from model.deployed.presets import HOPPER_Z2, PRESETS, TINY
from model.deployed.random_policy import random_policy

DYNAMICS = ("decay", "upper", "lower", "readout", "gain", "local")


@st.composite
def geometries(draw):
    group = draw(st.integers(2, 12))
    choices = {
        "observation_size": draw(st.integers(1, 20)),
        "action_size": draw(st.integers(1, 7)),
        "group": group,
        "d_model": group * draw(st.integers(1, 4)),
        "layers": draw(st.integers(1, 3)),
        "steps": draw(st.integers(1, 5)),
        "window": draw(st.integers(2, 6)),
        "mlp_ratio": draw(st.integers(1, 4)),
        "weight_bits": draw(st.integers(2, 8)),
        "dense_weight_bits": draw(st.integers(2, 8)),
        "input_bits": draw(st.integers(2, 8)),
        "membrane_bits": draw(st.integers(4, 16)),
        "table_log2": draw(st.integers(4, 8)),
        "rows_per_cycle": draw(st.sampled_from((1, 2, 4))),
        "adaptive": draw(st.booleans()),
    }
    if draw(st.booleans()):
        del choices["window"]
        choices |= {"attention": "lrf-dyn", "dendrites": draw(st.integers(2, 9)), "gate": draw(st.booleans())}
    if choices.get("gate", True) and draw(st.booleans()):
        choices |= {"phase": "query", "heads": draw(st.sampled_from((1, group)))}
        if draw(st.booleans()):
            choices |= {"phase_over": "tokens", "period": draw(st.integers(1, 9))}
    try:
        return Geometry(**choices)
    except GeometryError:
        return TINY


@settings(max_examples=60, deadline=None)
@given(geometries(), st.integers(0, 2**32 - 1), st.data())
def test_unpacking_undoes_packing(geometry, seed, data):
    observations = data.draw(st.integers(1, geometry.observation_size))
    actions = data.draw(st.integers(1, geometry.action_size))
    policy = random_policy(geometry, seed, observations, actions)
    image = pack(policy)
    tensors = unpack(geometry, image.sections, image.registers)
    assert set(tensors) == set(policy.tensors)
    for name, tensor in policy.tensors.items():
        np.testing.assert_array_equal(tensors[name], tensor, err_msg=name)


@pytest.mark.parametrize("geometry", PRESETS.values(), ids=PRESETS)
def test_an_image_fills_every_writable_section(geometry):
    image = pack(random_policy(geometry, 0))
    writable = {name: section for name, section in memory_map(geometry).items() if section.writable}
    assert set(image.sections) == set(writable)
    for name, section in writable.items():
        assert image.sections[name].dtype == np.uint32
        assert len(image.sections[name]) == section.rows * section.stride
        assert image.sections[name].any(), name


def field(words, section, row, index, bits):
    """Read one field of a row with plain integers, independently of `unpack_rows`."""
    start = row * section.stride
    packed = sum(int(word) << 32 * i for i, word in enumerate(words[start : start + section.stride]))
    return packed >> int(index) * bits & ((1 << bits) - 1)


def test_fields_lie_where_the_memory_map_says():
    g = HOPPER_Z2
    policy = random_policy(g, 7, 11, 3)
    image, memory, t = pack(policy), memory_map(g), policy.tensors

    def word(name, row, index, bits):
        return field(image.sections[name], memory[name], row, index, bits)

    def low(value, bits):
        return int(value) & ((1 << bits) - 1)

    rng = np.random.default_rng(0)
    for _ in range(50):
        i, c, layer = rng.integers(g.d_model), rng.integers(g.d_model), rng.integers(g.layers)
        at, base, d = f"layer{layer}", layer * g.rows_per_layer, g.d_model
        assert word("weights", base + d + i, c, 4) == low(t[f"{at}.value.weight"][c, i], 4)
        assert word("weights", base + 3 * d + i, c, 4) == low(t[f"{at}.proj.weight"][c, i], 4)
        j = rng.integers(g.mlp_ratio)
        assert word("weights", base + (4 + j) * d + i, c, 4) == low(t[f"{at}.fc1.weight"][j * d + c, i], 4)
        h = rng.integers(g.d_mlp)
        assert word("weights", base + (4 + g.mlp_ratio) * d + h, c, 4) == low(t[f"{at}.fc2.weight"][c, h], 4)
        age, (group, lane) = rng.integers(g.window), divmod(c, g.group)
        row = (layer * g.window + age) * g.groups + group
        assert word("taps", row, lane, 4) == low(t[f"{at}.window.weight"][c, age], 4)
        first = 1 + layer * g.passes_per_layer
        for part, use in (("query", 2), ("window", 3), ("proj", 4)):
            level = t[f"{at}.{part}.{'shift' if part == 'proj' else 'threshold'}"][c]
            bias = 0 if part == "window" else low(t[f"{at}.{part}.bias"][c], g.bias_bits)
            found = word("channels", (first + use) * g.groups + group, lane, channel_bits(g))
            assert found == bias | int(level) << g.bias_bits
        fc2 = word("channels", (first + 5 + g.mlp_ratio) * g.groups + group, lane, channel_bits(g))
        assert fc2 == low(t[f"{at}.fc2.bias"][c], g.bias_bits) | int(t[f"{at}.fc2.shift"][c]) << g.bias_bits
        component = rng.integers(policy.input_size)
        embedded = word("embed", group * 3 + component // 8, component % 8 * g.group + lane, 8)  # 24 components
        assert embedded == low(t["embed.weight"][c, component], 8)
        action = rng.integers(policy.action_size)
        found = word("head", action // 3 * g.groups + group, action % 3 * g.group + lane, 8)
        assert found == low(t["head.weight"][action, c], 8)
        bias = low(t["head.bias"][action], 32) | int(t["head.shift"][action]) << 32
        assert word("head_bias", action, 0, 37) == bias


def test_dendrites_lie_channel_by_channel():
    g = dataclasses.replace(HOPPER_Z2.with_attention("lrf-dyn"), dendrites=3)
    policy = random_policy(g, 7)
    words, section = pack(policy).sections["dendrites"], memory_map(g)["dendrites"]
    rng = np.random.default_rng(0)
    for _ in range(50):
        layer, c = int(rng.integers(g.layers)), int(rng.integers(g.d_model))
        start = (layer * g.d_model + c) * section.stride
        rest = sum(int(word) << 32 * i for i, word in enumerate(words[start : start + section.words]))
        p = {name: policy.tensors[f"layer{layer}.dynamics.{name}"][c] for name in DYNAMICS}
        for i in range(g.dendrites):
            upper = p["upper"][i] if i + 1 < g.dendrites else 0
            lower = p["lower"][i - 1] if i else 0
            for value, bits in ((p["decay"][i], 4), (upper, 5), (lower, 5), (p["readout"][i], 5), (p["gain"][i], 12)):
                assert rest & ((1 << bits) - 1) == int(value) & ((1 << bits) - 1)
                rest >>= bits
        for tap in p["local"]:
            assert rest & 15 == int(tap) & 15
            rest >>= 4
        assert rest == 0


def test_packing_the_largest_preset_takes_less_than_a_second():
    policy = random_policy(HOPPER_Z2, 0)
    start = time.perf_counter()
    pack(policy)
    assert time.perf_counter() - start < 1


def test_step_gates_lie_layer_by_layer():
    g = dataclasses.replace(HOPPER_Z2, adaptive=True)
    policy = random_policy(g, 2)
    words, section = pack(policy).sections["gates"], memory_map(g)["gates"]
    assert (section.rows, section.row_bits, section.stride) == (3, 16 * 4 + 3 * 20, 4)
    whole = sum(int(word) << (32 * i) for i, word in enumerate(words[section.stride : 2 * section.stride]))
    weight, threshold = policy.tensors["layer1.gate.weight"], policy.tensors["layer1.gate.threshold"]
    assert [whole >> (4 * c) & 15 for c in range(16)] == [int(w) & 15 for w in weight]
    assert [whole >> (64 + 20 * k) & 0xFFFFF for k in range(3)] == [int(t) & 0xFFFFF for t in threshold]
    assert "gates" not in memory_map(HOPPER_Z2)
