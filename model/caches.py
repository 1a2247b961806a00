# SPDX-License-Identifier: MIT
"""Where the tools we start keep their caches: below build/ of this checkout, not in the home folder."""

import os
from pathlib import Path

BUILD = Path(__file__).resolve().parents[1] / "build"

CACHES = {"MPLCONFIGDIR": "matplotlib", "TORCHINDUCTOR_CACHE_DIR": "torchinductor", "YOWASP_CACHE_DIR": "yowasp"}
"""Environment variable of a tool -> folder in build/."""


def keep_here() -> None:
    """Tell the tools; before matplotlib is imported, which asks once. Variables that are set already stay."""
    for variable, folder in CACHES.items():
        os.environ.setdefault(variable, str(BUILD / folder))
