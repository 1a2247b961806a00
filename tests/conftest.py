# SPDX-License-Identifier: MIT
"""What every test is given back: the precision of products, which commands set for themselves."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _precision() -> Iterator[None]:
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_float32_matmul_precision("highest")
