# SPDX-License-Identifier: MIT
"""What the payloads of board messages hold: a packed policy, tokens, and all that a circuit says of a decision."""

import json
import struct

import numpy as np
from numpy.typing import NDArray

from host.accelerator import Counters, Decision, Record
from host.board.messages import ProtocolError
from host.bus import Words
from host.policy_image import PolicyImage
from hw.memory_map import memory_map
from hw.registers import ROW_UNITS, UNITS, register_table
from model.deployed.geometry import Geometry

HEADER = struct.Struct("!I")  # bytes of JSON before the words
LOADED_REGISTERS = {"INPUT_COUNT", "ACTION_COUNT", "ENTRY_THRESHOLD"}


def most_load_bytes(g: Geometry) -> int:
    """Return the longest payload of a LOAD for this geometry."""
    words = sum(section.rows * section.stride for section in memory_map(g).values() if section.writable)
    return 4 * words + (1 << 14)


def encode_image(g: Geometry, image: PolicyImage) -> bytes:
    """Return a packed policy as a payload."""
    head = {"geometry": g.to_json(), "registers": image.registers, "sections": list(image.sections)}
    text = json.dumps(head).encode()
    words = [np.ascontiguousarray(words, "<u4").tobytes() for words in image.sections.values()]
    return b"".join([HEADER.pack(len(text)), text, *words])


def decode_image(g: Geometry, payload: bytes) -> PolicyImage:
    """Undo `encode_image`, trusting nothing. Raises `ProtocolError` for another geometry, sizes or values."""
    try:
        (length,) = HEADER.unpack_from(payload)
        head = json.loads(payload[HEADER.size : HEADER.size + length])
        other = Geometry.from_json(head["geometry"])
        registers, names = dict(head["registers"]), list(head["sections"])
    except (struct.error, ValueError, KeyError, TypeError, RecursionError):
        raise ProtocolError("the policy that came is no packed policy") from None
    if other != g:
        raise ProtocolError(
            f"the policy is of another geometry than the board's circuit: {'; '.join(other.differences(g))}"
        )
    writable = {name: section for name, section in memory_map(g).items() if section.writable}
    if sorted(map(str, names)) != sorted(writable) or set(registers) != LOADED_REGISTERS:
        raise ProtocolError("the policy that came has not the memories and registers of its geometry")
    widths = {register.name: register.width for register in register_table(g)}
    for name, value in registers.items():
        if type(value) is not int or not 0 <= value < 1 << widths[name]:
            raise ProtocolError(f"the policy's {name} is {value!r}")
    inputs, actions = registers["INPUT_COUNT"], registers["ACTION_COUNT"]
    if not (1 <= actions <= g.action_size and actions + 2 <= inputs <= g.input_size):
        raise ProtocolError(f"the policy has {inputs} token components and {actions} actions, which no circuit takes")
    words, at = np.frombuffer(payload[HEADER.size + length :], np.uint8), 0
    sections: dict[str, Words] = {}
    for name in names:
        size = 4 * writable[name].rows * writable[name].stride
        sections[name] = words[at : at + size].view("<u4") if at + size <= len(words) else words[:0].view("<u4")
        at += size
    if at != len(words):
        raise ProtocolError(f"the policy's memories have {len(words)} bytes, its geometry {at}")
    return PolicyImage(sections, registers)


def decode_tokens(payload: bytes, inputs: int) -> NDArray[np.int8]:
    """Return the tokens of a DECIDE, int8 [decisions, inputs]. Raises `ProtocolError`."""
    if not payload or len(payload) % inputs:
        raise ProtocolError(f"{len(payload)} bytes are no tokens of {inputs} components, as the loaded policy has")
    return np.frombuffer(payload, np.int8).reshape(-1, inputs)


def record_words(g: Geometry, actions: int) -> int:
    """Return how many words a decision's record has."""
    return 2 + (actions + 1) // 2 + g.signatures + 2 + g.layers + len(UNITS) + len(ROW_UNITS)


def encode_record(decision: Decision, signatures: list[int], counters: list[int]) -> bytes:
    """Return what the circuit says of a decision as words: number, cycles, actions, signatures, counters."""
    actions = np.zeros((len(decision.words) + 1) // 2 * 2, "<i2")
    actions[: len(decision.words)] = decision.words
    numbers = np.array([decision.number, decision.cycles], "<u4")
    return numbers.tobytes() + actions.tobytes() + np.array([*signatures, *counters], "<u4").tobytes()


def split_records(g: Geometry, actions: int, payload: bytes) -> Words:
    """Return the records of a reply, uint32 [decisions, words]. Raises `ProtocolError`."""
    size = record_words(g, actions)
    if not payload or len(payload) % (4 * size):
        raise ProtocolError(f"{len(payload)} bytes are no records of {size} words; server and client differ in release")
    return np.frombuffer(payload, "<u4").reshape(-1, size)


def decision_of(words: Words, actions: int) -> Decision:
    """Return the decision of a record [words]."""
    return Decision(int(words[0]), int(words[1]), words[2 : 2 + (actions + 1) // 2].view("<i2")[:actions])


def record_of(g: Geometry, words: Words, actions: int) -> Record:
    """Return all of a record [words]: it undoes `encode_record`."""
    signatures = 2 + (actions + 1) // 2
    numbers: list[int] = words[signatures:].tolist()
    return Record(decision_of(words, actions), numbers[: g.signatures], Counters.of(numbers[g.signatures :]))
