# SPDX-License-Identifier: MIT
"""The shipped policies by name: what every command that takes an artifact takes a name for."""

import difflib
from pathlib import Path

from model.deployed.artifact import ArtifactError

POLICIES = Path(__file__).resolve().parent.parent / "policies"
"""The folder of the shipped policies, NAME.safetensors each."""

DEFAULT = "hopper-medium-expert"
"""What commands take where nothing is named."""

TEST_POLICY = "hopper-tiny"
"""Small enough to fly in a test within seconds; its score is no measure of anything."""


def shipped() -> list[str]:
    """Return the names of the shipped policies, sorted."""
    return sorted(path.stem for path in POLICIES.glob("*.safetensors"))


def listing() -> str:
    """Return the names in one line, the test policy marked."""
    return ", ".join(f"{name} (test policy)" if name == TEST_POLICY else name for name in shipped())


def find(name_or_path: str) -> Path:
    """Return the file of a shipped policy's name, or the path as it is where it leads to a file.

    A name comes before a file of that name (`./NAME` is the file). A checkpoint's path (.pt) passes unseen: its reader
    has its own words. Raises `ArtifactError` that lists the names.
    """
    if name_or_path in shipped():
        return POLICIES / f"{name_or_path}.safetensors"
    path = Path(name_or_path)
    if path.is_file() or path.suffix == ".pt":
        return path
    close = difflib.get_close_matches(path.stem.lower(), shipped(), n=1)
    raise ArtifactError(
        f"there is no policy {name_or_path}, neither a file nor a shipped one"
        + (f" (the nearest is {close[0]})" if close else "")
        + f"; shipped are {listing() or 'none'}; name one of them, or export your own with `python -m model.export`"
    )
