# SPDX-License-Identifier: MIT
"""AXI4-Lite on the outside, single word accesses on the inside (AMBA AXI protocol specification, part B)."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO
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
    """One word read or written a cycle, from the accessing side.

    address : word address
    write : store `write_data` in this cycle
    read : read in this cycle; `read_data` is taken `AxiLiteSlave.READ_CYCLES` cycles later
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
    """Answer every AXI4-Lite access with OKAY, in order, an access a cycle; of a write and a read the write goes
    first, and then the read.

    The byte address is cut to its word. All inputs are registered before anything else looks at them, and no output
    follows an input within a cycle. No access is made whose answer would have no place to wait for the manager.

    Members
    -------
    s_axil : AXI4-Lite
    access : word accesses

    Timing
    ------
    A write is stored in the cycle after the later of its address and data; a read answers `READ_CYCLES + 2` cycles
    after its address. A manager that takes answers at once gets a word a cycle.

    """

    READ_CYCLES = 2

    ANSWERS = READ_CYCLES + 2
    """Of either kind, that are on their way or wait: as many as a word a cycle needs."""

    def __init__(self, address_bits: int) -> None:
        self.addresses = {channel: Signal(address_bits - 2, name=f"{channel}_address") for channel in ("aw", "ar")}
        self.unanswered = {
            kind: Signal(range(self.ANSWERS + 1), name=f"unanswered_{kind}s") for kind in ("write", "read")
        }
        self.words = SyncFIFO(width=32, depth=self.ANSWERS)
        super().__init__({"s_axil": In(AxiLite(address_bits)), "access": Out(WordAccess(address_bits - 2))})

    def elaborate(self, platform):
        m = Module()
        axi, access = self.s_axil, self.access

        # Take requests over
        awake = Signal()  # nothing is taken over while the reset lasts
        m.d.sync += awake.eq(1)
        fulls, address = {}, self.addresses
        for channel, leaves in (("aw", access.write), ("w", access.write), ("ar", access.read)):
            full = fulls[channel] = Signal(name=f"{channel}_full")
            valid, ready = getattr(axi, f"{channel}valid"), getattr(axi, f"{channel}ready")
            m.d.comb += ready.eq(awake & (~full | leaves))
            with m.If(valid & ready):
                m.d.sync += full.eq(1)
            with m.Elif(leaves):
                m.d.sync += full.eq(0)
            if channel in address:
                with m.If(valid & ready):
                    m.d.sync += address[channel].eq(getattr(axi, f"{channel}addr")[2:])
        with m.If(axi.wvalid & axi.wready):
            m.d.sync += [access.write_data.eq(axi.wdata), access.whole.eq(axi.wstrb == 0xF)]

        # Access, where the answer has a place
        writes, reads = self.unanswered["write"], self.unanswered["read"]
        readable, wrote = Signal(), Signal()
        m.d.sync += wrote.eq(access.write)
        m.d.comb += [
            readable.eq(fulls["ar"] & (reads != self.ANSWERS)),
            access.write.eq(fulls["aw"] & fulls["w"] & (writes != self.ANSWERS) & ~(readable & wrote)),
            access.read.eq(readable & ~access.write),
            access.address.eq(Mux(access.write, address["aw"], address["ar"])),
        ]
        m.d.sync += [
            writes.eq(writes + access.write - (axi.bvalid & axi.bready)),
            reads.eq(reads + access.read - (axi.rvalid & axi.rready)),
        ]

        # Answer
        m.submodules.words = words = self.words
        coming = Signal(self.READ_CYCLES)
        m.d.sync += coming.eq(Cat(access.read, coming)[: self.READ_CYCLES])
        m.d.comb += [
            axi.bvalid.eq(writes != 0),
            words.w_en.eq(coming[-1]),
            words.w_data.eq(access.read_data),
            axi.rdata.eq(words.r_data),
            axi.rvalid.eq(words.r_rdy),
            words.r_en.eq(axi.rready),
        ]
        return m
