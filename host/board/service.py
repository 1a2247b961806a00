# SPDX-License-Identifier: MIT
"""What a board serves: policies, episodes, decisions, repeated ones, state and power. Never registers."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from host.accelerator import Accelerator, AcceleratorError
from host.board import messages
from host.board.messages import MOST_TOKENS, ProtocolError
from host.board.payloads import decode_image, decode_tokens, encode_record, most_load_bytes
from host.board.power import Rail
from host.bus import BusError

SUPPORTED = range(messages.LOAD, messages.STOP + 1)


class BoardService:
    """An accelerator as a server of requests; one at a time.

    facts : what else a client is told at the start, such as the clock. power : returns the board's readings, a
    dictionary per rail. temperature : returns the die's in degrees Celsius, None where nothing tells.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        facts: dict[str, Any],
        power: Callable[[], list[Rail]],
        temperature: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.accelerator = accelerator
        self.facts = facts
        self._power = power
        self._temperature = temperature
        self._inputs = 0
        self._most = most_load_bytes(accelerator.geometry)

    def most_bytes(self, kind: int) -> int:
        """Return how long a request of this kind may be; nothing for kinds that do not exist."""
        if kind not in SUPPORTED:
            return 0
        return self._most if kind == messages.LOAD else messages.SMALL_BYTES

    def forget(self) -> None:
        """Begin with a new owner, who sees nothing of the last one's policy and episode."""
        self._inputs = 0
        self.accelerator.soft_reset()

    def answer(self, kind: int, payload: bytes) -> tuple[int, bytes]:
        """Do what a request asks; return outcome and payload."""
        try:
            return messages.OK, self._answer(kind, payload)
        except (AcceleratorError, BusError) as error:
            return messages.FAILED, str(error).encode()

    def _answer(self, kind: int, payload: bytes) -> bytes:
        accelerator = self.accelerator
        if kind == messages.DECIDE:
            tokens = self._tokens(payload, MOST_TOKENS)
            return b"".join(
                encode_record(accelerator.decide(token), accelerator.signatures(), accelerator.counter_words())
                for token in tokens
            )
        if kind == messages.LOAD:
            image = decode_image(accelerator.geometry, payload)
            self._inputs = 0
            accelerator.soft_reset()
            accelerator.load_image(image)
            self._inputs = image.registers["INPUT_COUNT"]
        elif kind == messages.NEW_EPISODE:
            accelerator.new_episode()
        elif kind == messages.STATE:
            decisions, cycles = accelerator.totals()
            state = {"status": sorted(accelerator.status()), "decisions": decisions, "cycles": cycles}
            return json.dumps(
                {**state, "clock_mhz": accelerator.clock_mhz, "temperature_c": self._temperature()}
            ).encode()
        elif kind == messages.POWER:
            return json.dumps(self._power()).encode()
        elif kind == messages.REPEAT:
            accelerator.repeat(self._tokens(payload, 1)[0])
        elif kind == messages.STOP:
            accelerator.stop()
        elif kind == messages.END:
            accelerator.soft_reset()  # nothing runs on for nobody
        else:
            raise ProtocolError(f"there is no request of kind {kind}")
        return b""

    def _tokens(self, payload: bytes, most: int) -> NDArray[np.int8]:
        if not self._inputs:
            raise ProtocolError("no policy is loaded")
        tokens = decode_tokens(payload, self._inputs)
        if len(tokens) > most:
            raise ProtocolError(f"{len(tokens)} tokens came at once; {most} are allowed")
        return tokens
