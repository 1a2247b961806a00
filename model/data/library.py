# SPDX-License-Identifier: MIT
"""The folder of local Minari data sets: writing one, and listing them all."""

import contextlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.data import offline
from model.data.environments import DataError, own_temporary_folder
from model.data.offline import local_root, normalised_score
from model.data.tasks import reference

if TYPE_CHECKING:
    import gymnasium
    from minari.data_collector import EpisodeBuffer


def refuse_existing(dataset: str) -> None:
    """Raise `DataError` if a data set of that name is there, or Minari would not take the name."""
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(dataset)
    except (ValueError, TypeError):  # the latter without a version
        raise DataError(f"{dataset!r} is no Minari id; one looks like hopper/medium-v0") from None
    if (local_root() / dataset).exists():
        raise DataError(f"there is already a data set {dataset} in {local_root()}; delete it or choose another id")


def create(
    dataset: str, buffers: "list[EpisodeBuffer]", made: "gymnasium.Env[Any, Any]", facts: dict[str, Any]
) -> None:
    """Write a data set of an environment beside its place, then move it there. `facts` say how it was made."""
    import minari

    refuse_existing(dataset)
    assert made.spec is not None
    low, high = reference(made.spec.id) or (None, None)
    names = ("gymnasium", "mujoco", "gymnasium-robotics", "stable-baselines3", "sb3-contrib")
    versions = {name: version(name) for name in names}
    root = local_root()
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=root) as partial:
        # Minari makes the environment once more
        with _minari_folder(Path(partial)), own_temporary_folder(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about authors and links, which a local set has no use for
            try:
                minari.create_dataset_from_buffers(
                    dataset,
                    buffers,
                    env=made,
                    observation_space=made.observation_space,
                    ref_min_score=low,
                    ref_max_score=high,
                    description=json.dumps(facts | {"versions": versions}),
                    algorithm_name=", ".join(map(str, facts.get("agents", []))) or None,
                    requirements=[f"{name}=={number}" for name, number in versions.items()],
                )
            except ValueError as error:
                raise DataError(f"Minari refuses the data set {dataset}: {error}") from None
        place = root / dataset
        place.parent.mkdir(parents=True, exist_ok=True)
        for note in Path(partial).rglob("namespace_metadata.json"):
            kept = root / note.relative_to(partial)
            if not kept.exists():
                note.replace(kept)
        (Path(partial) / dataset).replace(place)


@contextlib.contextmanager
def _minari_folder(folder: Path) -> Iterator[None]:
    """Let Minari, which asks the environment variable alone, work in a folder."""
    name = "MINARI_DATASETS_PATH"
    before = os.environ.get(name)
    os.environ[name] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def listing() -> list[dict[str, Any]]:
    """Return what is known of every local data set: sizes, returns, digest, and how it was made."""
    import minari

    rows = []
    for dataset, metadata in sorted(minari.list_local_datasets().items()):
        episodes = offline.load(dataset)
        mean = float(episodes.returns.mean())
        rows.append(
            {
                "dataset": dataset,
                "environment": episodes.environment,
                "steps": len(episodes.rewards),
                "episodes": len(episodes.lengths),
                "mean_return": mean,
                "std_return": float(episodes.returns.std()),
                "normalised_score": normalised_score(episodes.environment, mean),
                "digest": episodes.digest,
                "made": metadata.get("description"),
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the listing as Markdown."""
    lines = [
        "| data set | environment | steps | episodes | return | normalised | digest |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        score = "-" if row["normalised_score"] is None else f"{row['normalised_score']:.1f}"
        lines.append(
            f"| {row['dataset']} | {row['environment']} | {row['steps']:,} | {row['episodes']:,} "
            f"| {row['mean_return']:.1f} ± {row['std_return']:.1f} | {score} | `{row['digest'][:16]}` |"
        )
    return "\n".join(lines)
