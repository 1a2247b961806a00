# SPDX-License-Identifier: MIT
"""From AXI3, which the Zynq-7000's processor speaks, to AXI4-Lite (AMBA AXI protocol specification, AXI3)."""

from enum import IntEnum

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.axi import AxiLite


class Response(IntEnum):
    """BRESP and RRESP."""

    OKAY = 0
    EXOKAY = 1
    SLVERR = 2
    DECERR = 3


class Burst(IntEnum):
    """AWBURST and ARBURST."""

    FIXED = 0
    INCR = 1
    WRAP = 2
    RESERVED = 3


class Axi3(wiring.Signature):
    """AXI3 with 32-bit data, addresses and 12-bit IDs, from the manager's side.

    Left out is what nothing here depends on: locks (an exclusive access is answered OKAY, which says that it was an
    ordinary one), caching, quality of service, and WID and WLAST (one write at a time is taken over, so its data come
    in order and are counted).
    """

    ID_BITS = 12
    ADDRESS_BITS = 32

    def __init__(self) -> None:
        super().__init__(
            {
                **self._address("aw"),
                "wdata": Out(32),
                "wstrb": Out(4),
                "wvalid": Out(1),
                "wready": In(1),
                "bid": In(self.ID_BITS),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                **self._address("ar"),
                "rid": In(self.ID_BITS),
                "rdata": In(32),
                "rresp": In(2),
                "rlast": In(1),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )

    def _address(self, channel: str) -> dict[str, wiring.Member]:
        return {
            f"{channel}id": Out(self.ID_BITS),
            f"{channel}addr": Out(self.ADDRESS_BITS),
            f"{channel}len": Out(4),
            f"{channel}size": Out(3),
            f"{channel}burst": Out(2),
            f"{channel}prot": Out(3),
            f"{channel}valid": Out(1),
            f"{channel}ready": In(1),
        }


class Transaction:
    """One direction's transaction as it was taken over, and the address of its next beat."""

    def __init__(self, axi, channel: str, base: int, window_bits: int) -> None:
        self._axi, self._channel = axi, channel
        self._base, self._window_bits = base, window_bits
        self.id = Signal(Axi3.ID_BITS, name=f"{channel}_id")
        self.address = Signal(window_bits, name=f"{channel}_address")
        self.left = Signal(4, name=f"{channel}_left")  # beats after this one
        self.length = Signal(4, name=f"{channel}_length")
        self.size = Signal(2, name=f"{channel}_size")
        self.burst = Signal(Burst, name=f"{channel}_burst")
        self.prot = Signal(3, name=f"{channel}_prot")
        self.response = Signal(Response, name=f"{channel}_response")  # the worst so far
        self.refused = Signal(name=f"{channel}_refused")  # answered without an access

    def port(self, name: str):
        return getattr(self._axi, f"{self._channel}{name}")

    def take(self):
        """Return the statements that take a transaction over."""
        length, size, burst = self.port("len"), self.port("size"), self.port("burst")
        outside = self.port("addr")[self._window_bits :] != self._base >> self._window_bits
        wraps = (length == 1) | (length == 3) | (length == 7) | (length == 15)
        wrong = (size > 2) | (burst == Burst.RESERVED) | ((burst == Burst.WRAP) & ~wraps)
        return [
            self.id.eq(self.port("id")),
            self.address.eq(self.port("addr")),
            self.left.eq(length),
            self.length.eq(length),
            self.size.eq(size),
            self.burst.eq(burst),
            self.prot.eq(self.port("prot")),
            self.refused.eq(outside | wrong),
            self.response.eq(Mux(outside, Response.DECERR, Mux(wrong, Response.SLVERR, Response.OKAY))),
        ]

    def advance(self, m: Module):
        """Return the statements that go on to the next beat."""
        octets = Cat(self.size == 0, self.size == 1, self.size == 2)
        after = Signal.like(self.address, name=f"{self._channel}_after")
        span = Signal.like(self.address, name=f"{self._channel}_span")  # what a wrapping burst goes round in, less one
        m.d.comb += [
            after.eq(
                Cat(self.address[0] & (self.size == 0), self.address[1] & (self.size != 2), self.address[2:]) + octets
            ),
            span.eq((self.length << self.size) | (octets - 1)),
        ]
        following = Signal.like(self.address, name=f"{self._channel}_following")
        with m.Switch(self.burst):
            with m.Case(Burst.FIXED):
                m.d.comb += following.eq(self.address)
            with m.Case(Burst.WRAP):
                m.d.comb += following.eq((self.address & ~span) | (after & span))
            with m.Default():
                m.d.comb += following.eq(after)
        return [self.left.eq(self.left - 1), self.address.eq(following)]


class Axi3ToAxiLite(wiring.Component):
    """Turn AXI3 transactions into AXI4-Lite accesses, a beat at a time; reads and writes side by side.

    Bursts of 1 to 16 beats, FIXED, INCR and WRAP, of octets, halves and words. A narrow read fetches the whole word; a
    narrow write carries its strobes. Responses bear their transaction's ID; that of a write is the worst of its
    beats'. A transaction outside the window is answered DECERR; SLVERR answers one that the specification does not
    allow: beats wider than the bus, the reserved burst, a WRAP of other than 2, 4, 8 or 16 beats. Neither makes an
    access, both are answered in full: every transaction ends, whatever it asks.

    Parameters
    ----------
    base : int
        Address of the window, a multiple of its size.
    window_bits : int
        Its size, as a power of two.

    Members
    -------
    axi : AXI3
    lite : AXI4-Lite
    write, read : the transactions under way, for proofs

    Timing
    ------
    A write beat takes 2 cycles and its AXI4-Lite access, a read beat 2 cycles and its; no two transactions of one
    direction overlap.

    """

    def __init__(self, base: int, window_bits: int) -> None:
        if base % (1 << window_bits):
            raise ValueError(f"a window of 2^{window_bits} octets cannot begin at 0x{base:x}")
        self.base = base
        self.window_bits = window_bits
        super().__init__({"axi": In(Axi3()), "lite": Out(AxiLite(window_bits))})
        self.write = Transaction(self.axi, "aw", base, window_bits)
        self.read = Transaction(self.axi, "ar", base, window_bits)

    def elaborate(self, platform):
        m = Module()
        awake = Signal()  # nothing is taken over while the reset lasts
        m.d.sync += awake.eq(1)
        self._writes(m, awake)
        self._reads(m, awake)
        return m

    def _writes(self, m: Module, awake: Signal) -> None:
        axi, lite, it = self.axi, self.lite, self.write
        advance = it.advance(m)
        m.d.comb += [
            *(lite.awaddr.eq(it.address), lite.awprot.eq(it.prot)),
            *(axi.bid.eq(it.id), axi.bresp.eq(it.response)),
        ]
        last = it.left == 0
        with m.FSM(name="writes"):
            with m.State("Idle"):
                m.d.comb += axi.awready.eq(awake)
                with m.If(axi.awvalid & axi.awready):
                    m.d.sync += it.take()
                    m.next = "Beat"
            with m.State("Beat"):
                m.d.comb += axi.wready.eq(1)
                with m.If(axi.wvalid):
                    m.d.sync += [lite.wdata.eq(axi.wdata), lite.wstrb.eq(axi.wstrb)]
                    with m.If(~it.refused):
                        m.d.sync += [lite.awvalid.eq(1), lite.wvalid.eq(1)]
                        m.next = "Access"
                    with m.Elif(last):
                        m.next = "Respond"
                    with m.Else():
                        m.d.sync += it.left.eq(it.left - 1)
            with m.State("Access"):
                m.d.comb += lite.bready.eq(1)
                with m.If(lite.awready):
                    m.d.sync += lite.awvalid.eq(0)
                with m.If(lite.wready):
                    m.d.sync += lite.wvalid.eq(0)
                with m.If(lite.bvalid):
                    with m.If(lite.bresp > it.response):
                        m.d.sync += it.response.eq(lite.bresp)
                    with m.If(last):
                        m.next = "Respond"
                    with m.Else():
                        m.d.sync += advance
                        m.next = "Beat"
            with m.State("Respond"):
                m.d.comb += axi.bvalid.eq(1)
                with m.If(axi.bready):
                    m.next = "Idle"

    def _reads(self, m: Module, awake: Signal) -> None:
        axi, lite, it = self.axi, self.lite, self.read
        advance = it.advance(m)
        last = it.left == 0
        m.d.comb += [
            *(lite.araddr.eq(it.address), lite.arprot.eq(it.prot)),
            *(axi.rid.eq(it.id), axi.rresp.eq(it.response), axi.rlast.eq(last)),
        ]
        with m.FSM(name="reads"):
            with m.State("Idle"):
                m.d.comb += axi.arready.eq(awake)
                with m.If(axi.arvalid & axi.arready):
                    m.d.sync += [*it.take(), axi.rdata.eq(0)]
                    m.next = "Beat"
            with m.State("Beat"):
                with m.If(it.refused):
                    m.next = "Respond"
                with m.Else():
                    m.d.comb += lite.arvalid.eq(1)
                    with m.If(lite.arready):
                        m.next = "Access"
            with m.State("Access"):
                m.d.comb += lite.rready.eq(1)
                with m.If(lite.rvalid):
                    m.d.sync += [axi.rdata.eq(lite.rdata), it.response.eq(lite.rresp)]
                    m.next = "Respond"
            with m.State("Respond"):
                m.d.comb += axi.rvalid.eq(1)
                with m.If(axi.rready):
                    with m.If(last):
                        m.next = "Idle"
                    with m.Else():
                        m.d.sync += advance
                        m.next = "Beat"
