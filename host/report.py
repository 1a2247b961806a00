# SPDX-License-Identifier: MIT
"""One page about a run: what was flown, how it went, what the neurons did. A single HTML file, pictures inside."""

import base64
import contextlib
import html
import io
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot; there may be no screen

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from host.activity import Activity
from host.episode import Episode
from host.power.picture import draw_power, shown_rails
from host.power.subjects import STATES
from model.deployed.artifact import Policy

COLOURS = ("#1f6feb", "#d9730d", "#2f9e63", "#b0308c", "#7a5cc7", "#8a6d3b", "#5f6b7a", "#c4342d")

STYLE = {
    "axes.edgecolor": "#c5ccd6",
    "axes.grid": True,
    "axes.labelcolor": "#39424e",
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 120,
    "font.size": 10,
    "grid.color": "#e9edf2",
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "xtick.color": "#6b7684",
    "ytick.color": "#6b7684",
}

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1f2630; background: #fff; max-width: 62rem; margin: 2.5rem auto;
  padding: 0 1.2rem }}
h1 {{ font-size: 1.6rem; margin: 0 }} h2 {{ font-size: 1.1rem; margin: 2.4rem 0 .2rem }}
p {{ margin: .2rem 0 .6rem; color: #4a5563 }} img {{ width: 100%; height: auto }}
table {{ border-collapse: collapse; margin: 1rem 0 }} td, th {{ padding: .2rem 1.4rem .2rem 0; text-align: left }}
th {{ font-weight: 600 }} td {{ font-variant-numeric: tabular-nums }} tr {{ border-bottom: 1px solid #edf0f4 }}
.facts td:first-child {{ color: #6b7684 }} .bad {{ color: #b3261e; font-weight: 600 }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


@contextlib.contextmanager
def new_figure(height: float) -> Iterator[Figure]:
    """Lend an empty figure, `height` inches tall, in the style of the page."""
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(9.4, height), layout="constrained")
        try:
            yield figure
        finally:
            plt.close(figure)


def _picture(name: str, draw: Callable[[Figure], None], height: float) -> str:
    """Return an <img> with what `draw` puts on a figure, `height` inches tall."""
    buffer = io.BytesIO()
    with new_figure(height) as figure:
        draw(figure)
        figure.savefig(buffer, format="png")
    return f'<img alt="{html.escape(name)}" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _table(rows: list[tuple[Any, ...]], header: tuple[str, ...] = (), style: str = "") -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table class="{style}">{f"<tr>{head}</tr>" if head else ""}{body}</table>'


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"  # noqa: RUF001 (a dash for a missing figure)


def write_report(
    path: Path,
    summary: dict[str, Any],
    episodes: list[Episode],
    policy: Policy,
    clock_mhz: float,
    power: dict[str, Any] | None = None,
) -> None:
    """Write the page of a run; the detailed pictures are of its last episode. power : a result of `host.power`."""
    last = episodes[-1]
    activity = Activity.replay(policy, [step.token for step in last.steps])
    title = f"{summary['environment']} on the {summary['device']} device"
    sections = [_facts(summary, policy, clock_mhz), _episodes(summary)]

    def section(heading: str, caption: str, draw: Callable[[Figure], None], height: float = 2.7) -> None:
        sections.append(f"<h2>{heading}</h2><p>{caption}</p>{_picture(heading, draw, height)}")

    section("Return", "Sum of rewards so far; dashed: the return asked for.", lambda f: _returns(f, episodes, summary))
    if summary["learning"] and summary["learning"]["changes"]:
        caption = "Third factors, and the units of weight that each changed in the head, one after the other."
        section("Learning", caption, lambda f: _learning(f, summary["learning"]["changes"]))
    if power:
        sections.append(f"<h2>Power</h2>{_power(power)}")
        if power["rails"]:
            draw, height = partial(draw_power, result=power), 1.2 + 1.6 * len(shown_rails(power))
            sections.append(_picture("Power", draw, height))
    of_last = f"Episode {len(episodes) - 1}, seed {last.seed}."
    caption = f"{of_last} As the environment was given them, a line per component."
    section("Actions", caption, lambda f: _actions(f, last), 0.6 + 0.65 * policy.action_size)
    if last.cycles_median is not None:
        caption = f"{of_last} START to DONE; right: microseconds at {clock_mhz:g} MHz."
        section("Cycles per decision", caption, lambda f: _cycles(f, last, clock_mhz))
    section(
        "Spikes per layer",
        f"{of_last} All neurons of a layer, all {policy.geometry.steps} steps of a token.",
        lambda f: _spikes(f, activity),
    )
    for name, rows in (("block entries", activity.entry), ("MLP hidden neurons", activity.hidden)):
        section(
            f"Firing map: {name}",
            f"{of_last} Rows are neurons, layer 0 on top; dark where one fires in more steps of the token.",
            lambda f, rows=rows: _firing_map(f, np.array(rows).T, policy.geometry.layers, policy.geometry.steps),
            4.2,
        )
    path.write_text(PAGE.format(title=html.escape(title), body="\n".join(sections)))


def _facts(summary: dict[str, Any], policy: Policy, clock_mhz: float) -> str:
    cycles = summary["cycles_median"]
    checked = f"{summary['checked_actions']:,} action components compared, {summary['mismatches']} mismatches"
    rows = [
        ("Return", f"{_number(summary['return'])} of {_number(summary['target_return'])} asked for"),
        ("D4RL normalised score", _number(summary["normalized_score"])),
        ("Steps", f"{summary['steps']:,}"),
        ("Golden check", checked if summary["checked_actions"] or summary["mismatches"] else "off"),
        ("Cycles per decision (median)", _number(cycles, 0)),
        (f"Decision at {clock_mhz:g} MHz", "–" if cycles is None else f"{cycles / clock_mhz:,.2f} µs"),  # noqa: RUF001
        ("Decisions per second of this run", _number(summary["decisions_per_s"])),
        ("Policy", f"{policy.digest[:16]} for {policy.environment}"),
        ("Geometry", ", ".join(f"{k} {getattr(policy.geometry, k)}" for k in ("d_model", "layers", "steps", "window"))),
        ("Versions", ", ".join(f"{name} {version}" for name, version in summary["versions"].items() if version)),
    ]
    if board := summary["board"]:
        clock = "–" if board["clock_mhz"] is None else f"{board['clock_mhz']:.1f} MHz as measured"  # noqa: RUF001
        rows.append(("Board", f"{board['bus']}; clock {clock}; bitstream {_bitstream(board)}"))
    table = _table(rows, style="facts")
    if summary["mismatches"]:
        table += '<p class="bad">The circuit and the golden network differ: the last episode was stopped there.</p>'
    if summary["interrupted"]:
        table += '<p class="bad">Interrupted: the last episode is not complete.</p>'
    return table


def _bitstream(board: dict[str, Any]) -> str:
    digest = board["bitstream_sha256"]
    return f"{board['bitstream']}, SHA-256 {digest[:16]}" if digest else "loaded before, its file not known"


def _power(power: dict[str, Any]) -> str:
    if not power["measured"]:
        return "<p>Not measured.</p>"
    rows = [
        (
            rail,
            *(_spread(found[f"{state}_mw"], 1) for state in STATES),
            *(_spread(found[f"{part}_uj"], 3) for part in ("total", "incremental")),
        )
        for rail, found in power["rails"].items()
    ]
    note = f"Measured by {power['meter']['source']}; while running, {power['states']['running']}. "
    note += "± is a 95 % confidence interval across rounds."
    head = ("Rail", *(f"{state}, mW" for state in STATES), "µJ a decision in all", "over idle")
    partial_ = "" if power["complete"] else '<p class="bad">Partial: not all rounds were measured.</p>'
    return f"<p>{html.escape(note)}</p>{partial_}{_table(rows, head)}"


def _spread(figure: dict[str, Any], digits: int) -> str:
    return _number(figure["mean"], digits) + ("" if figure["ci95"] is None else f" ± {figure['ci95']:,.{digits}f}")


def _episodes(summary: dict[str, Any]) -> str:
    if len(summary["episodes"]) == 1:
        return ""
    rows = [
        (i, e["seed"], e["steps"], _number(e["return"]), _number(e["normalized_score"]), _number(e["cycles_median"], 0))
        for i, e in enumerate(summary["episodes"])
    ]
    returns = summary["aggregate"]["return"]
    spread = f"<p>Return {_number(returns['mean'])} ± {_number(returns['std'])} over {len(rows)} episodes.</p>"
    return _table(rows, ("Episode", "Seed", "Steps", "Return", "Score", "Cycles")) + spread


def _returns(figure: Figure, episodes: list[Episode], summary: dict[str, Any]) -> None:
    axes = figure.subplots()
    for index, episode in enumerate(episodes):
        label = f"episode {index}" if 1 < len(episodes) <= len(COLOURS) else None
        axes.plot(np.cumsum([step.reward for step in episode.steps]), label=label)
    axes.axhline(summary["target_return"], color="#8b95a3", linestyle="--", linewidth=1)
    axes.set(xlabel="step", ylabel="return")
    axes.margins(x=0.01)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(ncols=4)


def _learning(figure: Figure, changes: list[dict[str, Any]]) -> None:
    factors, sizes = figure.subplots(2, sharex=True)
    for axes, name, label in ((factors, "factor", "third factor"), (sizes, "size", "units of weight")):
        axes.bar(range(len(changes)), [change[name] for change in changes])
        axes.set_axisbelow(True)
        axes.set_ylabel(label)
    sizes.set_xlabel("change of the head")
    sizes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _learning(figure: Figure, changes: list[dict[str, Any]]) -> None:
    factors, sizes = figure.subplots(2, sharex=True)
    for axes, name, label in ((factors, "factor", "third factor"), (sizes, "size", "units of weight")):
        axes.bar(range(len(changes)), [change[name] for change in changes])
        axes.set_ylabel(label)
    sizes.set_xlabel("change of the head")


def _actions(figure: Figure, episode: Episode) -> None:
    values = np.array([step.action for step in episode.steps]).T
    rows = figure.subplots(len(values), sharex=True, sharey=True, squeeze=False)[:, 0]
    for index, (axes, component) in enumerate(zip(rows, values, strict=True)):
        axes.plot(component, linewidth=0.7, color=COLOURS[index % len(COLOURS)])
        axes.set_ylabel(str(index), rotation=0, labelpad=10, va="center")
        axes.margins(x=0.01)
    rows[-1].set_xlabel("step")


def _cycles(figure: Figure, episode: Episode, clock_mhz: float) -> None:
    axes = figure.subplots()
    axes.plot([step.decision.cycles for step in episode.steps], linewidth=0.9)
    axes.set(xlabel="step", ylabel="cycles")
    axes.margins(x=0.01)
    axes.set_ylim(bottom=0)
    right = axes.secondary_yaxis("right", functions=(lambda c: c / clock_mhz, lambda t: t * clock_mhz))
    right.set_ylabel("µs")


def _spikes(figure: Figure, activity: Activity) -> None:
    axes = figure.subplots()
    for layer, values in enumerate(np.array(activity.layer_spikes).T):
        axes.plot(values, label=f"layer {layer}", linewidth=0.9)
    axes.set(xlabel="step", ylabel="spikes per decision")
    axes.margins(x=0.01)
    axes.set_ylim(bottom=0)
    axes.legend(ncols=6, loc="lower center", bbox_to_anchor=(0.5, 1))


def _firing_map(figure: Figure, counts: NDArray[np.uint8], layers: int, steps: int) -> None:
    axes = figure.subplots()
    axes.grid(False)
    shown = axes.imshow(counts, aspect="auto", cmap="Blues", vmin=0, vmax=steps, interpolation="nearest")
    per_layer = len(counts) // layers
    for layer in range(1, layers):
        axes.axhline(layer * per_layer - 0.5, color="#d9730d", linewidth=0.8)
    axes.set(xlabel="step", yticks=[(layer + 0.5) * per_layer for layer in range(layers)])
    axes.set_yticklabels([f"layer {layer}" for layer in range(layers)])
    figure.colorbar(shown, ax=axes, label="spikes per token", pad=0.01, ticks=range(steps + 1))
