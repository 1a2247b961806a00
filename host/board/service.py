# SPDX-License-Identifier: MIT
"""What a board serves: policies, episodes, decisions, state and power. Never registers."""

import json
from collections.abc import Callable
from typing import Any

from host.accelerator import Accelerator, AcceleratorError
from host.board import messages
from host.board.messages import MOST_TOKENS, ProtocolError
from host.board.payloads import decode_image, decode_tokens, encode_record, most_load_bytes
from host.bus import BusError

SUPPORTED = (messages.LOAD, messages.NEW_EPISODE, messages.DECIDE, messages.STATE, messages.POWER, messages.END)


class BoardService:
    """An accelerator as a server of requests; one at a time.

    facts : what else a client is told at the start, such as the clock. power : returns the board's readings.
    """

    def __init__(
        self, accelerator: Accelerator, facts: dict[str, Any], power: Callable[[], list[dict[str, Any]]]
    ) -> None:
        self.accelerator = accelerator
        self.facts = facts
        self._power = power
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
            if not self._inputs:
                raise ProtocolError("no policy is loaded")
            tokens = decode_tokens(payload, self._inputs)
            if len(tokens) > MOST_TOKENS:
                raise ProtocolError(f"{len(tokens)} tokens came at once; {MOST_TOKENS} are allowed")
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
            clock_mhz = getattr(accelerator, "clock_mhz", None)  # a board's is measured
            state = {"status": sorted(accelerator.status()), "decisions": decisions, "cycles": cycles}
            return json.dumps({**state, "clock_mhz": clock_mhz}).encode()
        elif kind == messages.POWER:
            return json.dumps(self._power()).encode()
        elif kind != messages.END:
            raise ProtocolError(f"there is no request of kind {kind}")
        return b""
