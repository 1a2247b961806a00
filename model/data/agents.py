# SPDX-License-Identifier: MIT
"""Agents to collect with: Stable-Baselines3 files, tanh networks in .npz files, random ones; and training one."""

import contextlib
import inspect
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model.data.environments import DataError, make
from model.data.key_to_door import KeyToDoor, scripted

if TYPE_CHECKING:
    import gymnasium

Floats = NDArray[np.float64]
Act = Callable[[NDArray[Any], bool], Any]
"""Observation [observations], whether to sample -> an action within the environment's bounds, or a choice."""


def load(agent: str, environment: "gymnasium.Env[Any, Any]", seed: int) -> Act:
    """Return what acts for an agent: a .zip of Stable-Baselines3, an .npz, or the word "random" or "scripted".

    A .zip is unpickled, which runs whatever its maker put there: load only files you trust. A vecnormalize.pkl beside
    it is used. Raises `DataError`.
    """
    if agent == "random":
        environment.action_space.seed(seed)
        return lambda observation, sample: environment.action_space.sample()
    if agent == "scripted":
        made = environment.unwrapped
        if not isinstance(made, KeyToDoor):
            raise DataError("there is a scripted agent for KeyToDoor alone; name a file, or random")
        return scripted(made.doors)
    file = Path(agent)
    if not file.is_file():
        raise DataError(f"there is no agent {file}; name a .zip of Stable-Baselines3, an .npz, random or scripted")
    if file.suffix == ".npz":
        return _network(file, environment)
    return _stable_baselines(file, environment, seed)


def _network(file: Path, environment: "gymnasium.Env[Any, Any]") -> Act:
    """Read a tanh network: weight_0 [out, in], bias_0, ..., with in_shift, in_scale, out_shift, out_scale."""
    with np.load(file, allow_pickle=False) as stored:
        arrays = {name: stored[name].astype(np.float64) for name in stored}
    depth = sum(name.startswith("weight_") for name in arrays)
    needed = ["in_shift", "in_scale", "out_shift", "out_scale"]
    needed += [f"{part}_{n}" for n in range(max(1, depth)) for part in ("weight", "bias")]
    if missing := [name for name in needed if name not in arrays]:
        raise DataError(f"{file} is no tanh network: it lacks {', '.join(missing)}")
    layers = [(arrays[f"weight_{n}"], arrays[f"bias_{n}"]) for n in range(depth)]
    _same_size(file, environment, layers[0][0].shape[1], layers[-1][0].shape[0])
    space: Any = environment.action_space

    def act(observation: NDArray[Any], sample: bool) -> Floats:
        if sample:
            raise DataError(f"{file} is deterministic: give it noise, such as @0.1, instead of @sampled")
        hidden = (observation - arrays["in_shift"]) / (arrays["in_scale"] + 1e-8)
        for number, (weight, bias) in enumerate(layers):
            hidden = (np.tanh(hidden) if number else hidden) @ weight.T + bias
        return np.clip(hidden * arrays["out_scale"] + arrays["out_shift"], space.low, space.high)

    return act


def _stable_baselines(file: Path, environment: "gymnasium.Env[Any, Any]", seed: int) -> Act:
    import torch
    from stable_baselines3.common.save_util import load_from_zip_file
    from stable_baselines3.common.utils import set_random_seed

    space, action_space = environment.observation_space, environment.action_space
    replaced = {
        "learning_rate": 0.0,
        "lr_schedule": lambda _: 0.0,
        "clip_range": 0.0,
        "buffer_size": 1,
        "observation_space": space,
        "action_space": action_space,
    }
    normalise, space = _normalisation(file.with_name("vecnormalize.pkl"), space)
    replaced["observation_space"] = space
    with _old_gym(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parts that only training needs may not be readable any more
        try:
            facts, parameters, _ = load_from_zip_file(file, custom_objects=replaced, device="cpu")
            assert facts is not None
            maker = facts["policy_class"]
            options = {"lr_schedule": lambda _: 0.0, "use_sde": facts.get("use_sde", False)}
            known = inspect.signature(maker).parameters
            options = {name: value for name, value in options.items() if name in known}
            policy = maker(space, action_space, **{**options, **(facts.get("policy_kwargs") or {})})
            weights = parameters["policy"]
            if maker.__name__ == "ARSLinearPolicy":  # its layer has another name since sb3-contrib 1.4
                weights = {name.replace("action_net.weight", "action_net.0.weight"): w for name, w in weights.items()}
            policy.load_state_dict(weights)
        # the file may hold anything, so may the error
        except Exception as error:
            raise DataError(
                f"{file} is no Stable-Baselines3 agent for this environment: {' '.join(str(error).split())[:200]}"
            ) from None
    torch.set_num_threads(1)  # one observation at a time is too little to share
    policy.set_training_mode(False)
    set_random_seed(seed)
    return lambda observation, sample: policy.predict(normalise(observation), deterministic=not sample)[0]


OLD_ANT = 27, 111
"""Observations of Ant without contact forces, and those of its versions up to 3, whose forces were always zero."""


def _normalisation(
    file: Path, space: "gymnasium.Space[Any]"
) -> tuple[Callable[[NDArray[Any]], NDArray[Any]], "gymnasium.Space[Any]"]:
    """Return what an agent does to an observation before it looks at it, and the space it then looks at."""
    from gymnasium.spaces import Box

    if not file.is_file():
        return lambda observation: observation, space
    with _old_gym(), file.open("rb") as stream:
        saved = pickle.load(stream)
    if not saved.norm_obs:
        return lambda observation: observation, space
    mean, variance = saved.obs_rms.mean, saved.obs_rms.var
    missing = 0
    if (*(space.shape or ()), *mean.shape) == OLD_ANT:
        missing = OLD_ANT[1] - OLD_ANT[0]
        space = Box(-np.inf, np.inf, mean.shape)
    if mean.shape != space.shape:
        raise DataError(f"{file} normalises observations of the shape {mean.shape}, the environment has {space.shape}")
    deviation = np.sqrt(variance + saved.epsilon)

    def normalise(observation: NDArray[Any]) -> NDArray[Any]:
        seen = np.concatenate([observation, np.zeros(missing)])
        return np.clip((seen - mean) / deviation, -saved.clip_obs, saved.clip_obs)

    return normalise, space


def _same_size(file: Path, environment: "gymnasium.Env[Any, Any]", inputs: int, outputs: int) -> None:
    have = (environment.observation_space.shape or (0,))[0], (environment.action_space.shape or (0,))[0]
    if have != (inputs, outputs):
        raise DataError(
            f"{file} maps {inputs} observations to {outputs} actions, but the environment has {have[0]} and {have[1]}"
        )


@contextlib.contextmanager
def _old_gym() -> Iterator[None]:
    """Let pickles made with gym, which gymnasium replaced, find their classes."""
    import gymnasium

    names = {"gym": gymnasium, "gym.spaces": gymnasium.spaces}
    names |= {f"gym.spaces.{n}": getattr(gymnasium.spaces, n) for n in ("box", "discrete", "space", "dict")}
    added = {name: module for name, module in names.items() if name not in sys.modules}
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


RECIPES: dict[str, tuple[str, int, int, dict[str, Any]]] = {
    "MountainCar-v0": (
        "DQN", 120_000, 1,
        {
            "learning_rate": 4e-3, "batch_size": 128, "buffer_size": 10_000, "learning_starts": 1000, "gamma": 0.98,
            "target_update_interval": 600, "train_freq": 16, "gradient_steps": 8, "exploration_fraction": 0.2,
            "exploration_final_eps": 0.07, "policy_kwargs": {"net_arch": [256, 256]},
        },
    ),
    "CartPole-v1": (
        "PPO", 50_000, 8,
        {"n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20, "learning_rate": 1e-3},
    ),
    "Acrobot-v1": ("PPO", 200_000, 8, {"n_steps": 256, "gae_lambda": 0.94, "gamma": 0.99, "n_epochs": 4}),
    "Pendulum-v1": ("PPO", 100_000, 4, {"n_steps": 1024, "gae_lambda": 0.95, "gamma": 0.9, "learning_rate": 1e-3}),
}  # fmt: skip
"""Environment -> algorithm, environment steps, environments side by side, options: the settings of the RL Zoo."""

ALGORITHMS = ("PPO", "DQN", "SAC", "TD3")


def train(environment: str, out: Path, algorithm: str | None, steps: int | None, seed: int, progress: bool) -> str:
    """Train an agent on its own interaction and save it; return what was run. Raises `DataError`."""
    import stable_baselines3
    import torch
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.logger import Logger

    usual, usual_steps, count, options = RECIPES.get(environment, ("PPO", 100_000, 1, {}))
    chosen = algorithm or usual
    if chosen != usual:
        count, options = 1, {}
    steps = steps or usual_steps
    torch.set_num_threads(1)
    make(environment).close()
    environments = make_vec_env(lambda: make(environment), n_envs=count, seed=seed)
    try:
        maker = getattr(stable_baselines3, chosen)
        agent = maker("MlpPolicy", environments, seed=seed, device="cpu", **options)
        agent.set_logger(Logger(folder=None, output_formats=[]))  # its own makes a folder among the temporary files
        agent.learn(steps, callback=_bar(steps) if progress else None)
    except (AssertionError, ValueError) as error:
        raise DataError(f"{chosen} cannot be trained on {environment}: {' '.join(str(error).split())[:200]}") from None
    finally:
        environments.close()
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial.zip")
    agent.save(partial)
    partial.replace(out)
    return f"{chosen}, {steps} steps of {environment}, seed {seed}"


def _bar(steps: int) -> Any:
    from stable_baselines3.common.callbacks import BaseCallback
    from tqdm import tqdm

    class Bar(BaseCallback):
        def _on_training_start(self) -> None:
            self.bar = tqdm(total=steps, unit="step", desc="training")

        def _on_step(self) -> bool:
            self.bar.update(self.training_env.num_envs)
            return True

        def _on_training_end(self) -> None:
            self.bar.close()

    return Bar()
