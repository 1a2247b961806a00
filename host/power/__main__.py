# SPDX-License-Identifier: MIT
"""What a decision draws from the supply: `python -m host.power --help`."""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from host.accelerator import AcceleratorError
from host.board.rails import MeterError
from host.board.temperature import read_temperature
from host.bus import BusError
from host.devices import POLICY_S, Device, add_device_options, open_device
from host.local import LocalError
from host.power.figures import rail_figures, rate_figures
from host.power.files import ReadingTable
from host.power.meters import PowerMeter, open_meter
from host.power.subjects import CONFIGURED, CircuitSubject, Clock, ProcessorSubject, Subject, draw_tokens
from host.power.windows import LEAST_WINDOW_S, ORDER, Plan, Recording, measure
from host.run_folder import versions
from model import files
from model.deployed import zoo
from model.deployed.artifact import ArtifactError, Policy
from model.deployed.geometry import GeometryError

EXPECTED = (AcceleratorError, ArtifactError, BusError, GeometryError, LocalError, files.WriteError)
"""Failures whose message says all a user needs."""

PROCESSOR = "cpu"
"""What results call this machine's processor in place of a device."""


def say(line: str) -> None:
    """Print progress."""
    print(line, file=sys.stderr, flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="python -m host.power",
        description="Measure power and energy per decision in windows of three states: idle, configured and running. "
        "While running the circuit repeats a decision by itself, so that no polling processor is in the figure. A "
        "round is idle, configured, running, running, configured, idle: a linear drift cancels.",
        epilog="Figures are called measured only where a sensor was read. docs/boards.md says how to wire an external "
        "meter and what its lines look like.",
    )
    add_device_options(parser, POLICY_S)
    add = parser.add_argument
    add("--cpu", action="store_true", help="no circuit: the golden network decides on this machine's processor")
    add(
        "--meter",
        default="auto",
        metavar="METER",
        help="auto: the device's own sensors if it has any; hwmon or pynq: those; serial:DEVICE[@BAUD] or csv:FILE: a "
        "meter in the supply that this machine reads; none (default: %(default)s)",
    )
    add(
        "--policy",
        default=zoo.DEFAULT,
        metavar="NAME|FILE",
        help=f"artifact, or a shipped policy: {zoo.listing()} (default: %(default)s)",
    )
    add("--rounds", type=int, default=5, help="how many (default: %(default)s); intervals are across rounds")
    add(
        "--window-s",
        type=float,
        default=LEAST_WINDOW_S,
        help=f"length of a window in seconds, at least {LEAST_WINDOW_S:g} where a meter is read (default: %(default)g)",
    )
    add("--seed", type=int, default=0, help="of the tokens that are decided on, one a round (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write the result to this file")
    add("--csv", type=Path, metavar="FILE", help="write every reading to this file, as it comes")
    add("--png", type=Path, metavar="FILE", help="draw the windows")
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error("--rounds must be at least 2: a single one has no interval")
    if not 0 < options.window_s < float("inf"):
        parser.error("--window-s must be above 0")
    if options.seed < 0:
        parser.error("--seed must be at least 0")
    if options.cpu and options.board:
        parser.error("--cpu is measured on this machine; run it on the board without --board")
    return options


class Measurement:
    """A measurement, and what is known of it however it ends."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.policy = Policy.load(zoo.find(options.policy))
        self.plan = Plan(options.rounds, options.window_s)
        self.recording = Recording()
        self.meter: PowerMeter | None = None
        self.subject: Subject | None = None
        self.device: Device | None = None
        self.clock_mhz: float | None = None
        self.readings = 0
        self.begun = False

    def run(self) -> None:
        """Run all rounds. Raises one of `EXPECTED`, or `KeyboardInterrupt`; `result` still works then."""
        options = self.options
        files.ready(options.json, options.csv, options.png)
        with contextlib.ExitStack() as at_end:
            subject, temperature = self._open(at_end)
            board = self.device.rails if self.device else None
            remote = self.device is not None and self.device.remote
            self.meter = meter = open_meter(options.meter, board, remote)
            at_end.callback(meter.close)
            if meter.measures and options.window_s < LEAST_WINDOW_S:
                raise MeterError(f"windows of at least {LEAST_WINDOW_S:g} s are needed; leave --window-s out")
            say(f"running: {subject.meanings['running']}")
            say(f"meter: {meter.source} ({meter.reason})" + ("" if meter.measures else "; nothing is measured"))
            table = ReadingTable(options.csv) if options.csv else None
            if table:
                at_end.callback(table.close)

            def note(place: Any, reading: Any) -> None:
                self.readings += 1
                if table:
                    table.add(place, reading)

            self.begun = True
            windows = measure(subject, meter, self.plan, self.recording, note, temperature, Clock())
            at_end.enter_context(contextlib.closing(windows))
            self._follow(windows)

    def _open(self, at_end: contextlib.ExitStack) -> tuple[Subject, Any]:
        """Return what is measured, and what tells the temperature."""
        tokens = draw_tokens(self.policy, self.plan.rounds, self.options.seed)
        if self.options.cpu:
            self.subject = ProcessorSubject(self.policy, tokens, Clock())
            return self.subject, read_temperature
        self.device = device = open_device(self.options, self.policy.geometry, say)
        at_end.callback(device.driver.close)
        say(f"measuring {device.reason}")
        self.subject = CircuitSubject(device.driver, self.policy, tokens, device.simulated, Clock())
        return self.subject, device.temperature

    def _follow(self, places: Iterator[Any]) -> None:
        """Show where the measurement is."""
        slot = self.plan.settle_s + self.plan.window_s
        total, last = self.plan.rounds * len(ORDER) * slot, 0.0
        layout = "{desc} |{bar}| {n:.0f}/{total:.0f} s{postfix}"
        with tqdm(total=total, disable=None, leave=False, dynamic_ncols=True, bar_format=layout) as bar:
            for place in places:
                bar.set_description(f"round {place.round + 1}/{self.plan.rounds} {place.state}", refresh=False)
                bar.update(min(place.t_s, total) - last)
                last = min(place.t_s, total)
                if self.device and self.clock_mhz is None and place.state == CONFIGURED and not place.settled:
                    self.clock_mhz = self.device.driver.clock_mhz  # measured with every policy

    def result(self, ended_by: str | None) -> dict[str, Any]:
        """Return what --json holds: of whole rounds. ended_by : what stopped the measurement early."""
        rounds = self.recording.rounds()
        measures = self.meter is not None and self.meter.measures
        rails = rail_figures(rounds) if measures else {}
        found = [window.temperature_c for windows in rounds for window in windows]
        temperatures = [celsius for celsius in found if celsius is not None]
        return {
            "measured": bool(rails),
            "meter": self.meter and {"source": self.meter.source, "reason": self.meter.reason},
            "complete": len(rounds) == self.plan.rounds,
            "ended_by": ended_by,
            "device": self.device.name if self.device else PROCESSOR,
            "board": self.device.board_facts(self.clock_mhz) if self.device else None,
            "states": self.subject and self.subject.meanings,
            "policy_digest": self.policy.digest,
            "geometry_digest": self.policy.geometry.digest,
            "circuit_geometry_digest": self.device.driver.geometry.digest if self.device else None,
            "order": ORDER,
            "rounds": len(rounds),
            "rounds_asked": self.plan.rounds,
            "window_s": self.plan.window_s,
            "settle_s": self.plan.settle_s,
            "period_s": self.plan.period_s,
            "seed": self.options.seed,
            "readings": self.readings,
            "lines_skipped": self.meter.skipped if self.meter else 0,
            **rate_figures(rounds),
            "temperature_c": {"min": min(temperatures), "max": max(temperatures)} if temperatures else None,
            "rails": rails,
            "windows": self.recording.to_json(),
            "versions": versions(),
        }

    def finish(self, ended_by: str | None) -> None:
        """Print and write whatever was measured."""
        if self.meter is None or not self.begun:
            return
        result = self.result(ended_by)
        show(result, self.meter.reason)
        if self.options.json:
            files.write_json(self.options.json, result)
        if self.options.png and result["rails"]:
            files.save(self.options.png, lambda path: draw(path, result))
        elif self.options.png:
            say("no picture: nothing was measured")


def draw(path: Path, result: dict[str, Any]) -> None:
    """Write the picture of a result."""
    from host.power.picture import draw_power
    from host.report import new_figure

    with new_figure(1.2 + 1.6 * min(3, len(result["rails"]))) as figure:
        draw_power(figure, result)
        figure.savefig(path, format="png")


def text(figure: dict[str, Any] | None, digits: int = 1) -> str:
    """Return a mean and its interval as text."""
    if figure is None:
        return "-"
    spread = "" if figure["ci95"] is None else f" ± {figure['ci95']:,.{digits}f}"
    return f"{figure['mean']:,.{digits}f}{spread}"


def show(result: dict[str, Any], reason: str) -> None:
    """Print a result."""
    if not result["complete"]:
        print(f"PARTIAL: {result['rounds']} of {result['rounds_asked']} rounds are whole; what follows is of them")
    if rates := result["decisions_per_s"]:
        of = "this machine's processor" if result["device"] == PROCESSOR else f"the {result['device']} device"
        cycles = result["cycles_per_decision"]
        took = f", {text(cycles)} cycles a decision" if cycles else ""
        print(f"running: {text(rates)} decisions/s of {of}{took}")
    if heat := result["temperature_c"]:
        print(f"die temperature: {heat['min']:.1f} to {heat['max']:.1f} °C")
    if not result["measured"]:
        print(f"power: not measured ({reason if result['meter']['source'] == 'none' else 'no round is whole'})")
        return
    print(f"power, measured by {result['meter']['source']}; ± is a 95 % confidence interval across rounds")
    for rail, found in result["rails"].items():
        print(
            f"  {rail}: idle {text(found['idle_mw'])} mW, configured {text(found['configured_mw'])} mW, running "
            f"{text(found['running_mw'])} mW"
        )
        print(
            f"  {rail}: a decision takes {text(found['total_uj'], 3)} µJ in all, {text(found['incremental_uj'], 3)} µJ "
            f"over idle, {text(found['over_configured_uj'], 3)} µJ over configured"
        )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = parse(arguments)
    measurement, code, ended_by = None, 0, None
    try:
        measurement = Measurement(options)
        measurement.run()
    except KeyboardInterrupt:
        code, ended_by = 130, "Ctrl-C"
        say("power: interrupted; keeping what was read")
    except EXPECTED as error:
        code, ended_by = 1, str(error)
        say(f"power: {error}")
    if measurement:
        try:
            measurement.finish(ended_by)
        except files.WriteError as error:
            say(f"power: {error}")
            code = code or 1
    return code


if __name__ == "__main__":
    sys.exit(main())
