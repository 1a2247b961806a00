# SPDX-License-Identifier: MIT
"""The study of the modules: its loss is the training's, its costs are those of the equations."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from model import study
from model.data.tasks import find
from model.deployed.presets import TINY
from model.network import layers
from model.network.routing import MlpRouting
from model.studies import modules
from tests import swing

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")

SHOWN = ("none", "query, steps (paper)", "entry, tokens", "both of the paper")


def test_operations_are_those_of_the_equations() -> None:
    # TINY: 2 layers, T = 4, d = 16; 4 heads of 4 channels
    g = dataclasses.replace(TINY, heads=4, phase="query")
    plain = modules.operations(TINY)

    def more(**choices: object) -> dict[str, float]:
        with_it = modules.operations(dataclasses.replace(TINY, heads=4, **choices))
        return {name: value - plain[name] for name, value in with_it.items()}

    none = dict.fromkeys(("ands", "elementwise", "multiplies", "functions"), 0)
    word = 2 * 4 * 16
    assert more(phase="query") == more(phase="query", phase_over="tokens") == none | {"ands": word}
    assert more(phase="input") == none | {"elementwise": word}
    # 4 x 16 and 16 x 1 products per head and step; a softmax over 4
    routed = more(routing="mlp")
    assert routed["multiplies"] == 2 * 4 * 4 * (4 * 16 + 16)
    assert routed["functions"] == 2 * 4 * 4
    assert more(routing="count")["multiplies"] == more(routing="count")["functions"] == 0

    assert modules.stored_bits(g) == 2 * 4 * 4
    over_tokens = dataclasses.replace(TINY, heads=4, phase="input", phase_over="tokens", period=12)
    assert modules.stored_bits(over_tokens) == 2 * (12 * 4 + 16 * 12)
    assert [modules.state_bits(each) for each in (g, over_tokens)] == [0, 4]
    # counts of 0 to 16, and -1 below them
    assert modules.stored_bits(dataclasses.replace(TINY, heads=4, routing="count")) == 2 * 2 * 4 * 6
    parameters = sum(p.numel() for p in MlpRouting(dataclasses.replace(g, routing="mlp")).parameters())
    assert modules.stored_bits(dataclasses.replace(TINY, heads=4, routing="mlp")) == 2 * 32 * parameters


def test_the_study_measures_what_training_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swing.make(tmp_path, find("pendulum-mixed").dataset, [60, 50, 40])
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    # low enough for a network of eight updates to spike
    monkeypatch.setattr(layers, "THRESHOLD", 0.05)
    monkeypatch.setattr(modules, "VARIANTS", {name: modules.VARIANTS[name] for name in SHOWN})
    small = ["--task", "pendulum-mixed", "--geometry", "TINY", "--batch", "8", "--seeds", "1", "--episodes", "0"]
    places = ["--out", str(tmp_path / "runs"), "--json", str(tmp_path / "m.json"), "--png", str(tmp_path / "m.png")]
    assert study.main(["modules", *small, "--steps", "8", *places]) == 0
    rows = {row["variant"]: row for row in json.loads((tmp_path / "m.json").read_text())["rows"]}
    assert tuple(rows) == SHOWN
    for row in rows.values():
        assert row["bits_loss"] == pytest.approx(row["validation_loss"], abs=1e-6)
    assert rows["none"]["more_ands"] == 0 < rows["query, steps (paper)"]["more_ands"]
    coded = rows["entry, tokens"]
    assert len(coded["omega"]) == len(coded["first_phi"]) == 2 * 4
    assert 0 < coded["moved"] < 0.02  # eight steps of Adam
    assert len(coded["bits"]) == len(coded["first_bits"]) == 2 * 16 * 4
    assert 0 <= coded["changed_bits"] < 0.1
    assert 0.3 < sum(coded["bits"]) / len(coded["bits"]) < 0.7
    assert coded["soft_loss"] != pytest.approx(coded["bits_loss"], abs=1e-6)
    assert all(row["spikes"] > 10 for row in rows.values())
    assert (tmp_path / "m.png").stat().st_size > 10_000
