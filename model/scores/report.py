# SPDX-License-Identifier: MIT
"""A table of scores in Markdown, from the document that `model.table` writes as JSON."""

from collections.abc import Iterator
from typing import Any

Document = dict[str, Any]


def markdown(document: Document) -> str:
    """Return the table of a suite: what it depends on, then each task with its methods and what others published."""
    return (
        "\n".join(
            [*_header(document), *(line for task in document["tasks"] for line in _task(task)), *_averages(document)]
        )
        + "\n"
    )


def _header(document: Document) -> Iterator[str]:
    rule, budget = document["protocol"], document["budget"]
    yield f"# Scores: {document['suite']}, protocol `{rule['name']}`"
    yield ""
    if document["shortfall"]:
        yield f"**Below the protocol:** {'; '.join(document['shortfall'])}."
        yield ""
    yield f"* Rule: {rule['rule']}."
    yield (
        f"* Training seeds {_range(rule['seeds'])}; {rule['episodes']} episodes per evaluation, reset seeds "
        f"{rule['first_seed']} to {rule['first_seed'] + rule['episodes'] - 1} for all; {rule['checkpoints']} float "
        "checkpoints."
    )
    sizes = ", ".join(f"{name} {value}" for name, value in budget.items())
    if "commands" in document:
        yield f"* Budget: {sizes}; as many updates, float and quantised together, for all."
        yield from _recipes(document)
    else:  # of a document from before methods had recipes
        yield f"* Budget: {sizes}; optimiser and schedule the same for all."
    yield f"* Commit {', '.join(document['commits']) or 'none yet'} (+: with changes)."
    yield f"* Versions: {', '.join(f'{name} {v}' for name, v in document['versions'].items())}."
    for command in document.get("commands") or [document["command"]]:
        yield f"* Command: `{command}`"
    if others := len(document.get("others", ())):
        yield f"* The file also holds {others} finished cells of other configurations or data that no row here shows."
    yield (
        "* Normalised scores, 0 random and 100 expert: mean +- deviation over training seeds [deviation over the "
        'episodes of a run]. "Deployed" is the integer policy on the golden network. Published scores are others\' '
        "figures on other data sets: they are no comparison of methods with ours."
    )


def _recipes(document: Document) -> list[str]:
    """Return a line for each recipe and the methods that have it."""
    methods: dict[str, dict[str, None]] = {}
    for task in document["tasks"]:
        for row in task.get("rows", ()):
            if recipe := row.get("recipe"):
                text = ", ".join(f"{name} {value}" for name, value in recipe.items())
                methods.setdefault(text, {})[row["method"]] = None
    return [f"* Recipe of {', '.join(names)}: {text}." for text, names in methods.items()]


def _task(task: Document) -> Iterator[str]:
    yield ""
    yield f"## {task['name']}"
    yield ""
    if task["absent"]:
        yield f"Not run: {task['absent']}."
        return
    yield (
        f"Data `{task['dataset']}` ({task['dataset_steps']} steps, {task['dataset_episodes']} episodes, mean return "
        f"{task['dataset_mean_return']:.1f} = {_normalised(task, task['dataset_mean_return']):.1f}, digest "
        f"`{task['dataset_digest'][:16]}`) in `{task['environment']}`, target {task['target_return']:g}. "
        f"{_sentence(task['note'])}"
    )
    yield ""
    bits = next((row["weight_bits"] for row in task["rows"] if row["weight_bits"]), None)
    deployed = f"deployed W{bits}" if bits else "deployed"
    yield f"| method | parameters | float, last | float, best | {deployed}, last | published, other data |"
    yield "|---|---|---|---|---|---|"
    for row in task["rows"]:
        published = task["published"].get(row["published_as"])
        parameters = "" if row["parameters"] is None else f"{row['parameters']:,}"
        figures = [_figure(row[name]) for name in ("float_last", "float_best", "deployed_last")]
        yield f"| {' | '.join([row['method'], parameters, *figures, f'{published[0]:g}' if published else ''])} |"
    yield ""
    for row in task["rows"]:
        for problem in row["problems"]:
            where = row["method"] + ("" if problem["seed"] is None else f", seed {problem['seed']}")
            yield f"* {where}: {'not run yet' if problem['failed'] is None else 'failed: ' + problem['failed']}"
    for method, (value, source) in task["published"].items():
        yield f"* Published, {method} {value:g}: {source}"


def _averages(document: Document) -> Iterator[str]:
    if document["published_averages"]:
        yield ""
        yield "## Published averages, other data"
        yield ""
        for method, (value, source) in document["published_averages"].items():
            yield f"* {method} {value:g}: {source}"


def _figure(summary: Document | None) -> str:
    if summary is None:
        return ""
    runs = " (1 run)" if summary["std_runs"] is None else f" +- {summary['std_runs']:.1f}"
    return f"{summary['mean']:.1f}{runs} [{summary['std_episodes']:.1f}]"


def _normalised(task: Document, value: float) -> float:
    low, high = task["reference"]
    return 100.0 * (value - low) / (high - low)


def _range(seeds: list[int]) -> str:
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
