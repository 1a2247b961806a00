# SPDX-License-Identifier: MIT
"""Train a spike-driven decision transformer: a float phase, then a quantisation-aware phase.

Trains the baselines of the spiking network too: `network` in the configuration says which. Writes config.json, log.csv,
checkpoint.pt (to resume), float.pt and quant.pt (results) and firing.json into the run's folder; with --tensorboard the
folder tensorboard too (`tensorboard --logdir runs`).

  python -m model.train --dataset hopper/medium-v0 --config hopper
  python -m model.train --dataset hopper/medium-v0 --config hopper --resume       (goes on after Ctrl-C, bit for bit)
  python -m model.train --dataset hopper/medium-v0 --config hopper --tensorboard
  python -m model.train --dataset hopper/medium-v0 --config mine.json --out runs/mine
mine.json holds the fields to change, such as {"geometry": "HOPPER_Z2", "steps": 2000}; every run's config.json has all.
"""

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from model.command import check_least, ended, given
from model.data.offline import DataError, load
from model.training.board import TensorBoard, TensorBoardError
from model.training.checkpoint import CheckpointError
from model.training.config import PRESETS, ConfigError, find
from model.training.trainer import DEVICES, Trainer, TrainError, device


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m model.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, help="Minari id, local or remote, e.g. hopper/medium-v0")
    parser.add_argument("--config", default="hopper", help=f"preset ({', '.join(PRESETS)}) or JSON file")
    parser.add_argument("--out", type=Path, help="folder of the run (default runs/CONFIG)")
    parser.add_argument("--seed", type=int, help="replaces the configuration's seed")
    parser.add_argument("--steps", type=int, help="replaces the configuration's float updates")
    parser.add_argument("--quant-steps", type=int, help="replaces the configuration's quantisation-aware updates")
    parser.add_argument(
        "--plasticity", type=float, metavar="ETA", help="replaces the configuration's rate of the head's local rule"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in the folder, if there is one")
    parser.add_argument("--save-every", type=int, default=250, help="updates between checkpoints (default 250)")
    parser.add_argument(
        "--keep", type=int, default=1, help="float results to keep, evenly spaced, as float-STEP.pt (default: the last)"
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="also write the figures of log.csv and firing.json for TensorBoard"
    )
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default auto: a GPU where there is one")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1; more collapse under load)")
    options = parser.parse_args(arguments)
    check_least(parser, options, save_every=1, keep=1, threads=1)
    torch.set_num_threads(options.threads)
    # lets oneDNN multiply: spikes and integers stay exact in it, and it is twice as fast on many CPUs
    torch.set_float32_matmul_precision("medium")
    command = given("model.train", arguments)
    out = options.out or Path("runs") / Path(options.config).stem
    try:
        replaced = {name: getattr(options, name) for name in ("seed", "steps", "quant_steps", "plasticity")}
        config = dataclasses.replace(
            find(options.config), **{name: value for name, value in replaced.items() if value is not None}
        )
        with contextlib.ExitStack() as at_end:
            tensorboard = at_end.enter_context(TensorBoard(out)) if options.tensorboard else None
            episodes = load(options.dataset, config.delayed)
            on = device(options.device)
            trainer = Trainer(
                config, episodes, out, options.resume, options.save_every, command, options.keep, on, tensorboard
            )
            trainer.run(progress=os.environ.get("TERM") != "dumb")
    except (TensorBoardError, ConfigError, CheckpointError, DataError, TrainError, OSError, KeyboardInterrupt) as error:
        return ended(error, f"stopped; continue with --resume (everything is in {out})")
    print(f"done: {out / 'float.pt'}" + (f", {out / 'quant.pt'}" if config.quant_steps else ""))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
