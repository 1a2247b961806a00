# SPDX-License-Identifier: MIT
"""What training windows go through so that the network does not lean on what it cannot rely on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Augmentation:
    """Disturbances of a window's tokens; each is off at 0 and then draws no random number.

    observations, actions : components of a token; after them comes the return-to-go.
    observation_noise : deviation of the noise on each normalised observation component, of every token anew.
    action_dropout : chance that a token shows zeros in place of its previous action.
    to_go_jitter : deviation of the factor, around 1, on the returns-to-go of a window: one draw a window, else the
    network would take the mean over its tokens.
    """

    observations: int
    actions: int
    observation_noise: float = 0.0
    action_dropout: float = 0.0
    to_go_jitter: float = 0.0

    def __call__(self, tokens: Floats, real: NDArray[np.bool_], rng: np.random.Generator) -> Floats:
        """Return tokens [batch, length, inputs] disturbed where real [batch, length]; padding stays zero."""
        batch, length = real.shape
        seen, acted = slice(None, self.observations), slice(self.observations, self.observations + self.actions)
        tokens = tokens.copy()
        if self.observation_noise:
            noise = rng.standard_normal((batch, length, self.observations), np.float32)
            tokens[..., seen] += np.float32(self.observation_noise) * noise * real[..., None]
        if self.action_dropout:
            tokens[..., acted] *= (rng.random((batch, length, 1)) >= self.action_dropout).astype(np.float32)
        if self.to_go_jitter:
            tokens[..., -1] *= (1 + self.to_go_jitter * rng.standard_normal((batch, 1))).astype(np.float32)
        return tokens
