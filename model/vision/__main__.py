# SPDX-License-Identifier: MIT
"""Train small spiking vision transformers with SSA, LRF-SSA and LRF-Dyn; print accuracy, entropy, field and memory.

Every run lies in a folder of its own below --out. A run that was interrupted goes on where it stopped when the command
is given again, and several processes with the same command share the list. The table is of the runs that are done.

  python -m model.vision --json vision.json --markdown vision.md --png vision.png
  python -m model.vision --data digits --seeds 1 --epochs 5               (minutes on a laptop)
  python -m model.vision --only digits-sdt-v3-ssa-0 pairs-sdt-v3-ssa-0
  python -m model.vision --data cifar-10 --folder data/cifar-10-batches-py --d-model 128
  python -m model.vision --redraw vision.json --png vision.png            (draws a result again, trains nothing)
"""

import argparse
import itertools
import json
import os
import sys
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import torch

from model.command import check_least, ended, given
from model.files import ready, write, write_json
from model.scores.cells import commit, versions
from model.studies.runs import share
from model.training.config import ConfigError
from model.training.trainer import DEVICES, device
from model.vision.attention import ATTENTIONS
from model.vision.blocks import STYLES
from model.vision.classifier import VisionError
from model.vision.images import SETS, export_digits, load
from model.vision.report import Row, draw, markdown
from model.vision.training import Run, finished, result_file, train

SMALL = ("digits", "pairs")
"""Sets that need no files."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model.vision", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", nargs="+", choices=SETS, default=list(SMALL), help=f"default {' '.join(SMALL)}")
    add("--styles", nargs="+", choices=STYLES, default=list(STYLES), help="blocks (default all)")
    add("--attentions", nargs="+", choices=ATTENTIONS, default=list(ATTENTIONS), help="default all")
    add("--seeds", type=int, default=3, help="training seeds 0, 1, ... (default 3)")
    add("--d-model", type=int, default=64, help="channels (default 64)")
    add("--layers", type=int, default=2, help="blocks (default 2)")
    add("--steps", type=int, default=4, help="SNN steps (default 4)")
    add("--epochs", type=int, default=12, help="passes over the training images (default 12)")
    add("--batch", type=int, default=64, help="images per update (default 64)")
    add("--only", nargs="+", metavar="RUN", help="train these of the runs alone (--list names them)")
    add("--list", action="store_true", help="name the runs and stop")
    add("--folder", type=Path, help="where CIFAR's files lie, unpacked")
    add("--digits", type=Path, metavar="NPZ", help="take the digits from this file instead of scikit-learn")
    add("--export-digits", type=Path, metavar="NPZ", help="write scikit-learn's digits to this file and stop")
    add("--out", type=Path, default=Path("runs/vision"), help="folder of the runs (default runs/vision)")
    add("--json", type=Path, metavar="FILE", help="also write all results to FILE")
    add("--markdown", type=Path, metavar="FILE", help="also write the table to FILE")
    add("--png", type=Path, metavar="FILE", help="also draw the figure")
    add("--report", action="store_true", help="train nothing: only say what is done")
    add("--redraw", type=Path, metavar="JSON", help="take the results of this file instead of training")
    add("--device", choices=DEVICES, default="auto", help="default auto: a GPU where there is one")
    add("--threads", type=int, default=1, help="CPU threads (default 1)")
    return parser


def _runs(options: argparse.Namespace) -> list[Run]:
    size = (options.d_model, options.layers, options.steps, options.epochs, options.batch)
    # seed by seed: a sweep that is cut short has whole seeds
    cases = itertools.product(range(options.seeds), options.data, options.styles, options.attentions)
    return [Run(data, style, attention, seed, *size) for seed, data, style, attention in cases]


def _chosen(runs: list[Run], only: list[str] | None) -> list[Run]:
    names = {run.name: run for run in runs}
    if unknown := [name for name in only or () if name not in names]:
        raise VisionError(f"there is no run {', '.join(unknown)} among these; --list names them")
    return runs if only is None else [names[name] for name in only]


def _train(options: argparse.Namespace, runs: list[Run]) -> None:
    """Train the chosen runs that are not done."""
    images = cache(lambda data, seed: load(data, seed, options.folder, options.digits))
    on, progress = device(options.device), os.environ.get("TERM") != "dumb"
    out: Path = options.out

    def job(run: Run) -> None:
        train(run, images(run.data, run.seed), out, on, progress)

    share("training", {result_file(run, out): partial(job, run) for run in _chosen(runs, options.only)})


def _redrawn(path: Path) -> list[Row]:
    try:
        rows = json.loads(path.read_text())["rows"]
        wrong = not rows or any("accuracy" not in row for row in rows)
    except (OSError, ValueError, KeyError, TypeError):
        wrong = True
    if wrong:
        raise VisionError(f"{path} is no result of this command; give the file that --json wrote")
    return list(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    check_least(parser, options, seeds=1, d_model=2, layers=1, steps=1, epochs=1, batch=2, threads=1)
    if options.d_model % 2:
        parser.error(f"--d-model must be even, not {options.d_model}: half of it are the first convolution's channels")
    torch.set_num_threads(options.threads)
    command = given("model.vision", arguments)
    runs = _runs(options)
    if options.list:
        print("\n".join(run.name for run in runs))  # noqa: T201
        return 0
    try:
        if options.export_digits:
            export_digits(options.export_digits)
            return 0
        ready(options.json, options.markdown, options.png)
        if options.redraw:
            rows = _redrawn(options.redraw)
        else:
            if not options.report:
                _train(options, runs)
            done = [finished(run, options.out) for run in runs]
            rows = [row for row in done if row is not None]
            if not rows:
                raise VisionError(f"no run in {options.out} is done; leave --report out to train")
        if options.json:
            facts = {"command": command, "commit": commit(), "versions": versions(), "runs": len(runs), "rows": rows}
            write_json(options.json, facts)
        table = markdown(rows)
        if options.markdown:
            write(options.markdown, table)
        if options.png:
            draw(rows, options.png)
    except (ConfigError, VisionError, OSError, KeyboardInterrupt) as error:
        return ended(error, f"stopped; the same command goes on (everything is in {options.out})")
    sys.stdout.write(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
