# SPDX-License-Identifier: MIT
"""The studies of how to train: the recipe, the price of weight rows, the hidden previous action."""

import fcntl
import itertools
from pathlib import Path

import pytest
import torch

from model.data.tasks import find
from model.deployed.presets import TINY
from model.integer.quantize import Quantised
from model.studies import dropout, recipe
from model.studies import rows as rows_study
from model.studies.runs import Bench, Budget, Run
from model.training.checkpoint import Checkpoint
from model.training.config import TrainConfig
from tests import swing

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")

TASK = find("pendulum-mixed")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set under the id of the task, its actions a function of its observations."""
    root = tmp_path_factory.mktemp("library")
    swing.make(root, TASK.dataset, [200, 150, 120, 60])
    return root


@pytest.fixture
def bench(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A budget of seconds."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(library))
    return Bench(Budget(TASK, TINY, steps=60, quant_steps=20, batch=8, seeds=1, episodes=1), tmp_path, "test")


class Copier(torch.nn.Module):
    """Repeats a share of the previous action, and its first observation."""

    input_scale = None

    def __init__(self, share: float, discrete: bool) -> None:
        super().__init__()
        self.share, self.discrete = share, discrete

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        previous = tokens[..., 3:5]
        other = torch.eye(2)[(tokens[..., 0] > 0).long()] if self.discrete else tokens[..., :2]
        return self.share * previous + (1 - self.share) * other


@pytest.mark.parametrize(("share", "discrete", "leans"), [(0, True, 0), (1, True, 1), (0, False, 0), (0.3, False, 0.3)])
def test_leaning_is_what_the_previous_action_alone_changes(share: float, discrete: bool, leans: float) -> None:
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randn(64, 5, 6, generator=rng)
    if discrete:
        tokens[..., 3:5] = torch.eye(2)[torch.randint(0, 2, (64, 5), generator=rng)]
    assert dropout.leaning(Copier(share, discrete), tokens, 2) == pytest.approx(leans)


def test_recipe_flies_each_variant_twice(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = ("as before", "frozen and averaged", "to-go four times as large")
    monkeypatch.setattr(recipe, "VARIANTS", {name: recipe.VARIANTS[name] for name in kept})
    rows = recipe.measure(bench)
    assert [row["variant"] for row in rows] == list(kept)
    assert len({row["validation_loss"] for row in rows}) == 3
    assert all(row["return"] < 0 and row["return_low"] < 0 for row in rows)
    files = {path.name for path in bench.folder(bench.budget.config(0)).glob("float-score*")}
    low = bench.budget.task.target_return / 2
    assert files == {"float-score-1.json", f"float-score-1-{low:g}.json"}


def test_rows_fall_with_their_cost_at_every_width(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_study, "ROW_COSTS", (0.0, 3.0))
    monkeypatch.setattr(rows_study, "WEIGHTS", {"W4": (4, False), "ternary": (2, True)})
    monkeypatch.setattr(rows_study, "TOKENS", 20)
    found = rows_study.measure(bench)
    assert [(row["weights"], row["row_cost"]) for row in found] == list(
        itertools.product(("W4", "ternary"), (0.0, 3.0))
    )
    for dear, cheap in (found[:2], found[2:]):
        assert cheap["rows"] < 0.7 * dear["rows"]
        assert cheap["fetch_cycles"] < dear["fetch_cycles"]
        assert cheap["energy_uj"] < dear["energy_uj"]
    assert found[0]["rows"] == pytest.approx(sum(found[0]["rows_per_linear"].values()))
    assert found[0]["share"] == found[0]["rows"] / TINY.weight_rows
    # what is deployed of the ternary one has no -2
    for path in bench.out.glob("*/quant.pt"):
        run = Checkpoint.load(path)
        lowest = min(part.integers()[0].min() for part in run.network.blocks.modules() if isinstance(part, Quantised))
        assert lowest == (-1 if run.config.symmetric_weights else -8)
    # both widths start from one float network
    starts = {
        (run.config.row_cost, run.config.geometry.weight_bits): Checkpoint.load(path).network.state_dict()
        for path in bench.out.glob("*/float.pt")
        if (run := Checkpoint.load(path)).config.norm_freeze
    }
    assert torch.equal(starts[3.0, 4]["embed.linear.weight"], starts[3.0, 2]["embed.linear.weight"])


def test_what_another_process_trains_is_left_to_it_and_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (TrainConfig(geometry=TINY, length=16, steps=10, quant_steps=0, seed=seed) for seed in (0, 1))
    folder, order = bench.folder(first), []
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as lock:  # as the other process holds it
        fcntl.flock(lock, fcntl.LOCK_EX)

        def train(_: Bench, run: Run, prepare: object) -> None:
            order.append(run.config.seed)
            run.file.touch()
            lock.close()  # the other process ends

        monkeypatch.setattr(Bench, "_train", train)
        bench.train([first, second])
    assert order == [1, 0]
