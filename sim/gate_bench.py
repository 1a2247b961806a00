# SPDX-License-Identifier: MIT
"""Bench of the step gate."""

import numpy as np

from host.policy_image import pack
from hw.gate import StepGate
from hw.passes import Kind
from model.deployed.geometry import Geometry
from model.deployed.golden import live_steps
from model.deployed.random_policy import random_policy
from sim.ports import Ports
from sim.stimulus import integers, load, varied


async def gate(unit: Ports, g: Geometry, rng: np.random.Generator, stall: float) -> int:
    """Decisions of random membranes: each layer's choice comes in its cycle and holds through all other passes."""
    policy = random_policy(g, int(rng.integers(1 << 30)))
    t = {name: tensor.astype(np.int64) for name, tensor in policy.tensors.items()}
    unit.set("busy", 0)
    await load(unit, "gates", pack(policy).sections["gates"])
    unit.set("busy", 1)
    seen: list[int] = []
    expected = None

    async def announce(kind: Kind, layer: int, group: int, membrane: np.ndarray, final: bool) -> None:
        """Announce a group, its membranes two cycles later; meanwhile and after, `live` is as expected."""
        nonlocal expected
        unit.set("i_valid", 1)
        unit.set("i_group", group)
        unit.set("i_info", {"kind": kind, "layer": layer, "final": int(final)})
        await unit.tick()
        unit.set("i_valid", 0)
        for cycle in range(2, StepGate.LATENCY + 1):
            unit.set("i", (membrane if cycle == 3 else integers(rng, g.membrane_bits, membrane.shape)).tolist())
            await unit.tick()
            if expected is not None and cycle < StepGate.LATENCY:
                assert unit.get("live") == expected
        if group == 0 and (kind == Kind.EMBED or (kind == Kind.FC2 and not final)):
            at = f"layer{0 if kind == Kind.EMBED else layer + 1}.gate"
            chosen = int(live_steps(membrane[None], t[f"{at}.weight"], t[f"{at}.threshold"]))
            expected = (1 << chosen) - 1
            seen.append(chosen)
        assert unit.get("live") == expected

    for _ in range(40):
        spread = int(rng.integers(g.membrane_bits // 2, g.membrane_bits + 1))
        order = [(Kind.EMBED, 0)]
        order += [(kind, layer) for layer in range(g.layers) for kind in (Kind.KEY, Kind.PROJ, Kind.FC1, Kind.FC2)]
        for kind, layer in order:
            for group in range(min(2, g.groups)):
                membrane = integers(rng, spread, (g.group,))
                await announce(kind, layer, group, membrane, kind == Kind.FC2 and layer == g.layers - 1)
                await unit.tick(int(rng.integers(0, 3)) if rng.random() < stall else 0)
    varied(seen)
    return len(seen)
