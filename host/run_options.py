# SPDX-License-Identifier: MIT
"""The options of `host/run_episode.py`, and which of them do not go together."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from host.devices import HERE, POLICY_S, add_device_options, device_name
from model.deployed import zoo


def number(kind: type, low: float | None = None, above: float | None = None) -> Callable[[str], float]:
    """Return a converter for an option: a finite number, from `low` on or above `above`."""

    def convert(text: str) -> float:
        value = kind(text)
        if not math.isfinite(value):
            raise argparse.ArgumentTypeError("must be finite")
        if low is not None and value < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}")
        if above is not None and value <= above:
            raise argparse.ArgumentTypeError(f"must be above {above}")
        return value

    convert.__name__ = kind.__name__  # what argparse says a text is not
    return convert


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options."""

    parser = argparse.ArgumentParser(description="Fly episodes of an environment with the circuit in the loop.")
    add = parser.add_argument
    add_device_options(parser, POLICY_S)
    add(
        "--policy",
        default=zoo.DEFAULT,
        metavar="NAME|FILE",
        help=f"artifact, or a shipped policy: {zoo.listing()} (default: %(default)s)",
    )
    add("--env", help="Gymnasium environment (default: the policy's)")
    add("--episodes", type=number(int, low=1), help="how many to fly (default: 1), or to replay (default: all)")
    add(
        "--jobs",
        type=number(int, low=1),
        default=1,
        help="episodes side by side, each on a circuit of its own (default: 1)",
    )
    add("--seed", type=number(int, low=0), default=0, help="of the first episode; the next ones count up (default: 0)")
    add("--target-return", type=number(float), help="return to ask for (default: the policy's)")
    add("--check", action=argparse.BooleanOptionalAction, help="compare every decision with the golden network")
    add(
        "--scrub",
        type=number(int, low=1),
        metavar="WORDS",
        help="read so many words of the policy memory back after each decision, in turn, and stop if one has changed",
    )
    add(
        "--learn",
        type=number(int, low=0),
        nargs="?",
        const=50,
        metavar="STEPS",
        help="let the circuit's head learn from the rewards after so many steps (default: 50) and from the return "
        "after each episode; 0: from that alone; what it learned is written to learned.safetensors",
    )
    add("--learned", type=Path, metavar="FILE", help="begin with the head that --learn wrote, the policy being its own")
    add(
        "--clock-mhz",
        type=number(float, above=0),
        default=100.0,
        help="clock the shown times are for (default: 100)",
    )
    add(
        "--replay",
        metavar="DATASET",
        help="no environment: stream a Minari data set's recorded episodes through the circuit at full speed, compare "
        "with the golden network",
    )
    add("--out", type=Path, help="folder for the results (default: runs/<time>)")
    add("--json", type=Path, help="also write the summary to this file")
    add("--power", type=Path, metavar="FILE", help="a result of python -m host.power to take into summary and report")
    add("--video", action="store_true", help="also film the episodes (mp4)")
    add("--gif", action="store_true", help="also film them as a small gif: fewer frames, half as large")
    options = parser.parse_args(arguments)
    if options.jobs > 1 and (options.board or options.replay or options.video or options.gif):
        parser.error("--jobs is for simulated circuits without a film: no --board, --replay, --video or --gif with it")
    if options.scrub and (options.replay or options.board not in (None, HERE)):
        parser.error("--scrub reads the circuit's memory itself: not with --replay, nor through a board server")
    if options.learn is not None and (
        options.jobs > 1 or options.scrub or options.replay or options.board not in (None, HERE)
    ):
        parser.error(
            "--learn changes the head of one circuit at hand, from rewards: no --jobs, --scrub or --replay with it, "
            "nor a board server"
        )
    if options.replay:
        unused = [
            name for name in ("env", "out", "video", "check", "power") if getattr(options, name) not in (None, False)
        ]
        if unused:
            parser.error(f"--{unused[0]} has no use with --replay")
        return options
    options.episodes = options.episodes or 1
    if options.check is None:  # the golden device is the golden network
        options.check = device_name(options) != "golden"
    return options
