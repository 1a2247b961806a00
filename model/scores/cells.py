# SPDX-License-Identifier: MIT
"""The cells of a table: one training run with its evaluations each, in a process of its own, on Ray."""

import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
import socket
import subprocess
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ray
import torch

from model.data import offline
from model.data.offline import DataError
from model.deployed.artifact import ArtifactError
from model.deployed.geometry import VERSION, GeometryError
from model.files import WriteError, write_json
from model.integer.proof import ExportError
from model.network import baselines
from model.scores import evaluation
from model.training import deployment
from model.training.checkpoint import Checkpoint, CheckpointError
from model.training.config import ConfigError, TrainConfig
from model.training.trainer import Trainer, TrainError, device, kept_steps

ROOT = Path(__file__).resolve().parents[2]
LONGEST_FOLDER = 39
"""Bytes of the longest path below which Ray can have its sockets: macOS takes 103 in all, Ray adds up to 64."""
PACKAGES = ("torch", "numpy", "gymnasium", "gymnasium-robotics", "mujoco", "minari", "ray")
SCORE_FIELDS = ("kind", "digest", "target_return", "first_seed", "mean_return", "std_return", "mean_length", "returns")
SENTENCES = (
    ConfigError,
    GeometryError,
    CheckpointError,
    ArtifactError,
    ExportError,
    DataError,
    WriteError,
    TrainError,
)
"""Errors whose message alone says what is wrong."""


class SweepError(ValueError):
    """Cells that cannot be run; the message says what to do."""


@dataclass(frozen=True)
class Cell:
    """One training run and its evaluations; what is in here determines the figures.

    config : JSON of the training. targets : returns to ask for. checkpoints : of the float phase, evaluated.
    """

    task: str
    method: str
    config: str
    dataset: str
    dataset_digest: str
    protocol: str
    targets: tuple[float, ...]
    episodes: int
    first_seed: int
    checkpoints: int

    @property
    def seed(self) -> int:
        """The training's."""
        return int(json.loads(self.config)["seed"])

    @property
    def digest(self) -> str:
        """SHA-256 of all fields, hexadecimal. The code's version is not among them: results name their commit."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()

    @classmethod
    def stored(cls, fields: dict[str, Any]) -> "Cell":
        """Return the cell that a result or a document stores; a field its configuration lacks has today's default.

        Raises `ConfigError`.
        """
        config = TrainConfig.from_json(json.dumps(fields["config"])).to_json()
        return cls(**fields | {"config": config, "targets": tuple(fields["targets"])})

    def of_seed(self, seed: int) -> "Cell":
        """Return the cell of another training seed."""
        config = dataclasses.replace(TrainConfig.from_json(self.config), seed=seed)
        return dataclasses.replace(self, config=config.to_json())

    def folder(self, out: Path) -> Path:
        """Return where the cell keeps its state."""
        return out / f"{self.task}_{self.method}_{self.seed}_{self.digest[:12]}"


@dataclass(frozen=True)
class Resources:
    """What a cell gets; cpus are threads too, and with gpus it trains there."""

    cpus: int = 1
    gpus: float = 0.0
    save_every: int = 250


def finished(cell: Cell, out: Path) -> dict[str, Any] | None:
    """Return the result of a cell that is done, or None."""
    path = cell.folder(out) / "result.json"
    try:
        return json.loads(path.read_text()) if path.is_file() else None
    except ValueError:  # damaged: the cell does again what it has no files of
        return None


def run(cell: Cell, out: Path, resources: Resources) -> dict[str, Any]:
    """Train, or go on with it, and evaluate; return the result, which lies in the cell's folder too.

    A cell that fails returns {"failed": why} and leaves the traceback in failure.txt.
    """
    torch.set_num_threads(resources.cpus)
    torch.set_float32_matmul_precision("medium")
    folder = cell.folder(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "result.json", _run(cell, folder, resources))
    except Exception as error:
        with contextlib.suppress(OSError):
            (folder / "failure.txt").write_text(traceback.format_exc())
        words = " ".join(str(error).split())
        return {"failed": words if isinstance(error, SENTENCES) else f"{type(error).__name__}: {words}"}
    return json.loads((folder / "result.json").read_text())


def _run(cell: Cell, folder: Path, resources: Resources) -> dict[str, Any]:
    code = commit()
    config = TrainConfig.from_json(cell.config)
    episodes = offline.load(cell.dataset, config.delayed)
    if episodes.digest != cell.dataset_digest:
        raise DataError(f"the data set {cell.dataset} has changed since the sweep began; start the sweep again")
    command = f"python -m model.table (cell {cell.digest[:12]})"
    on = device("cuda" if resources.gpus else "cpu")
    trainer = Trainer(config, episodes, folder, True, resources.save_every, command, cell.checkpoints, on)
    trainer.run(progress=False)
    files = {step: folder / f"float-{step}.pt" for step in kept_steps(config.steps, cell.checkpoints)}
    files[config.steps] = folder / "float.pt"
    started = time.monotonic()
    result: dict[str, Any] = {
        "cell": dataclasses.asdict(cell) | {"config": json.loads(cell.config)},
        "parameters": baselines.parameters(Checkpoint.load(folder / "float.pt").network),
        "dataset_mean_return": trainer.facts["dataset_mean_return"],
        "training_cpu_s": round(trainer.cpu_s, 1),
        "training_wall_s": round(trainer.wall_s, 1),
        "float": [
            _score(cell, file, target) | {"step": step} for step, file in files.items() for target in cell.targets
        ],
        "deployed": [],
    }
    if config.quant_steps:
        policy, _ = deployment.export(folder / "quant.pt")
        policy.save(folder / "policy.safetensors")
        step = config.steps + config.quant_steps
        result["deployed"] = [_score(cell, folder / "policy.safetensors", t) | {"step": step} for t in cell.targets]
    result["evaluation_wall_s"] = round(time.monotonic() - started, 1)
    return result | {"device": on.type, "threads": resources.cpus, "commit": code, "versions": versions()}


def _score(cell: Cell, file: Path, target: float) -> dict[str, Any]:
    """Evaluate one file at one target, once: a cell that is interrupted takes up the evaluations it has."""
    kept = file.parent / f"score-{file.stem}-{target:g}.json"
    if not kept.is_file():
        score = evaluation.evaluate(file, cell.episodes, cell.first_seed, target)
        write_json(kept, {name: score[name] for name in SCORE_FIELDS})
    return json.loads(kept.read_text())


def commit() -> str:
    """Return the commit of this checkout, "+" behind it where files differ, or "unknown"."""
    try:
        git = ["git", "-C", str(ROOT)]
        name = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
        status = [*git, "status", "--porcelain", "--untracked-files=no"]
        changed = subprocess.run(status, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name + ("+" if changed else "")


def versions() -> dict[str, str]:
    """Return the versions of what a figure depends on."""
    found = {"spikeloop": VERSION}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _on_worker(cell: Cell, out: str, resources: Resources, environment: dict[str, str]) -> dict[str, Any]:
    os.environ.update(environment)
    return run(cell, Path(out), resources)


def _reach(address: str) -> None:
    """Raise `SweepError` where nothing listens at [ray://]host:port; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise SweepError(
            f"no Ray cluster answers at {address} ({error}); start one with `ray start --head`, or leave --ray-address "
            "out to use this machine"
        ) from None


def _room(resources: Resources) -> int:
    """Return how many cells Ray can run at a time."""
    have = ray.cluster_resources()
    room = have.get("CPU", 0.0) / resources.cpus
    return max(1, int(min(room, have.get("GPU", 0.0) / resources.gpus) if resources.gpus else room))


def _session_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a short folder for the files of a Ray session, removed when it is left."""
    prefix, usual = "ray-", tempfile.gettempdir()
    fits = len(os.fsencode(usual)) + len(f"/{prefix}12345678") <= LONGEST_FOLDER
    return tempfile.TemporaryDirectory(prefix=prefix, dir=usual if fits else "/tmp", ignore_cleanup_errors=True)


def sweep(
    cells: Sequence[Cell],
    out: Path,
    resources: Resources,
    workers: int,
    address: str | None,
    until: float | None = None,
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Run cells side by side and yield (cell, result) as each ends; a worker that dies fails its cell alone.

    workers : cells at a time on this machine. address : of a Ray cluster instead, whose nodes share `out`, the data and
    this checkout under the same paths. until : when, on the monotonic clock, no further cell begins. Closing the
    iterator stops the cells; they go on from their last checkpoint. Raises `SweepError`.
    """
    gpus = torch.cuda.device_count()
    if address is None and resources.gpus > gpus:
        raise SweepError(
            f"a cell asks for {resources.gpus:g} GPUs and this machine has {gpus}: leave --gpus-per-cell out, or give "
            "--ray-address"
        )
    if address is not None:
        _reach(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with contextlib.ExitStack() as at_end:
        where: dict[str, Any] = {"address": address}
        if address is None:
            # or Ray makes one, and keeps it in the home folder
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            where = {
                "num_cpus": workers * resources.cpus,
                "object_store_memory": 100 * 2**20,
                "include_dashboard": False,
                "_temp_dir": at_end.enter_context(_session_folder()),
            }
        at_end.callback(ray.shutdown, wait_for_processes=True)  # or they would go on writing into the folder
        try:
            ray.init(**where, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # Ray raises bare exceptions too, such as when a loaded machine is too slow
            words = " ".join(str(error).split())
            raise SweepError(f"Ray does not start at {address or 'this machine'}: {words}") from None
        # a process per cell: no cell inherits another's memory, threads or random numbers
        remote = ray.remote(max_calls=1, max_retries=0, num_cpus=resources.cpus, num_gpus=resources.gpus)(_on_worker)
        root = str(offline.local_root().resolve())
        environment = {"MINARI_DATASETS_PATH": root, "OMP_NUM_THREADS": str(resources.cpus), "TERM": "dumb"}
        queue, waiting = list(cells), {}
        # what Ray queues begins whenever there is room: with a time limit it has no more than there is room for
        most = len(queue) if until is None else _room(resources)
        while True:
            while queue and len(waiting) < most and (until is None or time.monotonic() < until):
                cell = queue.pop(0)
                waiting[remote.remote(cell, str(out.resolve()), resources, environment)] = cell
            if not waiting:
                return
            for reference in ray.wait(list(waiting))[0]:
                cell = waiting.pop(reference)
                try:
                    yield cell, ray.get(reference)
                except ray.exceptions.RayTaskError as error:  # before the cell had begun
                    yield cell, {"failed": " ".join(str(error.cause).split())}
                except ray.exceptions.RayError as error:
                    yield cell, {"failed": f"its process died ({type(error).__name__}); the memory may have run out"}
