# SPDX-License-Identifier: MIT
"""A run's figures in TensorBoard: what log.csv holds, and the firing rates at the end of a phase."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType


class TensorBoardError(RuntimeError):
    """TensorBoard files cannot be written; the message says why and what to do."""


class TensorBoard:
    """TensorBoard files of a run, one TensorBoard run per phase below the folder `tensorboard`.

    Scalars loss, validation_loss and rate over the updates of the phase, and firing_mean/NEURONS and firing_any/NEURONS
    once. A phase that goes on in another process goes on here too: what lies behind its first new update is purged.
    Asked for in the middle of a phase, it shows what was logged before. A context manager. Raises `TensorBoardError`
    where the package tensorboard is missing or a file cannot be written.
    """

    def __init__(self, run: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as missing:
            raise TensorBoardError(
                f"the Python package {missing.name} is missing; `pip install '.[tensorboard]'`, "
                "or leave --tensorboard out"
            ) from None
        self._make = SummaryWriter
        self._log, self.folder = run / "log.csv", run / "tensorboard"
        self._writers: dict[str, SummaryWriter] = {}
        self._shown: dict[str, int] = {}

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for writer in self._writers.values():
            writer.close()

    def follow(self, phase: str, step: int) -> None:
        """Show what log.csv has of a phase that has come to update `step`."""
        try:
            if phase not in self._writers:
                folder = self.folder / phase
                # what an earlier process wrote up to here stays
                first = step if any(folder.glob("events.*")) else 0
                self._writers[phase] = self._make(str(folder), purge_step=first)
                self._shown[phase] = first - 1
            with self._log.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if row.pop("phase") == phase]
            for row in rows:
                at = int(row.pop("step"))
                if at > self._shown[phase]:
                    self._add(phase, at, {name: float(text) for name, text in row.items() if text})
                    self._shown[phase] = at
            self._writers[phase].flush()
        except OSError as error:
            raise self._refusal(error) from None

    def finish(self, phase: str, step: int, rates: Mapping[str, Mapping[str, float]]) -> None:
        """Show a finished phase's firing rates: per neurons, the "mean" and "any" of `trainer.firing_rates`."""
        self.follow(phase, step)
        try:
            for neurons, kinds in rates.items():
                self._add(phase, step, {f"firing_{kind}/{neurons}": rate for kind, rate in kinds.items()})
            self._writers[phase].flush()
        except OSError as error:
            raise self._refusal(error) from None

    def _add(self, phase: str, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            # without validation data there is no such loss
            if math.isfinite(value):
                self._writers[phase].add_scalar(name, value, step)

    def _refusal(self, error: OSError) -> TensorBoardError:
        return TensorBoardError(
            f"{self.folder} cannot be written ({error.strerror or error}); make room or leave --tensorboard out"
        )
