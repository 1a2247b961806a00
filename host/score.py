# SPDX-License-Identifier: MIT
"""D4RL's normalised score: 0 for a random policy, 100 for the benchmark's expert."""

import re

REFERENCES = {
    "Hopper": (-20.272305, 3234.3),
    "HalfCheetah": (-280.178953, 12135.0),
    "Walker2d": (1.629008, 4592.3),
    "Ant": (-325.6, 3879.7),
}
"""Returns of the random and the expert policy."""


def normalized_score(environment: str, total: float) -> float | None:
    """Return the score of an episode's return, or None where D4RL defines none. Any version of a family counts."""
    family = re.sub(r"-v\d+$", "", environment)
    if family not in REFERENCES:
        return None
    low, high = REFERENCES[family]
    return 100 * (total - low) / (high - low)
