# SPDX-License-Identifier: MIT
"""Train one classifier and measure it; everything lies in a folder of its own, and an interrupted run goes on."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from model.files import save, write_json
from model.network.product import unrounded
from model.training.trainer import rate
from model.vision.classifier import Classifier
from model.vision.images import Images
from model.vision.measures import measure

TESTED = 64
"""Images of a batch in evaluation."""
PEAK, WARMUP, DECAY, CLIP = 2e-3, 0.1, 0.01, 1.0
"""Learning rate of AdamW, share of the updates over which it rises before a cosine, weight decay, gradient norm."""


@dataclass(frozen=True)
class Run:
    """What determines a run's figures but for the images, whose `digest` tells them apart."""

    data: str
    style: str
    attention: str
    seed: int
    d_model: int
    layers: int
    steps: int
    epochs: int
    batch: int

    @property
    def name(self) -> str:
        """How a run is called on the command line."""
        return f"{self.data}-{self.style}-{self.attention}-{self.seed}"

    def folder(self, out: Path) -> Path:
        """Return the run's folder: another budget has another."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return out / f"{self.name}-{digest[:8]}"


def result_file(run: Run, out: Path) -> Path:
    """Return the file that a run ends with."""
    return run.folder(out) / "result.json"


def finished(run: Run, out: Path) -> dict[str, Any] | None:
    """Return a run's result, or None."""
    try:
        return dict(json.loads(result_file(run, out).read_text()))
    except (OSError, ValueError):
        return None


def train(run: Run, images: Images, out: Path, device: torch.device, progress: bool) -> None:
    """Train and measure a run, from its last epoch on."""
    folder = run.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", asdict(run))
    write_json(result_file(run, out), _train(run, images, folder, device, progress))
    (folder / "checkpoint.pt").unlink(missing_ok=True)


def _train(run: Run, images: Images, folder: Path, device: torch.device, progress: bool) -> dict[str, Any]:
    torch.manual_seed(run.seed)
    network = Classifier(run.style, run.attention, images.shape, run.d_model, run.layers, run.steps).to(device)
    optimiser = torch.optim.AdamW(network.parameters(), PEAK, weight_decay=DECAY)
    pixels, classes = (torch.from_numpy(part).to(device) for part in images.train)
    place, begun, curve, seconds = folder / "checkpoint.pt", 0, [], 0.0
    if place.exists():
        saved = torch.load(place, map_location=device, weights_only=True)
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        begun, curve, seconds = saved["epochs"], saved["curve"], saved["seconds"]
    updates = -(-len(pixels) // run.batch)
    epochs = tqdm(range(begun, run.epochs), desc=run.name, initial=begun, total=run.epochs, disable=not progress)
    for epoch in epochs:
        network.train()
        started, total = time.perf_counter(), 0.0
        # a batch depends on seed and epoch alone, so that an interrupted run goes on as it would have
        order = np.random.default_rng((run.seed, epoch)).permutation(len(pixels))
        for n, drawn in enumerate(np.array_split(order, updates)):
            for group in optimiser.param_groups:
                group["lr"] = rate(PEAK, WARMUP, epoch * updates + n, run.epochs * updates)
            index = torch.from_numpy(drawn).to(device)
            loss = functional.cross_entropy(network(pixels[index]), classes[index])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            optimiser.step()
            total += loss.detach() * len(drawn)
        seconds += time.perf_counter() - started
        curve.append([epoch + 1, float(total) / len(pixels), accuracy(network, images.test, device)])
        state = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
        state |= {"epochs": epoch + 1, "curve": curve, "seconds": seconds}
        save(place, lambda partial, state=state: torch.save(state, partial))  # type: ignore[misc]
    network.eval()
    result = asdict(run) | {"curve": curve, "accuracy": curve[-1][2], "train_s": seconds, "device": device.type}
    result["parameters"] = sum(p.numel() for p in network.parameters() if p.requires_grad)
    with unrounded():
        return result | measure(network, torch.from_numpy(images.test[0]).to(device))


@torch.no_grad()
def accuracy(network: Classifier, part: tuple[Any, Any], device: torch.device) -> float:
    """Return the share of images whose class has the highest score."""
    network.eval()
    right = 0
    with unrounded():
        for at in range(0, len(part[0]), TESTED):
            scores: Tensor = network(torch.from_numpy(part[0][at : at + TESTED]).to(device)).cpu()
            right += int((scores.argmax(1) == torch.from_numpy(part[1][at : at + TESTED])).sum())
    return right / len(part[0])
