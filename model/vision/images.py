# SPDX-License-Identifier: MIT
"""Sets of labelled images: scikit-learn's digits, pairs of marks far apart, CIFAR-10 and CIFAR-100."""

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.files import save
from model.vision.classifier import Shape, VisionError

SETS = ("digits", "pairs", "cifar-10", "cifar-100")
DIGITS = Shape(1, 8, 8, 1, 10)
PAIRS = Shape(1, 8, 80, 2, 2)
PAIR_COUNTS = (2000, 500)
CIFAR_FILES = {
    "cifar-10": {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
    "cifar-100": {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    },
}
"""MD5 of each file of the Python version, as its publisher gives them; the last one holds the test images."""


@dataclass(frozen=True)
class Images:
    """Images [n, channels, height, width], float32 in 0..1, and their classes [n]; training and test apart."""

    shape: Shape
    train: tuple[NDArray[np.float32], NDArray[np.int64]]
    test: tuple[NDArray[np.float32], NDArray[np.int64]]


def load(name: str, seed: int, folder: Path | None, digits: Path | None = None) -> Images:
    """Return a set of `SETS`. seed : splits the digits, draws the pairs. Raises `VisionError`."""
    if name == "digits":
        return _digits(seed, digits)
    if name == "pairs":
        return pairs(seed)
    if name not in CIFAR_FILES:
        raise VisionError(f"data must be one of {', '.join(SETS)}, not {name!r}")
    return cifar(name, folder)


# digits


def _all_digits(path: Path | None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return pixels [1797, 8, 8] in 0..16 and classes, from a file of `export_digits` or from scikit-learn."""
    if path is not None:
        try:
            with np.load(path) as file:
                pixels, classes = file["pixels"], file["classes"]
        except (OSError, ValueError, KeyError):
            raise VisionError(f"{path} holds no digits; make it with --export-digits {path}") from None
        if pixels.shape != (len(classes), 8, 8) or not len(classes) or pixels.min() < 0 or pixels.max() > 16:
            raise VisionError(f"{path} holds no 8 x 8 digits of 0 to 16; make it with --export-digits {path}")
        return pixels, classes
    try:
        from sklearn.datasets import load_digits  # for this set alone
    except ImportError:
        raise VisionError(
            "the digits come with scikit-learn: pip install scikit-learn (the extra [vision]), or give --digits a file "
            "that --export-digits wrote"
        ) from None
    found = load_digits()
    return found.images.astype(np.uint8), found.target.astype(np.int64)


def export_digits(path: Path) -> None:
    """Write scikit-learn's digits to a file, for machines without it. Raises `VisionError` or `WriteError`."""
    pixels, classes = _all_digits(None)

    def fill(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez_compressed(file, pixels=pixels, classes=classes)

    save(path, fill)


def _digits(seed: int, path: Path | None) -> Images:
    """Hold out a fifth for tests."""
    pixels, classes = _all_digits(path)
    order = np.random.default_rng(seed).permutation(len(classes))
    pixels, classes = (pixels[order, None] / 16).astype(np.float32), classes[order]
    held = len(classes) // 5
    return Images(DIGITS, (pixels[held:], classes[held:]), (pixels[:held], classes[:held]))


# pairs

MARKS = np.array([[[1, 1], [0, 0]], [[1, 0], [1, 0]]], dtype=np.float32)
"""A bar that lies and one that stands, 2 x 2 pixels."""
EDGE = 3
"""Patches from a side within which its mark lies."""


def pairs(seed: int, counts: tuple[int, int] = PAIR_COUNTS) -> Images:
    """Draw fields of 8 x 80 pixels with one mark near the left side and one near the right; class: are they alike?

    The marks are at least 35 of the 40 patches apart. Each kind is as frequent on either side in either class, so one
    mark alone, or how many there are of a kind in a linear count, says nothing.
    """
    rng, parts = np.random.default_rng(seed), []
    for count in counts:
        fields = rng.random((count, 1, PAIRS.height, PAIRS.width), dtype=np.float32) * 0.2
        kinds = rng.integers(0, 2, (count, 2))
        rows = 2 * rng.integers(0, PAIRS.height // 2, (count, 2))
        columns = 2 * rng.integers(0, EDGE, (count, 2))
        columns[:, 1] = PAIRS.width - 2 - columns[:, 1]
        for side in range(2):
            for n in range(count):
                row, column = rows[n, side], columns[n, side]
                fields[n, 0, row : row + 2, column : column + 2] += 0.8 * MARKS[kinds[n, side]]
        parts.append((fields, (kinds[:, 0] == kinds[:, 1]).astype(np.int64)))
    return Images(PAIRS, *parts)


# CIFAR


def cifar(name: str, folder: Path | None) -> Images:
    """Read CIFAR-10 or CIFAR-100 from the folder of its unpacked Python version. Raises `VisionError`.

    Files are compared with their published MD5 before they are unpickled, which runs what a file says.
    """
    place = {"cifar-10": "cifar-10-batches-py", "cifar-100": "cifar-100-python"}[name]
    if folder is None:
        raise VisionError(f"{name} is not fetched for you: unpack its Python version and give --folder .../{place}")
    read = [_batch(folder / file, digest, place) for file, digest in CIFAR_FILES[name].items()]
    train = tuple(np.concatenate(parts) for parts in zip(*read[:-1], strict=True))
    return Images(Shape(3, 32, 32, 4, 100 if name == "cifar-100" else 10), train, read[-1])  # type: ignore[arg-type]


def _batch(path: Path, digest: str, place: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    try:
        content = path.read_bytes()
    except OSError:
        raise VisionError(f"{path} cannot be read; give --folder the unpacked {place}") from None
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != digest:
        raise VisionError(f"{path} is not the file that was published; unpack {place} again")
    batch = pickle.loads(content, encoding="bytes")
    pixels = (batch[b"data"].reshape(-1, 3, 32, 32) / np.float32(255)).astype(np.float32)
    return pixels, np.array(batch.get(b"labels", batch.get(b"fine_labels")), dtype=np.int64)
