# SPDX-License-Identifier: MIT
"""Make local Minari data sets: import arrays, run a policy artifact, or run and mix trained agents.

Data sets appear in MINARI_DATASETS_PATH (default ~/.minari/datasets), whole or not at all: where one was interrupted,
the same command begins again and records the same episodes.

  python -m model.collect list
  python -m model.collect import-npz hopper.npz --dataset hopper/medium-v0 --env Hopper-v5
  python -m model.collect policy hopper-medium --noise 0.1 --dataset hopper/own-v0
  python -m model.collect agent sac.zip@0.3:0.7 random:0.3 --env Hopper-v5 --dataset hopper/mixed-v0 --steps 100000
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from model.command import check_least, ended
from model.data import agents
from model.data.environments import Actions, DataError, make
from model.data.library import create, listing, refuse_existing, table
from model.data.offline import Normaliser, local_root
from model.deployed import zoo
from model.deployed.artifact import ArtifactError, Policy
from model.files import write_json

if TYPE_CHECKING:
    import gymnasium
    from minari.data_collector import EpisodeBuffer

ARRAYS = ("observations", "actions", "rewards", "ep_len")
ENDS = ("terminals", "timeouts")


def import_npz(file: Path, dataset: str, environment: str) -> int:
    """Make a Minari data set of an .npz file; return its number of episodes. Raises `DataError`.

    The file holds observations [n, o], actions [n, a] (discrete ones [n]), rewards [n] and ep_len [episodes]; terminals
    and timeouts [n] too, or else every episode is taken to be cut off at its last step.
    """
    from minari.data_collector import EpisodeBuffer

    refuse_existing(dataset)
    if not file.is_file():
        raise DataError(f"there is no file {file}")
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in (*ARRAYS, *ENDS) if name in stored}
            if missing := [name for name in ARRAYS if name not in arrays]:
                raise DataError(f"{file} lacks the array {', '.join(missing)}; it has {', '.join(stored)}")
    except (OSError, ValueError) as error:
        raise error if isinstance(error, DataError) else DataError(f"{file} is no .npz file of arrays") from None
    observations, actions, rewards, lengths = (arrays[name] for name in ARRAYS)
    steps = {name: len(arrays[name]) for name in (*ARRAYS[:3], *ENDS) if name in arrays}
    if set(steps.values()) != {int(lengths.sum())}:
        raise DataError(f"the episode lengths of {file} sum to {lengths.sum()}, but its arrays have {steps} steps")
    for name in ARRAYS[:3]:
        if not np.isfinite(arrays[name]).all():
            raise DataError(f"the {name} of {file} hold a NaN or an infinity; leave those episodes out")
    last = np.zeros(len(rewards), bool)
    last[np.cumsum(lengths) - 1] = True
    terminals, timeouts = (arrays.get(name, default) for name, default in zip(ENDS, (last & False, last), strict=True))
    with contextlib.closing(make(environment)) as made:
        codec = Actions.of(made.action_space, environment)
        codec.encode(actions, str(file))
        if observations.shape[1:] != made.observation_space.shape:
            raise DataError(
                f"the observations of {file} have {observations.shape[1:]} components, "
                f"those of {environment} {made.observation_space.shape}"
            )
        buffers = []
        for number, (start, length) in enumerate(zip(np.cumsum(lengths) - lengths, lengths, strict=True)):
            part = slice(start, start + length)
            # Minari wants the observation after the last action, which such files lack: the last one stands in for it
            seen = np.concatenate([observations[part], observations[part][-1:]])
            buffers.append(
                EpisodeBuffer(
                    id=number,
                    observations=seen.astype(made.observation_space.dtype),
                    actions=actions[part].reshape(length).astype(np.int64) if codec.discrete else actions[part],
                    rewards=list(rewards[part].astype(float)),
                    terminations=list(terminals[part]),
                    truncations=list(timeouts[part]),
                )
            )
        create(dataset, buffers, made, {"imported": file.name})
    return len(buffers)


def run_policy(
    file: Path, dataset: str, episodes: int, noise: float, seed: int, environment: str = "", progress: bool = False
) -> list[float]:
    """Run an artifact on the golden network for whole episodes, make a data set of them, and return their returns.

    noise : standard deviation of normal noise added to every action before clipping to -1..1, or to every score.
    environment : where to run it, its own if empty.
    """
    from minari.data_collector import EpisodeBuffer

    from model.scores.rollout import GoldenBrain, run

    policy = Policy.load(file)
    environment = environment or policy.environment
    refuse_existing(dataset)
    rng = np.random.default_rng(seed)
    done = run(
        GoldenBrain(policy),
        environment,
        Normaliser(policy.input_mean, policy.input_std, policy.return_scale),
        policy.target_return,
        range(seed, seed + episodes),
        lambda action: action + rng.normal(0.0, noise, action.shape),
        delayed=policy.delayed,
        discrete=policy.discrete,
        progress=progress,
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
    with contextlib.closing(make(environment)) as made:
        create(dataset, buffers, made, {"policy": policy.digest, "noise": noise, "seed": seed})
    return [sum(episode.rewards) for episode in done]


@dataclass(frozen=True)
class Source:
    """One agent of a mix.

    noise : standard deviation added to continuous actions, in units of half their range, or the chance that a discrete
    one is replaced by any. sampled : the agent draws from its own distribution. share : of the data, relative.
    """

    agent: str
    noise: float = 0.0
    sampled: bool = False
    share: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Read AGENT[@NOISE][:SHARE]. Raises `DataError`."""
        rest, colon, share = text.rpartition(":")
        agent, at, noise = (rest if colon else text).rpartition("@")
        try:
            sampled = noise == "sampled"
            level = float(noise) if at and not sampled else 0.0
            source = cls(agent if at else noise, level, bool(at) and sampled, float(share) if colon else 1.0)
        except ValueError:
            source = cls("", share=0.0)
        if not source.agent or not 0 < source.share < np.inf or not 0 <= source.noise < np.inf:
            raise DataError(
                f"{text!r} is no AGENT[@NOISE][:SHARE]: noise is a number or the word sampled, share a number above 0, "
                "such as agents/sac.zip@0.2:0.5"
            )
        return source


def run_agents(
    sources: Sequence[Source],
    environment: str,
    dataset: str,
    steps: int | None,
    episodes: int | None,
    seed: int,
    progress: bool = False,
) -> list[float]:
    """Run agents for whole episodes, make a data set of them, and return their returns.

    Every agent gets its share of `steps` (its last episode may go beyond) or else of `episodes`. Episodes start from
    the reset seeds seed, seed + 1, ... Raises `DataError`.
    """
    refuse_existing(dataset)
    total = sum(source.share for source in sources)
    buffers: list[EpisodeBuffer] = []
    with contextlib.closing(make(environment)) as made:
        bar = tqdm(total=steps or episodes, unit="step" if steps else "episode", disable=not progress)
        for source in sources:
            wanted = round((steps or episodes or 0) * source.share / total)
            taken = 0
            for buffer in _episodes(source, made, environment, seed, len(buffers)):
                buffers.append(buffer)
                cost = len(buffer.rewards) if steps else 1
                taken += cost
                bar.update(cost)
                if taken >= wanted:
                    break
        bar.close()
        facts = {
            "agents": [f"{Path(s.agent).parent.name}/{Path(s.agent).name}".lstrip("/") for s in sources],
            "noise": ["sampled" if s.sampled else s.noise for s in sources],
            "share": [s.share / total for s in sources],
            "seed": seed,
        }
        create(dataset, buffers, made, facts)
    return [float(sum(buffer.rewards)) for buffer in buffers]


def _episodes(
    source: Source, made: "gymnasium.Env[Any, Any]", environment: str, seed: int, first: int
) -> "Iterator[EpisodeBuffer]":
    from minari.data_collector import EpisodeBuffer

    act = agents.load(source.agent, made, seed + first)
    codec = Actions.of(made.action_space, environment)
    rng = np.random.default_rng([seed, first])
    number = first
    while True:
        observation, _ = made.reset(seed=seed + number)
        observations, actions, rewards, ends = [observation], [], [], [(False, False)][:0]
        while not (ends and any(ends[-1])):
            action = act(observation, source.sampled)
            if source.noise and codec.discrete:
                action = made.action_space.start + rng.integers(codec.size) if rng.random() < source.noise else action
            elif source.noise:
                settled = codec.settle(
                    codec.encode(action[None], environment)[0] + rng.normal(0, source.noise, codec.size)
                )
                action = codec.execute(settled)
            action = int(action) if codec.discrete else np.asarray(action, codec.dtype)
            observation, reward, terminated, truncated, _ = made.step(action)
            observations.append(observation)
            actions.append(action)
            rewards.append(float(reward))
            ends.append((bool(terminated), bool(truncated)))
        yield EpisodeBuffer(
            id=number,
            seed=seed + number,
            observations=np.array(observations),  # type: ignore[arg-type]
            actions=np.array(actions),  # type: ignore[arg-type]
            rewards=rewards,
            terminations=[end[0] for end in ends],
            truncations=[end[1] for end in ends],
        )
        number += 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model.collect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    npz = commands.add_parser("import-npz", help="make a data set of an .npz file")
    npz.add_argument("file", type=Path, help=f"file with the arrays {', '.join(ARRAYS)}; also read: {', '.join(ENDS)}")
    policy = commands.add_parser("policy", help="run a policy artifact and record its episodes")
    policy.add_argument("file", help=f"artifact (.safetensors), or a name: {zoo.listing()}")
    policy.add_argument("--noise", type=float, default=0.0, help="standard deviation added to actions (default 0)")
    agent = commands.add_parser(
        "agent",
        help="run trained agents, one or a mix, and record their episodes",
        description="Run trained agents and record their episodes. Stable-Baselines3 files are pickles and may run any "
        "code when loaded: use only files you trust.",
    )
    agent.add_argument(
        "agents",
        nargs="+",
        metavar="AGENT[@NOISE][:SHARE]",
        help="a .zip of Stable-Baselines3 (with vecnormalize.pkl beside it, if any), an .npz of a tanh network, or the "
        "word random; NOISE: standard deviation added to continuous actions in -1..1, chance of a random choice for "
        "discrete ones, or the word sampled; SHARE: of the data, relative to the others' (default 1)",
    )
    agent.add_argument(
        "--steps", type=int, help="environment steps in all; the last episode of each agent is kept whole"
    )
    policy.add_argument("--episodes", type=int, default=10, help="episodes to record (default 10)")
    agent.add_argument("--episodes", type=int, help="episodes in all, instead of --steps (default 10)")
    train = commands.add_parser(
        "train-agent", help="train an agent, for environments that nobody gave one for (minutes on one CPU)"
    )
    train.add_argument("--algorithm", choices=agents.ALGORITHMS, help="default: what suits the environment")
    train.add_argument("--steps", type=int, help="environment steps (default: what suits the environment)")
    train.add_argument("--out", type=Path, required=True, help="file to write, e.g. agents/mountaincar.zip")
    for command in (npz, policy, agent):
        command.add_argument("--dataset", required=True, help="Minari id to create, e.g. hopper/medium-v0")
    for command in (policy, agent, train):
        command.add_argument("--seed", type=int, default=0, help="of the first episode and of the noise (default 0)")
    for command in (npz, agent, train):
        command.add_argument("--env", required=True, help="Gymnasium environment id, e.g. Hopper-v5")
    policy.add_argument("--env", default="", help="Gymnasium environment id (default: the policy's own)")
    table = commands.add_parser("list", help="print the local data sets: sizes, returns, digests")
    table.add_argument("--json", type=Path, help="also write the table to this file")
    return parser


def _do(options: argparse.Namespace, progress: bool) -> str:
    if options.command == "import-npz":
        count = import_npz(options.file, options.dataset, options.env)
        return f"{options.dataset}: {count} episodes in {local_root()}"
    if options.command == "list":
        rows = listing()
        if options.json:
            write_json(options.json, rows)
        return table(rows)
    if options.command == "train-agent":
        done = agents.train(options.env, options.out, options.algorithm, options.steps, options.seed, progress)
        return f"{options.out}: {done}"
    if options.command == "policy":
        flown = options.episodes, options.noise, options.seed, options.env, progress
        returns = run_policy(zoo.find(options.file), options.dataset, *flown)
    else:
        if options.steps and options.episodes:
            raise DataError("--steps and --episodes do not go together; give one of them")
        episodes = None if options.steps else options.episodes or 10
        sources = [Source.parse(text) for text in options.agents]
        returns = run_agents(sources, options.env, options.dataset, options.steps, episodes, options.seed, progress)
    return f"{options.dataset}: {len(returns)} episodes, mean return {np.mean(returns):.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    check_least(parser, options, steps=1, episodes=1, seed=0)
    if not 0 <= getattr(options, "noise", 0.0) < np.inf:
        parser.error("--noise must be 0 or more")
    try:
        print(_do(options, os.environ.get("TERM") != "dumb"))  # noqa: T201
    except (DataError, ArtifactError, OSError, KeyboardInterrupt) as error:
        return ended(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
