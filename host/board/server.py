# SPDX-License-Identifier: MIT
"""The server's sockets: who may speak, one owner at a time, and what a request that comes twice gets."""

import contextlib
import hmac
import json
import os
import socket
import threading
import time
from collections.abc import Callable

from host.board import messages
from host.board.messages import (
    GREETING,
    HELLO_BYTES,
    MESSAGE_S,
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
from host.board.service import BoardService
from host.bus import BusError

MOST_CONNECTIONS = 8
"""At once, strangers included; more are closed as they come."""

KEEP_S = 30.0
"""A silent owner keeps the board this long if somebody else asks for it; without a rival, for ever."""


class Session:
    """An owner, known by a number of its own choice, and what it was answered last."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.last = 0  # number of the last request that was executed
        self.reply = b""
        self.seen = time.monotonic()
        self.channel: Channel | None = None


class BoardServer:
    """Serves a board to one owner at a time, who may break off and come back.

    token : the shared secret. address : interface and port; port 0 takes a free one, see `address` afterwards.
    note : told of owners and failures.
    """

    def __init__(
        self,
        service: BoardService,
        token: bytes,
        address: tuple[str, int],
        note: Callable[[str], None] = lambda line: None,
        keep_s: float = KEEP_S,
        message_s: float = MESSAGE_S,
    ) -> None:
        if len(token) < messages.LEAST_TOKEN:
            raise ProtocolError(f"a token of at least {messages.LEAST_TOKEN} characters is needed")
        self._service = service
        self._token = token
        self._note = note
        self._keep_s = keep_s
        self._message_s = message_s
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._listener = socket.create_server(address, family=family, backlog=MOST_CONNECTIONS)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._owner: Session | None = None
        self._owning = threading.Lock()  # who the owner is
        self._device = threading.Lock()  # the circuit, and what was answered last
        self._channels: set[Channel] = set()
        self._closed = False

    def serve(self) -> None:
        """Accept connections until `close`."""
        while True:
            try:
                connection, peer = self._listener.accept()
            except OSError:
                if self._closed:
                    return
                time.sleep(0.1)  # out of file descriptors, say: others will end
                continue
            with self._owning:
                crowded = len(self._channels) >= MOST_CONNECTIONS
                if not crowded:
                    channel = Channel(connection, self._message_s)
                    self._channels.add(channel)
            if crowded:
                connection.close()
                continue
            threading.Thread(target=self._attend, args=(channel, str(peer[0])), daemon=True).start()

    def close(self) -> None:
        """End every connection and stop accepting."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._listener.close()
        with self._owning:
            channels = list(self._channels)
        for channel in channels:
            channel.close()

    def _attend(self, channel: Channel, peer: str) -> None:
        session = None
        try:
            session = self._admit(channel)
            self._note(f"{peer} owns the board, session {session.name.hex()[:8]}")
            while True:
                self._serve_one(channel, session)
        except Disconnected as error:
            self._note(f"{peer}: {error}" + ("; it may come back" if session else ""))
        except BusError as error:  # of the protocol, or of the circuit while it changes hands
            self._note(f"{peer}: {error}")
            self._refuse(channel, str(error))
        finally:
            channel.close()
            with self._owning:
                self._channels.discard(channel)
                if session and session.channel is channel:
                    session.channel = None

    @staticmethod
    def _refuse(channel: Channel, sentence: str) -> None:
        text = sentence.encode()
        with contextlib.suppress(Disconnected):
            channel.send(REPLY.pack(len(text), REFUSED, 0, 0) + text)

    # Who may speak

    def _admit(self, channel: Channel) -> Session:
        """Challenge the other side and return its session. Raises `ProtocolError`."""
        nonce = os.urandom(NONCE_BYTES)
        channel.send(GREETING + nonce)
        hello = channel.take(HELLO_BYTES, time.monotonic() + self._message_s)
        name, theirs = hello[:SESSION_BYTES], hello[SESSION_BYTES : SESSION_BYTES + NONCE_BYTES]
        proof = hello[SESSION_BYTES + NONCE_BYTES :]
        if not hmac.compare_digest(proof, mac(self._token, b"client", nonce, theirs, name)):
            raise ProtocolError("the token is not this server's, or this is no spikeloop client")
        session, resumed = self._own(name, channel)
        if not resumed:
            with self._device:
                self._service.forget()
        facts = {"resumed": resumed, "last": session.last, **self._service.facts}
        text = mac(self._token, b"server", theirs, nonce, name) + json.dumps(facts).encode()
        channel.send(REPLY.pack(len(text), OK, 0, 0) + text)
        return session

    def _own(self, name: bytes, channel: Channel) -> tuple[Session, bool]:
        """Make `name` the owner; return its session and whether it was the owner before. Raises `ProtocolError`."""
        with self._owning:
            before = self._owner
            if before and before.name != name and (silent := time.monotonic() - before.seen) < self._keep_s:
                raise ProtocolError(
                    f"the board has another owner, last heard of {silent:.0f} s ago; it is free once that one ends, or "
                    f"is silent for {self._keep_s:g} s"
                )
            if before and before.channel:
                before.channel.close()  # half dead, or outlasted
            resumed = before is not None and before.name == name
            session = before if before and resumed else Session(name)
            session.channel, session.seen = channel, time.monotonic()
            self._owner = session
            return session, resumed

    # What it gets

    def _serve_one(self, channel: Channel, session: Session) -> None:
        (_, kind, number), payload = channel.frame(REQUEST, self._service.most_bytes, float("inf"))
        begin = time.perf_counter_ns()
        with self._device:
            if self._owner is not session or session.channel is not channel:
                raise ProtocolError("the board has another owner by now")
            session.seen = time.monotonic()
            if number == session.last + 1:
                outcome, answer = self._service.answer(kind, payload)
                session.last = number
                session.reply = REPLY.pack(len(answer), outcome, number, time.perf_counter_ns() - begin) + answer
                session.seen = time.monotonic()
            elif number != session.last or not session.reply:
                raise ProtocolError(f"request {number} came after request {session.last}; start a new session")
            reply = session.reply
        if kind == messages.END:
            with self._owning:
                if self._owner is session:
                    self._owner = None
        channel.send(reply)
