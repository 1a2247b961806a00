# SPDX-License-Identifier: MIT
"""Experiments: train what a study compares, measure it over training seeds, print a table, write JSON and a figure.

  python -m model.study --list
  python -m model.study norms --task hopper-medium --json norms.json --png norms.png
  python -m model.study norms bits --d-model 32 --steps 400 --batch 32        (an hour on a laptop instead of days)
  python -m model.study norms --redraw norms.json --png norms.png            (draws a result again, measures nothing)

Trainings lie in --out, one folder per configuration: studies share them, and an interrupted study goes on where it
stopped when the same command is given again.
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from model.command import check_least, ended, given
from model.data.tasks import find
from model.deployed.presets import PRESETS, preset
from model.files import ready, write
from model.scores.cells import SENTENCES, commit, versions
from model.studies import (
    adaptive,
    bits,
    changed,
    classic,
    convergence,
    dropout,
    entropy,
    expert,
    field,
    modules,
    norms,
    plasticity,
    position,
    rates,
    recipe,
    rows,
    sparse,
    sparse_cost,
    streaming,
    window,
)
from model.studies.plots import draw
from model.studies.runs import Bench, Budget, Row, Study, summed_up

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        entropy.STUDY,
        norms.NORMS,
        norms.SCHEDULE,
        window.STUDY,
        position.STUDY,
        streaming.STUDY,
        bits.STUDY,
        field.STUDY,
        recipe.STUDY,
        rows.STUDY,
        adaptive.STUDY,
        rates.STUDY,
        dropout.STUDY,
        expert.STUDY,
        convergence.STUDY,
        sparse_cost.STUDY,
        sparse.STUDY,
        modules.STUDY,
        classic.STUDY,
        plasticity.STUDY,
        changed.STUDY,
    )
}
"""Every study by name."""


class StudyError(ValueError):
    """A study that cannot be run or drawn; the message says why."""


def result(study: Study, bench: Bench, rows: list[Row]) -> dict[str, Any]:
    """Return what is written as JSON: the rows and everything they depend on."""
    budget = dataclasses.asdict(bench.budget)
    task = budget.pop("task")
    return {
        "study": study.name,
        "summary": study.summary,
        "task": task["name"],
        "dataset": task["dataset"],
        "dataset_digest": bench.episodes.digest,
        "environment": task["environment"],
        "target_return": task["target_return"],
        "budget": budget,
        "command": bench.command,
        "commit": commit(),
        "versions": versions(),
        "rows": rows,
    }


def table(study: Study, rows: Sequence[Row]) -> str:
    """Return rows averaged over training seeds as aligned text, `mean +- deviation` or, where it says so, interval."""

    def number(value: float | None, spread: float | None) -> str:
        if value is None:
            return "-"
        size = math.floor(math.log10(abs(value))) if value else 0
        form = f".{min(4, max(0, 3 - size))}f" if value and size >= -3 else ".2g"
        return f"{value:{form}}" + ("" if spread is None else f" +- {spread:{form}}")

    spread = "half" if study.interval else "std"
    lines = [[*study.keys, *study.values, "n"]]
    for row in summed_up(rows, study.keys, study.values):
        measured = [number(row[value], row[f"{value}_{spread}"]) for value in study.values]
        lines.append([*(str(row[key]) for key in study.keys), *measured, str(row["n"])])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _bench(options: argparse.Namespace, command: str) -> Bench:
    geometry, task = preset(options.geometry), find(options.task)
    if options.d_model is not None:
        geometry = dataclasses.replace(geometry, d_model=options.d_model)
    budget = Budget(task, geometry, options.steps, options.quant_steps, options.batch, options.seeds, options.episodes)
    bench = Bench(budget, options.out, command)
    capacity = {
        "observation_size": max(geometry.observation_size, bench.episodes.observations.shape[1]),
        "action_size": max(geometry.action_size, bench.episodes.actions.shape[1]),
    }
    bench.budget = dataclasses.replace(budget, geometry=dataclasses.replace(geometry, **capacity))
    return bench


def _redraw(options: argparse.Namespace) -> None:
    study = STUDIES[options.names[0]]
    try:
        saved = json.loads(options.redraw.read_text())
        name, rows = saved["study"], saved["rows"]
    except (ValueError, KeyError, TypeError):
        raise StudyError(f"{options.redraw} is no result of a study; give the file that --json wrote") from None
    if name != study.name:
        raise StudyError(f"{options.redraw} is a result of the study {name}, not of {study.name}")
    draw(study, rows, options.png)
    print(table(study, rows))  # noqa: T201


def _parser() -> argparse.ArgumentParser:
    listing = "\n".join(f"  {study.name:11} {study.summary}" for study in STUDIES.values())
    parser = argparse.ArgumentParser(
        prog="python -m model.study",
        description=f"{__doc__}\nstudies:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="studies to run, or 'all'")
    parser.add_argument("--list", action="store_true", help="name the studies and stop")
    parser.add_argument("--task", default="hopper-medium", help="see python -m model.tasks (default hopper-medium)")
    parser.add_argument("--geometry", default="HOPPER_Z2", help=f"{', '.join(PRESETS)} (default HOPPER_Z2)")
    parser.add_argument("--d-model", type=int, help="replaces the geometry's width")
    parser.add_argument("--steps", type=int, default=5000, help="float updates of each training (default 5000)")
    parser.add_argument("--quant-steps", type=int, default=2000, help="quantised updates, for bits (default 2000)")
    parser.add_argument("--batch", type=int, default=64, help="windows per update (default 64)")
    parser.add_argument("--seeds", type=int, default=3, help="training seeds 0, 1, ... (default 3)")
    parser.add_argument(
        "--episodes", type=int, default=20, help="episodes per score (default 20; 0 leaves returns out)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="folder of the trainings")
    parser.add_argument("--json", type=Path, help="result file; with several studies a folder, NAME.json in it")
    parser.add_argument("--png", type=Path, help="figure file; with several studies a folder, NAME.png in it")
    parser.add_argument("--redraw", type=Path, metavar="JSON", help="draw this result again instead of measuring")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(f"{study.name:11} {study.summary}" for study in STUDIES.values()))  # noqa: T201
        return 0
    chosen = list(STUDIES) if options.names == ["all"] else options.names
    unknown = [name for name in chosen if name not in STUDIES]
    if unknown or not chosen:
        problem = f"unknown study {', '.join(unknown)}" if unknown else "name a study"
        parser.error(f"{problem}; there are {', '.join(STUDIES)}, or all")
    check_least(parser, options, steps=1, quant_steps=1, batch=1, seeds=1, threads=1, episodes=0)
    for name, purpose in (("streaming", "compares decisions of"), ("changed", "is about the returns of")):
        if name in chosen and not options.episodes and not options.redraw:
            parser.error(f"the study {name} {purpose} episodes; set --episodes to at least 1")
    if options.redraw and (len(chosen) != 1 or not options.png):
        parser.error("--redraw draws one study; name it, and give --png")
    torch.set_num_threads(options.threads)
    # as in training: spikes and integers stay exact in it, and it is twice as fast on many CPUs
    torch.set_float32_matmul_precision("medium")
    command = given("model.study", arguments)
    several = len(chosen) > 1
    results, figures = (
        {name: place / f"{name}.{kind}" if several else place for name in chosen} if place else {}
        for place, kind in ((options.json, "json"), (options.png, "png"))
    )
    try:
        ready(*results.values(), *figures.values())
        if options.redraw:
            _redraw(options)
            return 0
        bench = _bench(options, command)
        for name in chosen:
            study = STUDIES[name]
            measured = study.measure(bench)
            print(f"{study.name}: {study.summary}\n{table(study, measured)}")  # noqa: T201
            if name in results:
                write(results[name], json.dumps(result(study, bench, measured)) + "\n")
            if name in figures:
                draw(study, measured, figures[name])
    except (*SENTENCES, StudyError, OSError, KeyboardInterrupt) as error:
        return ended(error, f"stopped; give the same command again to go on (trainings are in {options.out})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
