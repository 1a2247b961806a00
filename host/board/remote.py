# SPDX-License-Identifier: MIT
"""A board across the network, with the interface of an `Accelerator`. It comes back after a broken connection."""

import hmac
import json
import os
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from host.accelerator import AcceleratorError, Counters, Decision, Record
from host.board import messages
from host.board.messages import (
    GREETING,
    MAC_BYTES,
    MOST_TOKENS,
    NONCE_BYTES,
    OK,
    REFUSED,
    REPLY,
    REQUEST,
    SESSION_BYTES,
    Channel,
    Disconnected,
    ProtocolError,
    mac,
)
from host.board.payloads import decision_of, encode_image, record_of, split_records
from host.board.power import Rail
from host.bus import Words
from host.policy_image import pack
from model.deployed.geometry import Geometry, GeometryError

if TYPE_CHECKING:
    from model.deployed.artifact import Policy

REPLY_BYTES = 1 << 20
"""Longest reply: 1024 records of 256 words."""

CONNECT_S = 5.0

ANSWER_S = 10.0
"""Longest wait for an answer; a token more of a DECIDE may take a simulated circuit `TOKEN_S` more, a LOAD `LOAD_S`."""

TOKEN_S = 0.05
LOAD_S = 60.0

PATIENCE_S = 20.0
"""How long a lost board is called again before the episode ends with what it has."""


class RemoteAccelerator:
    """The circuit of a board server. Requests are numbered: one whose reply was lost is not carried out twice.

    address : host and port. token : the secret shared with the server. note : told of lost connections.

    `facts` is what the server says of its board; `server_ns` how long it took over the last answer.
    Raises `ProtocolError` (a `BusError`) if no server answers within `patience_s`, refuses, or has forgotten the
    episode; `AcceleratorError` for what the circuit or the driver there refuses.
    """

    def __init__(
        self,
        address: tuple[str, int],
        token: bytes,
        note: Callable[[str], None] = lambda line: None,
        patience_s: float | None = None,
        answer_s: float = ANSWER_S,
    ) -> None:
        self._address = address
        self._token = token
        self._note = note
        self._patience_s = PATIENCE_S if patience_s is None else patience_s
        self._answer_s = answer_s
        self._session = os.urandom(SESSION_BYTES)
        self._number = 0
        self._channel: Channel | None = None
        self._actions = self._inputs = 0
        self._last: Words | None = None  # record of the last decision, taken apart when it is asked for
        self.server_ns = 0
        self.facts: dict[str, Any] = {}
        self._persist(self._connect)
        try:
            self.geometry = Geometry.from_json(self.facts["geometry"])
        except (KeyError, GeometryError, TypeError) as error:
            raise ProtocolError(f"the server's geometry cannot be read: {error}; use the same release there") from None

    # What an accelerator does

    def load(self, policy: "Policy") -> None:
        """Send a policy; the board writes it, reads it back and begins an episode."""
        self._ask(messages.LOAD, encode_image(self.geometry, pack(policy.on(self.geometry))), LOAD_S)
        self._inputs, self._actions, self._last = policy.input_size, policy.action_size, None

    def new_episode(self) -> None:
        """Forget the tokens seen so far."""
        self._ask(messages.NEW_EPISODE)

    def decide(self, token: NDArray[Any]) -> Decision:
        """Advance by one quantised token [inputs] and return the decision."""
        return decision_of(self._decide(np.asarray(token)[None])[0], self._actions)

    def decide_all(self, tokens: NDArray[Any]) -> list[Record]:
        """Advance by quantised tokens [decisions, inputs], many to a message."""
        parts = [tokens[first : first + MOST_TOKENS] for first in range(0, len(tokens), MOST_TOKENS)]
        return [record_of(self.geometry, words, self._actions) for part in parts for words in self._decide(part)]

    def _decide(self, tokens: NDArray[Any]) -> Words:
        """Return the records of one message's tokens, uint32 [decisions, words]."""
        answer = self._ask(messages.DECIDE, self._fitting(tokens), len(tokens) * TOKEN_S)
        found = split_records(self.geometry, self._actions, answer)
        if len(found) != len(tokens):
            raise ProtocolError(f"{len(found)} decisions came for {len(tokens)} tokens; server and client differ")
        self._last = found[-1]
        return found

    def _fitting(self, tokens: NDArray[Any]) -> bytes:
        """Return tokens [decisions, inputs] as a payload, if they fit the loaded policy."""
        if not self._inputs:
            raise AcceleratorError("no policy is loaded; call load() first")
        if tokens.shape[1] != self._inputs:
            raise AcceleratorError(
                f"a token of {tokens.shape[1]} components does not fit the loaded policy's {self._inputs}"
            )
        return tokens.astype(np.int8).tobytes()

    def repeat(self, token: NDArray[Any]) -> None:
        """Let the circuit decide on a quantised token [inputs] over and over by itself, and return at once."""
        self._ask(messages.REPEAT, self._fitting(np.asarray(token)[None]))

    def stop(self) -> None:
        """Stop whatever runs; the policy stays loaded, the episode is forgotten."""
        self._ask(messages.STOP)

    def signatures(self) -> list[int]:
        """Return the last decision's residual signatures."""
        return self._decided().signatures

    def counters(self) -> Counters:
        """Return what was counted in the last decision."""
        return self._decided().counters

    def totals(self) -> tuple[int, int]:
        """Return decisions and busy cycles since the last reset."""
        state = self._state()
        return int(state["decisions"]), int(state["cycles"])

    def status(self) -> set[str]:
        """Return the names of the STATUS bits that are set."""
        return set(self._state()["status"])

    @property
    def clock_mhz(self) -> float | None:
        """The circuit's clock as the board measured it; None where it has none."""
        return self._number_of("clock_mhz")

    def temperature(self) -> float | None:
        """Return the die's temperature in degrees Celsius; None where nothing tells."""
        return self._number_of("temperature_c")

    def power(self) -> list[Rail]:
        """Return the board's power readings, a dictionary per rail; empty where it has no sensor."""
        readings: list[Rail] = self._json(self._ask(messages.POWER), list)
        return readings

    def close(self) -> None:
        """Give the board back."""
        if self._channel is None:
            return
        try:
            self._number += 1
            self._exchange(REQUEST.pack(0, messages.END, self._number), self._number, self._answer_s)
        except ProtocolError:
            pass  # it is free soon, said or not
        finally:
            self._disconnect()

    def _decided(self) -> Record:
        if self._last is None:
            raise AcceleratorError("nothing was decided yet")
        return record_of(self.geometry, self._last, self._actions)

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = self._json(self._ask(messages.STATE), dict)
        return state

    def _number_of(self, name: str) -> float | None:
        found = self._state().get(name)
        return float(found) if isinstance(found, (int, float)) else None

    @staticmethod
    def _json(answer: bytes, kind: type) -> Any:
        try:
            found = json.loads(answer)
        except ValueError:
            found = None
        if not isinstance(found, kind):
            raise ProtocolError("the server's answer cannot be read; use the same release there")
        return found

    # Requests

    def _ask(self, kind: int, payload: bytes = b"", extra_s: float = 0.0) -> bytes:
        self._number += 1
        number, frame = self._number, REQUEST.pack(len(payload), kind, self._number) + payload
        outcome: int
        answer: bytes
        outcome, answer = self._persist(lambda: self._exchange(frame, number, self._answer_s + extra_s))
        if outcome != OK:
            raise AcceleratorError(f"the board says: {answer.decode(errors='replace')}")
        return answer

    def _exchange(self, frame: bytes, number: int, wait_s: float) -> tuple[int, bytes]:
        """Send a request and return outcome and payload of its reply; connect first where the connection was lost."""
        if self._channel is None:
            self._connect()
        channel = self._channel
        assert channel is not None
        channel.send(frame)
        (_, outcome, answered, nanoseconds), answer = channel.frame(REPLY, lambda kind: REPLY_BYTES, wait_s)
        if outcome == REFUSED:
            raise ProtocolError(f"the server refuses: {answer.decode(errors='replace')}")
        if answered != number:
            raise Disconnected(f"the answer to request {answered} came for {number}")
        self.server_ns = nanoseconds
        return outcome, answer

    def _persist(self, act: Callable[[], Any]) -> Any:
        """Do something that takes a connection; again after each loss, until patience ends."""
        deadline, pause = time.monotonic() + self._patience_s, 0.05
        while True:
            try:
                return act()
            except Disconnected as error:
                self._disconnect()
                where = f"{self._address[0]}:{self._address[1]}"
                if time.monotonic() + pause > deadline:
                    raise ProtocolError(
                        f"the board server at {where} does not answer: {error}; is it running there, and the way free?"
                    ) from None
                self._note(f"lost the board server at {where} ({error}); calling again")
                time.sleep(pause)
                pause = min(2 * pause, 1.0)
            except BaseException:
                self._disconnect()
                raise

    def _connect(self) -> None:
        """Prove to the server, and have it prove, that both know the token. Raises `ProtocolError`."""
        try:
            connection = socket.create_connection(self._address, CONNECT_S)
        except OSError as error:
            raise Disconnected(error.strerror or str(error)) from None
        channel = self._channel = Channel(connection)
        deadline = time.monotonic() + self._answer_s
        greeting = channel.take(len(GREETING) + NONCE_BYTES, deadline)
        if not greeting.startswith(GREETING):
            raise ProtocolError("what answers there is no board server of this release")
        theirs, mine = greeting[len(GREETING) :], os.urandom(NONCE_BYTES)
        channel.send(self._session + mine + mac(self._token, b"client", theirs, mine, self._session))
        (_, outcome, _, _), answer = channel.frame(REPLY, lambda kind: REPLY_BYTES, self._answer_s)
        if outcome != OK:
            raise ProtocolError(f"the server refuses: {answer.decode(errors='replace')}")
        proof, text = answer[:MAC_BYTES], answer[MAC_BYTES:]
        if not hmac.compare_digest(proof, mac(self._token, b"server", mine, theirs, self._session)):
            raise ProtocolError("the server does not know the token; somebody else answers there")
        self.facts = self._json(text, dict)
        if self._number > 1 and not self.facts.get("resumed"):
            raise ProtocolError(
                "the server has forgotten this episode (it was restarted, or another client took over); start again"
            )

    def _disconnect(self) -> None:
        if self._channel:
            self._channel.close()
            self._channel = None
