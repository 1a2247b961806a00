# SPDX-License-Identifier: MIT
"""A session of tests has a temporary folder and a home of its own below build/ and leaves nothing in them.

Under pytest-xdist every worker is such a session.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from model import caches

ROOT = Path(__file__).resolve().parent
KEPT = {"build", "runs", ".hypothesis", ".pytest_cache", "__pycache__"}
"""What may appear at the root of the checkout."""
FOLDER = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the folders, before anything asks for one."""
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(build)  # pytest keeps the tests' folders of the last three runs
    folder = config.stash[FOLDER] = Path(tempfile.mkdtemp(prefix="t-", dir=build))
    for variable, name in (("TMPDIR", "tmp"), ("HOME", "home")):
        (folder / name).mkdir()
        os.environ[variable] = str(folder / name)
    for variable in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        os.environ.pop(variable, None)  # they would stand for parts of the home
    tempfile.tempdir = None
    caches.keep_here()  # as commands do first; tests/test_caches.py holds them to it


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the folders."""
    shutil.rmtree(config.stash[FOLDER], ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left(pytestconfig: pytest.Config) -> Iterator[None]:
    """Set up first and taken down last: looks when all other fixtures have cleaned up."""
    before = {path.name for path in ROOT.iterdir()} | KEPT
    yield
    folder = pytestconfig.stash[FOLDER]
    left = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.parent != folder]
    left += [path.name for path in sorted(ROOT.iterdir()) if path.name not in before]
    assert not left, (
        f"the tests of this session left {', '.join(left[:8])} behind (tmp: the temporary folder, home: the home "
        "folder, else the root of the checkout); the code that makes it must remove it or make it in runs/ or build/"
    )
