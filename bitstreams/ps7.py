# SPDX-License-Identifier: MIT
"""The whole of a Zynq-7000's programmable logic without a vendor's block design: processor, bus adapter, circuit."""

from amaranth.hdl import ClockDomain, Elaboratable, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.cdc import ResetSynchronizer

from bitstreams.axi3 import Axi3, Axi3ToAxiLite
from hw.accelerator import Accelerator
from hw.generate import Top, converted
from model.deployed.geometry import Geometry

PS7_TOP = "spikeloop_ps7"
"""Name of the top module; it has no ports: the processor's own pins are not in the programmable logic."""

SIZE_BITS = 2
"""Of the processor's AWSIZE and ARSIZE; AXI3 has a third bit."""


class Ps7Top(Elaboratable):
    """The circuit behind the processor's port M_AXI_GP0, on its clock FCLK0.

    The kernel holds FCLKRESETN[0] while it loads the bitstream and lets go of it afterwards, so every load ends in a
    reset. Inputs of the processor that are not connected here are tied to zero by the tools.

    Parameters
    ----------
    geometry : Geometry
    base : int
        Physical address of the 64 KB window.

    """

    def __init__(self, geometry: Geometry, base: int) -> None:
        self.geometry = geometry
        self.base = base

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = sync = ClockDomain()
        clocks, resets = Signal(4), Signal(4)
        m.submodules.bufg = Instance("BUFG", i_I=clocks[0], o_O=sync.clk)
        m.submodules.reset = ResetSynchronizer(~resets[0])
        m.submodules.adapter = adapter = Axi3ToAxiLite(self.base, Accelerator.ADDRESS_BITS)
        m.submodules.top = top = Top(self.geometry)
        wiring.connect(m, adapter.lite, top.s_axil)
        ports = {"o_FCLKCLK": clocks, "o_FCLKRESETN": resets, "i_MAXIGP0ACLK": sync.clk}
        for name, member in Axi3().members.items():
            signal = getattr(adapter.axi, name)
            if name.endswith("size"):
                signal = signal[:SIZE_BITS]
            ports[f"{'o' if member.flow == wiring.Out else 'i'}_MAXIGP0{name.upper()}"] = signal
        m.submodules.ps7 = Instance("PS7", ("a", "keep", 1), **ports)
        return m


def verilog(geometry: Geometry, base: int) -> str:
    """Return the top's Verilog: the same text on every run and machine."""
    return converted(Ps7Top(geometry, base), PS7_TOP, ports=[])
