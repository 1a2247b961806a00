# SPDX-License-Identifier: MIT
"""The table of attentions as circuits: from artifacts, what flew, what yosys counted and what energy is modelled."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from hw.report import COLUMNS, UNITS
from model import policies
from model.deployed import zoo
from model.deployed.artifact import Policy
from model.deployed.presets import TINY
from model.deployed.random_policy import random_policy
from sim import attentions

# MuJoCo warns of attributes in Gymnasium's own models, Gymnasium of its older environments
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:gymnasium", "ignore::DeprecationWarning:mujoco"),
    pytest.mark.filterwarnings("ignore::UserWarning:minari"),
]

FORMS = {"window": TINY, "match": TINY.with_attention("tssa")}


def measurement(policy: Policy) -> dict[str, Any]:
    return {
        **{"policy_digest": policy.digest, "cycles_min": 190, "cycles_median": 243.0, "cycles_max": 321},
        **{"checked_actions": 600, "mismatches": 0, "active_rows_per_decision": 163.9},
        "aggregate": {"return": {"mean": 1858.9, "std": 760.3}},
    }


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Policy]:
    """Two policies that flew, and the synthesis of a circuit that has a look-up table a channel in each unit."""
    (tmp_path / "shelf").mkdir()
    monkeypatch.setattr(zoo, "POLICIES", tmp_path / "shelf")
    monkeypatch.setattr(attentions, "MEASURED", tmp_path / "policies.json")
    monkeypatch.setattr(attentions, "TOKENS", 5)
    monkeypatch.setattr(attentions, "verilog", lambda geometry: geometry)
    cells = {"LUT6": TINY.d_model, "FDRE": 3, "RAMB18E1": 1}
    monkeypatch.setattr(
        attentions,
        "synthesise",
        lambda geometry, family: {f"spikeloop.accelerator.{place}": cells for place in UNITS.values()},
    )
    found = {}
    for name, geometry in FORMS.items():
        found[name] = dataclasses.replace(random_policy(geometry, 3, 11, 3), environment="Hopper-v5")
        found[name].save(zoo.POLICIES / f"{name}.safetensors")
    attentions.MEASURED.write_text(json.dumps({policy.digest: measurement(policy) for policy in found.values()}))
    return found


def test_the_table_holds_what_each_attention_costs(
    shelf: dict[str, Policy], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = ["--json", str(tmp_path / "a.json"), "--markdown", str(tmp_path / "a.md")]
    assert attentions.main([*FORMS, *outputs]) == 0
    printed = capsys.readouterr().out
    assert printed in (tmp_path / "a.md").read_text()
    head, _, *rest = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in printed.splitlines()]
    window, match = (dict(zip(head, cells, strict=True)) for cells in rest)
    assert (window["attention"], match["attention"]) == ("pssa", "tssa")
    assert (window["policy"], window["geometry"], match["geometry"]) == ("window", "TINY", FORMS["match"].digest[:12])
    assert (window["return on the circuit"], window["float model's"]) == ("1859 ± 760", "not scored")
    assert (window["words compared; different"], window["cycles a decision"]) == ("600; 0", "243 (190 to 321)")
    # PSSA keeps k AND v of three tokens, a match keys and values of them: layers x steps x channels
    assert (window["bits of state"], match["bits of state"]) == (f"{2 * 4 * 16 * 3}", f"{2 * 4 * 16 * 6}")
    units = len(UNITS)
    assert window["LUT"] == f"{16 * units} (0%)"
    rows = json.loads((tmp_path / "a.json").read_text())
    assert [row["resources"] for row in rows] == [
        dict(zip(COLUMNS, (16 * units, 3 * units, units / 2, 0, 0), strict=True))
    ] * 2
    assert all(0 < row["energy_uj"] < 1 for row in rows)
    assert [row["digest"] for row in rows] == [policy.digest for policy in shelf.values()]


def test_a_policy_that_did_not_fly_is_named_with_the_command(
    shelf: dict[str, Policy], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataclasses.replace(shelf["match"], target_return=1.0).save(zoo.POLICIES / "match.safetensors")
    assert attentions.main([*FORMS, "--json", str(tmp_path / "a.json")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "match as it is shipped was not flown; measure it with `python -m sim.policies match`" in err
    assert not (tmp_path / "a.json").exists()
    assert attentions.main(["mtach"]) == 2
    assert "there is no policy mtach" in capsys.readouterr().err
    assert policies.MEASURED != attentions.MEASURED
