# SPDX-License-Identifier: MIT
"""The document of a table, which `model.table` writes as JSON: reading it back, its rows, what it already holds."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from model.scores import protocol
from model.scores.cells import Cell
from model.scores.protocol import Protocol
from model.scores.report import markdown
from model.scores.suites import METHODS, Budget
from model.training.config import ConfigError, TrainConfig

Document = dict[str, Any]
Result = dict[str, Any]

NO_RECIPE = {
    *("geometry", "network", "structure", "inference", "length", "steps", "quant_steps", "batch", "rate"),
    *("return_scale", "target_return", "to_go_scale", "seed"),
}
"""Fields of `TrainConfig` that follow from task, method and budget, or that a recipe always names."""


def read(path: Path) -> Document:
    """Read a document back. Raises `ConfigError`."""
    try:
        document: Document = json.loads(path.read_text())
        markdown(document)
        for result in results(document):
            digest(result)
    except (json.JSONDecodeError, UnicodeDecodeError, LookupError, TypeError, AttributeError):
        raise ConfigError(f"{path} holds no table; give a file that `python -m model.table --json` wrote") from None
    return document


def results(document: Document) -> Iterator[Result]:
    """Return every finished cell of a document, those that its table does not show included."""
    for task in document["tasks"]:
        for row in task.get("rows", ()):
            yield from row["cells"]
    yield from document.get("others", ())


def digest(result: Result) -> str:
    """Return the digest of a finished cell, which equals that of the cell as it is planned.

    A configuration that this code cannot read makes a digest that no planned cell has.
    """
    try:
        return Cell.stored(result["cell"]).digest
    except (ConfigError, TypeError):
        return hashlib.sha256(json.dumps(result["cell"], sort_keys=True).encode()).hexdigest()


def require_same(document: Document, path: Path, suite: str, rule: Protocol, budget: Budget) -> None:
    """Raise `ConfigError` where the cells of this suite, rule and budget cannot stand in the table of a document."""
    asked = {"suite": suite, "protocol": rule.name, **dataclasses.asdict(rule), **dataclasses.asdict(budget)}
    kept = document["protocol"]
    there = {"suite": document["suite"], "protocol": kept["name"], **kept, **document["budget"]}
    compared = ("suite", "protocol", "episodes", "checkpoints", "first_seed", *dataclasses.asdict(budget))
    if differing := [name for name in compared if there.get(name) != asked[name]]:
        has, wants = (", ".join(f"{name} {of.get(name)}" for name in differing) for of in (there, asked))
        raise ConfigError(
            f"{path} is a table with {has}, this command asks for {wants}: ask for the same, or choose another --json "
            f"(--known {path} takes the cells that fit)"
        )


def require_same_task(kept: Document, facts: Document, path: Path) -> None:
    """Raise `ConfigError` where the rows of a task in a document are of another task or other data."""
    names = ("environment", "dataset_digest", "target_return", "return_scale", "reference")
    if differing := [name for name in names if json.dumps(kept[name]) != json.dumps(facts[name])]:
        raise ConfigError(
            f"the rows of {facts['name']} in {path} were made with another {' and '.join(differing)} than there is "
            "now; choose another --json"
        )


def row(
    method: str, found: Mapping[int, Result | None], failures: Mapping[int | None, str | None], reference: Any
) -> Document:
    """Return the line of a method in a task.

    found : per training seed the finished cell, or None. failures : per seed, or for None of all, why there is none.
    """
    good = [result for result in found.values() if result is not None]
    config = good[0]["cell"]["config"] if good else None
    problems = [{"seed": seed, "failed": failures.get(seed)} for seed, result in found.items() if result is None]
    if None in failures:
        problems = [{"seed": None, "failed": failures[None]}]
    return {
        "method": method,
        "published_as": METHODS[method].published if method in METHODS else None,
        "parameters": good[0]["parameters"] if good else None,
        "weight_bits": config["geometry"]["weight_bits"] if config else None,
        "recipe": _recipe(config) if config else None,
        "float_last": protocol.over_seeds([protocol.last(r["float"]) for r in good], reference),
        "float_best": protocol.over_seeds([protocol.best(r["float"]) for r in good], reference),
        "deployed_last": protocol.over_seeds([protocol.last(r["deployed"]) for r in good], reference),
        "problems": problems,
        "cells": good,
    }


def _recipe(config: Document) -> Document:
    """Return what a method's training had for itself: its updates, batch and rate, and what differs from the usual."""
    usual = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    always = {name: config[name] for name in ("steps", "quant_steps", "batch", "rate")}
    return always | {
        name: value for name, value in config.items() if name not in NO_RECIPE and value != usual.get(name)
    }


def versions(shown: Sequence[Result]) -> dict[str, str]:
    """Return the versions that the cells were made with, all of them where they differ."""
    names = dict.fromkeys(name for result in shown for name in result["versions"])
    return {
        name: ", ".join(sorted({result["versions"][name] for result in shown if name in result["versions"]}))
        for name in names
    }


def shortfall(rule: Protocol, seeds: int) -> list[str]:
    """Return where a table stays below its protocol."""
    least = protocol.PROTOCOLS[rule.name]
    have = {"training_seeds": seeds, "episodes": rule.episodes, "checkpoints": rule.checkpoints}
    return [
        f"{number} {name.replace('_', ' ')} where the protocol asks for {getattr(least, name)}"
        for name, number in have.items()
        if number < getattr(least, name)
    ]
