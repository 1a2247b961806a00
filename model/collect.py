# SPDX-License-Identifier: MIT
"""Make local Minari data sets: import arrays, or run a policy artifact in its environment."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.artifact import ArtifactError, Policy
from model.data import Normaliser, local_root
from model.environments import DataError, make
from model.tasks import reference

ARRAYS = ("observations", "actions", "rewards", "terminals", "timeouts", "ep_len")


def import_npz(file: Path, dataset: str, environment: str) -> int:
    """Make a Minari data set of an .npz file; return its number of episodes. Raises `DataError`.

    The file holds observations [n, o], actions [n, a], rewards, terminals, timeouts [n] and ep_len [episodes].
    """
    from minari.data_collector import EpisodeBuffer

    _refuse_existing(dataset)
    if not file.is_file():
        raise DataError(f"there is no file {file}")
    with np.load(file, allow_pickle=False) as arrays:
        missing = [name for name in ARRAYS if name not in arrays]
        if missing:
            raise DataError(f"{file} lacks the array {', '.join(missing)}; it has {', '.join(arrays)}")
        observations, actions, rewards, terminals, timeouts, lengths = (arrays[name] for name in ARRAYS)
    if lengths.sum() != len(rewards):
        raise DataError(f"the episode lengths of {file} sum to {lengths.sum()}, but it has {len(rewards)} steps")
    buffers = []
    for number, (start, length) in enumerate(zip(np.cumsum(lengths) - lengths, lengths, strict=True)):
        part = slice(start, start + length)
        # Minari wants the observation after the last action, which such files lack: the last one stands in for it
        seen = np.concatenate([observations[part], observations[part][-1:]])
        buffers.append(
            EpisodeBuffer(
                id=number,
                observations=seen.astype(np.float64),
                actions=actions[part],
                rewards=list(rewards[part].astype(float)),
                terminations=list(terminals[part]),
                truncations=list(timeouts[part]),
            )
        )
    _create(dataset, buffers, environment, f"imported from {file.name}")
    return len(buffers)


def run_policy(file: Path, dataset: str, episodes: int, noise: float, seed: int, environment: str = "") -> list[float]:
    """Run an artifact on the golden network for whole episodes, make a data set of them, and return their returns.

    noise : standard deviation of normal noise added to every action before clipping to -1..1.
    environment : where to run it, its own if empty.
    """
    from minari.data_collector import EpisodeBuffer

    from model.rollout import GoldenBrain, run

    policy = Policy.load(file)
    environment = environment or policy.environment
    _refuse_existing(dataset)
    rng = np.random.default_rng(seed)
    done = run(
        GoldenBrain(policy),
        environment,
        Normaliser(policy.input_mean, policy.input_std, policy.return_scale),
        policy.target_return,
        range(seed, seed + episodes),
        lambda action: action + rng.normal(0.0, noise, action.shape),
    )
    buffers = [
        EpisodeBuffer(
            id=number,
            seed=seed + number,
            observations=np.array(episode.observations),  # type: ignore[arg-type]
            actions=np.array(episode.actions),  # type: ignore[arg-type]
            rewards=episode.rewards,
            terminations=[end[0] for end in episode.ends],
            truncations=[end[1] for end in episode.ends],
        )
        for number, episode in enumerate(done)
    ]
    _create(dataset, buffers, environment, f"policy {policy.digest[:16]}, noise {noise}, seed {seed}")
    return [sum(episode.rewards) for episode in done]


def _refuse_existing(dataset: str) -> None:
    if (local_root() / dataset).exists():
        raise DataError(f"there is already a data set {dataset} in {local_root()}; delete it or choose another id")


def _create(dataset: str, buffers: list[Any], environment: str, description: str) -> None:
    import minari

    _refuse_existing(dataset)
    make(environment).close()
    low, high = reference(environment) or (None, None)
    try:
        minari.create_dataset_from_buffers(
            dataset, buffers, env=environment, ref_min_score=low, ref_max_score=high, description=description
        )
    except ValueError as error:
        raise DataError(f"Minari refuses the data set {dataset}: {error}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m model.collect", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    npz = commands.add_parser("import-npz", help="make a data set of an .npz file")
    npz.add_argument("file", type=Path, help=f"file with the arrays {', '.join(ARRAYS)}")
    policy = commands.add_parser("policy", help="run a policy artifact and record its episodes")
    policy.add_argument("file", type=Path, help="policy artifact (.safetensors)")
    policy.add_argument("--episodes", type=int, default=10, help="episodes to record (default 10)")
    policy.add_argument("--noise", type=float, default=0.0, help="standard deviation added to actions (default 0)")
    policy.add_argument("--seed", type=int, default=0, help="seed of the first episode and of the noise (default 0)")
    for command in (npz, policy):
        command.add_argument("--dataset", required=True, help="Minari id to create, e.g. hopper/medium-v0")
    npz.add_argument("--env", required=True, help="Gymnasium environment id, e.g. Hopper-v5")
    policy.add_argument("--env", help="Gymnasium environment id (default: the policy's own)")
    options = parser.parse_args(arguments)
    try:
        if options.command == "import-npz":
            count = import_npz(options.file, options.dataset, options.env)
            print(f"{options.dataset}: {count} episodes in {local_root()}")  # noqa: T201
        else:
            returns = run_policy(
                options.file, options.dataset, options.episodes, options.noise, options.seed, options.env or ""
            )
            print(f"{options.dataset}: {len(returns)} episodes, mean return {np.mean(returns):.1f}")  # noqa: T201
    except (DataError, ArtifactError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
