# SPDX-License-Identifier: MIT
"""The register table that gateware, driver and docs/registers.md read. Standard library only: the board imports it.

Habits: 32-bit words; every address answers; registers are idempotent (a store done twice does no harm); status bits
are cleared by writing one; inputs are shadowed and taken over by START; nothing is cleared by reading.
"""

from dataclasses import dataclass

from model.deployed.geometry import Geometry

WINDOW_BYTES = 1 << 16
"""Size of the AXI4-Lite window."""

PAGE_OFFSET = 0x8000
"""Where the page selected by PAGE begins; it reaches to the end of the window."""

PAGE_WORDS = (WINDOW_BYTES - PAGE_OFFSET) // 4

MAGIC = 0x5350_4B4C
"""'SPKL', big end first."""

INTERFACE_VERSION = 1


@dataclass(frozen=True)
class Register:
    """One register, or `count` of them at successive words.

    `access` is RO (reads what the circuit shows), RW (holds what was written), W1 (writing a one acts, reads zero) or
    W1C (status that a written one clears). `width` in bits. `idle_only`: a change is refused while busy.
    """

    name: str
    offset: int
    access: str
    width: int
    doc: str
    count: int = 1
    fields: tuple[tuple[str, int, str], ...] = ()  # (name, bit, doc)
    idle_only: bool = False


UNITS = ("EMBED", "QKV", "WINDOW", "PROJ", "FC1", "FC2", "HEAD")
"""What a cycle of a decision is booked on: the work the front of the pipeline is busy with or waits for."""

ROW_UNITS = ("QKV", "PROJ", "FC1", "FC2")
"""The units that fetch weight rows."""


def register_table(g: Geometry) -> tuple[Register, ...]:
    """Return the registers of a circuit of this geometry; only counts and widths depend on it."""
    table = [
        Register("MAGIC", 0x000, "RO", 32, f"0x{MAGIC:08x}: this is a spikeloop circuit"),
        Register("VERSION", 0x004, "RO", 16, "version of this register table"),
        Register("GEOMETRY_ID", 0x008, "RO", 32, "first 32 bits of the geometry's SHA-256"),
        Register("SCRATCH", 0x00C, "RW", 32, "no effect: for bus tests"),
        Register(
            "CONTROL",
            0x010,
            "W1",
            3,
            "actions",
            fields=(
                ("NEW_EPISODE", 0, "forget the tokens seen so far; refused while busy"),
                (
                    "SOFT_RESET",
                    1,
                    "stop at once, clear DONE and results; policy, RW registers, STATUS, TOTAL_* stay",
                ),
                ("SNAPSHOT", 2, "copy the running totals to TOTAL_*"),
            ),
        ),
        Register(
            "STATUS",
            0x014,
            "W1C",
            4,
            "state and sticky errors",
            fields=(
                ("BUSY", 0, "a decision is running (not clearable)"),
                ("REFUSED", 1, "an access came while busy that only works when idle: dropped, or read as zero"),
                ("BAD_ADDRESS", 2, "an address without a register, or a page without a row, was accessed"),
                ("WATCHDOG", 3, "a decision outlasted WATCHDOG cycles and was stopped by a soft reset"),
            ),
        ),
        Register(
            "START",
            0x018,
            "RW",
            32,
            "writing another number than it holds starts a decision of that number",
            idle_only=True,
        ),
        Register("REPEAT", 0x01C, "RW", 32, "further decisions after the first, on the same input, per START"),
        Register("WATCHDOG", 0x020, "RW", 32, "most cycles a decision may take; 0: no limit"),
        Register("PAGE", 0x024, "RW", 16, "page of policy memory or probe seen at 0x8000"),
        Register(
            "INPUT_COUNT", 0x028, "RW", g.input_size.bit_length(), "token components the policy uses", idle_only=True
        ),
        Register(
            "ACTION_COUNT", 0x02C, "RW", g.action_size.bit_length(), "actions the policy computes", idle_only=True
        ),
        Register(
            "ENTRY_THRESHOLD",
            0x030,
            "RW",
            g.membrane_bits - 1,
            "threshold of the neurons at a block's entry",
            idle_only=True,
        ),
        Register("TOKENS", 0x034, "RO", (g.reach + 1).bit_length(), "tokens of this episode in the window, saturating"),
        Register("TOTAL_DECISIONS", 0x040, "RO", 32, "decisions since the last soft reset, at the last SNAPSHOT"),
        Register("TOTAL_CYCLES_LOW", 0x044, "RO", 32, "busy cycles since then, low word, at the last SNAPSHOT"),
        Register("TOTAL_CYCLES_HIGH", 0x048, "RO", 32, "high word"),
        Register("INPUT", 0x100, "RW", 32, "token, four signed bytes a word, low byte first", -(-g.input_size // 4)),
        Register("DONE", 0x200, "RO", 32, "START number whose decision, repeats included, ended last"),
        Register("CYCLES", 0x204, "RO", 32, "cycles of the last decision, START to DONE"),
        Register("ACTION", 0x208, "RO", 32, "actions, two signed 16-bit words each, low first", -(-g.action_size // 2)),
        Register("SIGNATURE", 0x300, "RO", 32, "running signature after embedding and each sub-block", g.signatures),
        Register("SATURATIONS", 0x400, "RO", 32, "residual membranes and dendrites clipped in the last decision"),
        Register("STALLS", 0x404, "RO", 32, "cycles the row walker waited for spikes in the last decision"),
        Register("LAYER_ROWS", 0x420, "RO", 32, "active weight rows of the last decision, per layer", g.layers),
    ]
    for index, unit in enumerate(UNITS):
        table.append(Register(f"CYCLES_{unit}", 0x440 + 4 * index, "RO", 32, f"cycles of the last decision in {unit}"))
    for index, unit in enumerate(ROW_UNITS):
        table.append(Register(f"ROWS_{unit}", 0x460 + 4 * index, "RO", 32, f"active weight rows in {unit}"))
    if g.plasticity:
        table += _plasticity_registers(g.plasticity.factor_bits)
    return tuple(table)


def _plasticity_registers(factor_bits: int) -> tuple[Register, ...]:
    """Return the registers that a head that learns has more."""
    return (
        Register("FACTOR", 0x480, "RW", factor_bits, "third factor, signed", idle_only=True),
        Register(
            "LEARN",
            0x484,
            "RW",
            32,
            "writing another number than it holds changes the head's weights by traces and FACTOR, once",
            idle_only=True,
        ),
        Register("LEARNED", 0x488, "RO", 32, "LEARN number whose change ended last"),
        Register("FROZEN", 0x48C, "RW", 1, "one: traces and weights stand still", idle_only=True),
    )


def offsets(g: Geometry) -> dict[str, int]:
    """Return name -> byte offset of every register's first word."""
    return {register.name: register.offset for register in register_table(g)}


def field_mask(g: Geometry, register: str, field: str) -> int:
    """Return the bit mask of a named field. Raises `KeyError` if there is none."""
    for entry in register_table(g):
        if entry.name == register:
            for name, bit, _ in entry.fields:
                if name == field:
                    return 1 << bit
    raise KeyError(f"{register}.{field}")
