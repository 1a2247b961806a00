# SPDX-License-Identifier: MIT
"""Whether a bitstream holds the configuration that it was made of."""

from collections.abc import Iterable

from bitstreams.tools import BuildError

ECC_WORD, ECC_BITS = 50, 13
"""Of a frame's 101 words; its lowest bits are the frame's checksum, which xc7frames2bit makes (UG470)."""

Bit = tuple[int, int, int]
"""Frame address, word, bit."""


def frame_bits(lines: Iterable[str]) -> set[Bit]:
    """Return the bits that are set in frames as fasm2frames prints them, a frame a line, without its checksum."""
    bits = set()
    for line in lines:
        address, _, words = line.partition(" ")
        for number, text in enumerate(words.split(",")):
            word = int(text, 16)
            if number == ECC_WORD:
                word = word >> ECC_BITS << ECC_BITS
            while word:
                lowest = word & -word
                bits.add((int(address, 16), number, lowest.bit_length() - 1))
                word ^= lowest
    return bits


def read_bits(lines: Iterable[str]) -> set[Bit]:
    """Return the bits of a bitstream as `bitread -y` writes them, a bit a line: `bit_FRAME_WORD_BIT`."""
    found = set()
    for line in lines:
        _, address, word, bit = line.strip().split("_")
        found.add((int(address, 16), int(word), int(bit)))
    return found


def compare(frames: Iterable[str], read: Iterable[str]) -> int:
    """Return how many bits frames and bitstream have in common: all. Raises `BuildError` if one has others."""
    made, found = frame_bits(frames), read_bits(read)
    if made != found:
        address, word, bit = min(made ^ found)
        raise BuildError(
            f"the bitstream does not hold the frames it was made of: {len(made - found)} bits are missing and "
            f"{len(found - made)} too many, the first is frame 0x{address:08x}, word {word}, bit {bit}"
        )
    return len(made)
