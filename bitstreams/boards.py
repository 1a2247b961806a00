# SPDX-License-Identifier: MIT
"""The boards: device, where the processor sees the circuit, and the clocks that its processor can make exactly."""

from dataclasses import dataclass
from fractions import Fraction

DIVISORS = range(1, 64)
"""Of the two 6-bit dividers in a row behind the PLL (UG585, FPGA0_CLK_CTRL; UG1087, PL0_REF_CTRL)."""

TYPED_MHZ = Fraction(1, 200)
"""How far a typed clock, 166.67 for one, may be from the one that is meant."""

LEAST_MHZ = 10


class ClockError(ValueError):
    """A clock that the board's processor cannot make; the message names the nearest ones."""


@dataclass(frozen=True)
class Clock:
    """A clock for the circuit: the PLL's frequency over two dividers."""

    mhz: Fraction
    divisor0: int
    divisor1: int

    def __str__(self) -> str:
        return f"{float(self.mhz):.6g}"


@dataclass(frozen=True)
class Board:
    """What a bitstream must know of a board.

    base : physical address of the 64 KB window, at which the PYNQ images' device trees have a UIO node.
    pll_mhz : of the processor's IO PLL, which the clock is divided from.
    most_mhz : of a clock into the programmable logic (DS187, DS925).
    """

    name: str
    part: str
    board_part: str  # without its version
    ps: str  # vendor's name of the processor
    ps_port: str  # its port that the circuit hangs on
    ps_clock: str  # its clock, as timing constraints call it
    base: int
    pll_mhz: int
    most_mhz: int
    default_mhz: int

    def clocks(self) -> tuple[Clock, ...]:
        """Return the clocks that the dividers give exactly, fastest first. One divider does what it can alone."""
        found: dict[Fraction, Clock] = {}
        for divisor0 in DIVISORS:
            for divisor1 in range(divisor0, DIVISORS.stop):
                mhz = Fraction(self.pll_mhz, divisor0 * divisor1)
                if LEAST_MHZ <= mhz <= self.most_mhz and mhz not in found:
                    found[mhz] = Clock(mhz, divisor1, divisor0)
        return tuple(found[mhz] for mhz in sorted(found, reverse=True))

    def clock(self, mhz: float) -> Clock:
        """Return the clock that is meant by a typed frequency. Raises `ClockError`."""
        clocks = self.clocks()
        nearest = min(clocks, key=lambda clock: abs(clock.mhz - Fraction(mhz)))
        if abs(nearest.mhz - Fraction(mhz)) <= TYPED_MHZ:
            return nearest
        above = [str(clock) for clock in clocks if clock.mhz > mhz][-2:]
        below = [str(clock) for clock in clocks if clock.mhz < mhz][:2]
        raise ClockError(
            f"the {self.name} cannot make {mhz:g} MHz, only {self.pll_mhz} MHz over whole numbers from "
            f"{clocks[0]} down to {clocks[-1]}; the nearest are {', '.join([*reversed(below), *reversed(above)])}"
        )


BOARDS = {
    "pynq-z2": Board(
        name="pynq-z2",
        part="xc7z020clg400-1",
        board_part="tul.com.tw:pynq-z2:part0",
        ps="processing_system7",
        ps_port="M_AXI_GP0",
        ps_clock="clk_fpga_0",
        base=0x4000_0000,
        pll_mhz=1000,
        most_mhz=250,
        default_mhz=100,
    ),
    "zcu104": Board(
        name="zcu104",
        part="xczu7ev-ffvc1156-2-e",
        board_part="xilinx.com:zcu104:part0",
        ps="zynq_ultra_ps_e",
        ps_port="M_AXI_HPM0_FPD",
        ps_clock="clk_pl_0",
        base=0xA000_0000,
        pll_mhz=1500,
        most_mhz=333,
        default_mhz=100,
    ),
}
"""Name on the command line -> board."""
