# SPDX-License-Identifier: MIT
"""AXI4-Lite on the outside, single word accesses on the inside (AMBA AXI protocol specification, part B)."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class AxiLite(wiring.Signature):
    """AXI4-Lite with 32-bit data, from the manager's side."""

    def __init__(self, address_bits: int) -> None:
        super().__init__(
            {
                "awaddr": Out(address_bits),
                "awprot": Out(3),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(32),
                "wstrb": Out(4),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "araddr": Out(address_bits),
                "arprot": Out(3),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(32),
                "rresp": In(2),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )


class WordAccess(wiring.Signature):
    """One word read or written at a time, from the accessing side.

    address : word address, held for the whole access
    write : store `write_data` in this cycle
    read : a read begins in this cycle; `read_data` is taken `AxiLiteSlave.READ_CYCLES` cycles later
    whole : all four bytes of the write are strobed
    """

    def __init__(self, address_bits: int) -> None:
        super().__init__(
            {
                "address": Out(address_bits),
                "write": Out(1),
                "whole": Out(1),
                "write_data": Out(32),
                "read": Out(1),
                "read_data": In(32),
            }
        )


class AxiLiteSlave(wiring.Component):
    """Answer every AXI4-Lite access with OKAY; one access at a time, writes before reads.

    The byte address is cut to its word. All inputs are registered before anything else looks at them.

    Members
    -------
    s_axil : AXI4-Lite
    access : word accesses

    Timing
    ------
    A write is stored 2 cycles after the later of its address and data; a read answers `READ_CYCLES + 2` cycles after
    its address.

    """

    READ_CYCLES = 2

    def __init__(self, address_bits: int) -> None:
        super().__init__({"s_axil": In(AxiLite(address_bits)), "access": Out(WordAccess(address_bits - 2))})

    def elaborate(self, platform):
        m = Module()
        axi, access = self.s_axil, self.access

        # Take requests over
        aw_full, w_full, ar_full = Signal(), Signal(), Signal()
        write_address, read_address = Signal.like(access.address), Signal.like(access.address)
        awake = Signal()  # nothing is taken over while the reset lasts
        m.d.sync += awake.eq(1)
        m.d.comb += [
            axi.awready.eq(awake & ~aw_full),
            axi.wready.eq(awake & ~w_full),
            axi.arready.eq(awake & ~ar_full),
        ]
        with m.If(axi.awvalid & axi.awready):
            m.d.sync += [aw_full.eq(1), write_address.eq(axi.awaddr[2:])]
        with m.If(axi.wvalid & axi.wready):
            m.d.sync += [w_full.eq(1), access.write_data.eq(axi.wdata), access.whole.eq(axi.wstrb == 0xF)]
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += [ar_full.eq(1), read_address.eq(axi.araddr[2:])]

        # Do one after the other
        wait = Signal(range(self.READ_CYCLES + 1))
        m.d.comb += access.address.eq(read_address)
        with m.FSM():
            with m.State("Idle"):
                with m.If(aw_full & w_full & ~axi.bvalid):
                    m.d.comb += [access.address.eq(write_address), access.write.eq(1)]
                    m.d.sync += [aw_full.eq(0), w_full.eq(0), axi.bvalid.eq(1)]
                with m.Elif(ar_full & ~axi.rvalid):
                    m.d.comb += access.read.eq(1)
                    m.d.sync += wait.eq(self.READ_CYCLES - 1)
                    m.next = "Read"
            with m.State("Read"):
                m.d.sync += wait.eq(wait - 1)
                with m.If(wait == 0):
                    m.d.sync += [axi.rdata.eq(access.read_data), axi.rvalid.eq(1), ar_full.eq(0)]
                    m.next = "Idle"
        with m.If(axi.bvalid & axi.bready):
            m.d.sync += axi.bvalid.eq(0)
        with m.If(axi.rvalid & axi.rready):
            m.d.sync += axi.rvalid.eq(0)
        return m
