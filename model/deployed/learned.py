# SPDX-License-Identifier: MIT
"""What a deployed policy's head has learned, as an artifact of its own that names the policy it came from."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.deployed.artifact import ArtifactError, Policy, read_tensors, write_tensors

FORMAT = "spikeloop-learned-head-1"


@dataclass(frozen=True)
class LearnedHead:
    """Weights of a head, and whose.

    parent : digest of the policy as it was exported. weight : int64 [actions, d_model]. facts : JSON-able: what they
    learned from.
    """

    parent: str
    weight: NDArray[np.int64]
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, policy: Policy, weight: NDArray[np.int64], facts: dict[str, Any]) -> "LearnedHead":
        """Return what a head has learned that began as the policy's, itself learned or not."""
        return cls(policy.provenance.get("learned", {}).get("parent", policy.digest), weight, facts)

    def onto(self, policy: Policy) -> Policy:
        """Return the policy with this head. Raises `ArtifactError` unless it is the one the head came from."""
        if policy.digest != self.parent:
            raise ArtifactError(
                f"this head was learned by the policy {self.parent[:16]}, not by {policy.digest[:16]}: name the policy "
                "that it came from"
            )
        provenance = policy.provenance | {"learned": {"parent": self.parent, **self.facts}}
        return dataclasses.replace(policy, tensors=policy.tensors | {"head.weight": self.weight}, provenance=provenance)

    @property
    def digest(self) -> str:
        """SHA-256 over the weights and all else, hexadecimal."""
        text = json.dumps([self.parent, self.facts, self.weight.tolist()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the artifact, whole or not at all. Raises `ArtifactError`."""
        metadata = {"format": FORMAT, "parent": self.parent, "facts": json.dumps(self.facts, sort_keys=True)}
        write_tensors(path, {"head.weight": self.weight.astype(np.int8)}, metadata | {"digest": self.digest})

    @classmethod
    def load(cls, path: Path) -> "LearnedHead":
        """Read and check an artifact. Raises `ArtifactError` if missing, truncated or edited."""
        tensors, metadata = read_tensors(path, "learned head", FORMAT, "python host/run_episode.py --learn")
        try:
            head = cls(metadata["parent"], tensors["head.weight"].astype(np.int64), json.loads(metadata["facts"]))
        except (KeyError, ValueError) as error:
            raise ArtifactError(f"{path} is not a usable learned head: {error}") from None
        if head.digest != metadata.get("digest"):
            raise ArtifactError(f"{path} was edited or damaged: its digest does not match; learn or copy it again")
        return head
