# SPDX-License-Identifier: MIT
"""Proofs of the AXI3 adapter between any manager and any AXI4-Lite subordinate that keep the protocols' rules."""

import pytest
from amaranth.hdl import Assume, Cat, Elaboratable, Module, Mux, Signal

import bitstreams.axi3
from bitstreams.axi3 import Axi3ToAxiLite
from sim.formal import claim, mutant, prove

BASE, WINDOW_BITS = 0x4000_0000, 16

CHANNELS = {
    "axi": {
        "aw": ("awid", "awaddr", "awlen", "awsize", "awburst", "awprot"),
        "w": ("wdata", "wstrb"),
        "b": ("bid", "bresp"),
        "ar": ("arid", "araddr", "arlen", "arsize", "arburst", "arprot"),
        "r": ("rid", "rdata", "rresp", "rlast"),
    },
    "lite": {
        **{"aw": ("awaddr", "awprot"), "w": ("wdata", "wstrb"), "b": ("bresp",)},
        **{"ar": ("araddr", "arprot"), "r": ("rdata", "rresp")},
    },
}
FROM_ADAPTER = {"axi": ("b", "r"), "lite": ("aw", "w", "ar")}


class Between(Elaboratable):
    """The adapter with its claims. What the two sides do is free, but for the rules they are assumed to keep."""

    def __init__(self, adapter: Axi3ToAxiLite) -> None:
        self.adapter = adapter
        self.ports = []
        for side, channels in CHANNELS.items():
            for channel, names in channels.items():
                ours = channel in FROM_ADAPTER[side]
                bus = getattr(adapter, side)
                self.ports += [getattr(bus, f"{channel}ready" if ours else f"{channel}valid")]
                self.ports += [] if ours else [getattr(bus, name) for name in names]

    def elaborate(self, platform):
        m = Module()
        m.submodules.adapter = self.adapter
        was_reset = Signal(init=1)
        m.d.sync += was_reset.eq(0)

        # VALID and what belongs to it stay until READY: assumed of both sides, claimed of the adapter
        for side, channels in CHANNELS.items():
            for channel, names in channels.items():
                kept = self.held(m, side, channel, names, was_reset)
                if channel in FROM_ADAPTER[side]:
                    claim(m, f"{side}_{channel}_held", kept)
                else:
                    m.d.comb += Assume(kept)
        self.write(m, was_reset)
        self.read(m, was_reset)
        return m

    def taken(self, side: str, channel: str):
        bus = getattr(self.adapter, side)
        return getattr(bus, f"{channel}valid") & getattr(bus, f"{channel}ready")

    def held(self, m, side, channel, names, was_reset):
        bus = getattr(self.adapter, side)
        said = Cat(getattr(bus, name) for name in names)
        waited, before = Signal(name=f"{side}_{channel}_waited"), Signal.like(said, name=f"{side}_{channel}_before")
        valid = getattr(bus, f"{channel}valid")
        m.d.sync += [waited.eq(valid & ~getattr(bus, f"{channel}ready")), before.eq(said)]
        return was_reset | ~waited | (valid & (said == before))

    def asked(self, m, channel: str):
        """Return what the transaction under way asked for, and whether it may be turned into accesses."""
        axi = self.adapter.axi
        kept = {}
        for name in ("id", "addr", "len", "size", "burst", "prot"):
            port = getattr(axi, f"{channel}{name}")
            kept[name] = Signal.like(port, name=f"{channel}_{name}_asked")
            with m.If(self.taken("axi", channel)):
                m.d.sync += kept[name].eq(port)
        inside = (kept["addr"] >= BASE) & (kept["addr"] < BASE + (1 << WINDOW_BITS))
        length = kept["len"]
        wraps = (length == 1) | (length == 3) | (length == 7) | (length == 15)
        legal = (kept["size"] <= 2) & (kept["burst"] != 3) & ((kept["burst"] != 2) | wraps)
        return kept, inside, legal

    def place(self, kept, beat):
        """Return the address of a beat by the specification's formulas."""
        size, start = kept["size"][:2], kept["addr"][:WINDOW_BITS]
        later = ((start >> size) << size) + (beat << size)
        span = (kept["len"] + 1) << size
        wrapped = start - (start & (span - 1)) + (later & (span - 1))  # round in a block of the burst's own size
        return Mux((beat == 0) | (kept["burst"] == 0), start, Mux(kept["burst"] == 2, wrapped, later))[:WINDOW_BITS]

    def took_over(self, kept, transaction, beat, whole):
        """Return whether the adapter remembers what was asked, and where in it it is."""
        same = Cat(transaction.id == kept["id"], transaction.prot == kept["prot"], transaction.refused == ~whole)
        burst = (transaction.length == kept["len"]) & (transaction.size == kept["size"][:2])
        burst &= (transaction.burst == kept["burst"]) & (transaction.address == self.place(kept, beat))
        return same.all() & (~whole | burst) & (transaction.left == kept["len"] - beat)

    def write(self, m, was_reset):
        axi, lite = self.adapter.axi, self.adapter.lite
        kept, inside, legal = self.asked(m, "aw")
        whole = inside & legal
        busy = Signal(name="write_busy")
        data, answered = Signal(5, name="write_data"), Signal(5, name="write_answered")  # of this transaction, so far
        addressed, stored = Signal(5, name="write_addressed"), Signal(5, name="write_stored")
        worst, word, strobes = Signal(2), Signal(32, name="write_word"), Signal(4)
        # the subordinate answers what was asked, once
        m.d.comb += Assume(~lite.bvalid | ((addressed > answered) & (stored > answered)))
        with m.If(self.taken("axi", "aw")):
            m.d.sync += [busy.eq(1), data.eq(0), addressed.eq(0), stored.eq(0), answered.eq(0), worst.eq(0)]
        with m.Else():
            m.d.sync += [
                busy.eq(busy & ~self.taken("axi", "b")),
                data.eq(data + self.taken("axi", "w")),
                addressed.eq(addressed + self.taken("lite", "aw")),
                stored.eq(stored + self.taken("lite", "w")),
                answered.eq(answered + self.taken("lite", "b")),
            ]
            with m.If(self.taken("lite", "b") & (lite.bresp > worst)):
                m.d.sync += worst.eq(lite.bresp)
        with m.If(self.taken("axi", "w")):
            m.d.sync += [word.eq(axi.wdata), strobes.eq(axi.wstrb)]

        # One at a time, ready when there is none; otherwise it takes data, makes an access, or answers
        claim(m, "write_ready", axi.awready == ~(busy | was_reset))
        claim(m, "write_steps", (axi.wready + lite.bready + axi.bvalid) == busy)
        # All data is taken before the one answer, and of a refused transaction only that
        claim(m, "write_takes_data", ~axi.wready | (data <= kept["len"]))
        claim(m, "write_beats", ~busy | (data <= kept["len"] + 1))
        claim(m, "write_answer_after_data", ~axi.bvalid | (data == kept["len"] + 1))
        claim(m, "write_refused_in_full", ~busy | whole | ~lite.bready)
        # One access a beat, in order, with the beat's address, data and strobes
        count = Mux(whole, data, 0)
        claim(m, "write_accesses", ~busy | ((addressed + lite.awvalid == count) & (stored + lite.wvalid == count)))
        claim(m, "write_answered_accesses", ~busy | (answered + lite.bready == count))
        claim(m, "write_no_access_alone", busy | ~(lite.awvalid | lite.wvalid))
        claim(m, "write_access_awaited", ~(lite.awvalid | lite.wvalid) | lite.bready)
        claim(m, "write_address", ~lite.awvalid | (lite.awaddr == self.place(kept, addressed)))
        claim(m, "write_data", ~lite.wvalid | ((lite.wdata == word) & (lite.wstrb == strobes)))
        claim(m, "write_prot", ~lite.awvalid | (lite.awprot == kept["prot"]))
        # The answer
        claim(m, "write_id", ~axi.bvalid | (axi.bid == kept["id"]))
        claim(m, "write_response", ~busy | (axi.bresp == Mux(inside, Mux(legal, worst, 2), 3)))
        # What it remembers, without which the induction would not close
        beat = Mux(axi.wready, data, data - 1)
        claim(m, "write_remembers", ~busy | self.took_over(kept, self.adapter.write, beat[:4], whole))

    def read(self, m, was_reset):
        axi, lite = self.adapter.axi, self.adapter.lite
        kept, inside, legal = self.asked(m, "ar")
        whole = inside & legal
        busy = Signal(name="read_busy")
        asked, answered, given = Signal(5, name="read_asked"), Signal(5, name="read_answered"), Signal(5)
        word, response = Signal(32, name="read_word"), Signal(2, name="read_word_response")
        m.d.comb += Assume(~lite.rvalid | (asked > answered))
        with m.If(self.taken("axi", "ar")):
            m.d.sync += [busy.eq(1), asked.eq(0), answered.eq(0), given.eq(0)]
        with m.Else():
            m.d.sync += [
                busy.eq(busy & ~(self.taken("axi", "r") & (given == kept["len"]))),
                asked.eq(asked + self.taken("lite", "ar")),
                answered.eq(answered + self.taken("lite", "r")),
                given.eq(given + self.taken("axi", "r")),
            ]
        with m.If(self.taken("lite", "r")):
            m.d.sync += [word.eq(lite.rdata), response.eq(lite.rresp)]

        # One at a time, ready when there is none; otherwise access or answer, but for a cycle a refused beat
        claim(m, "read_ready", axi.arready == ~(busy | was_reset))
        between, was_between = busy & ~(lite.arvalid | lite.rready | axi.rvalid), Signal()
        m.d.sync += was_between.eq(between)
        claim(m, "read_steps", (lite.arvalid + lite.rready + axi.rvalid + between) == busy)
        claim(m, "read_never_idle", ~between | (~whole & ~was_between))
        # As many beats as asked for, the last marked
        claim(m, "read_beats", ~busy | (given <= kept["len"]))
        claim(m, "read_last", ~axi.rvalid | (axi.rlast == (given == kept["len"])))
        # One access a beat, in order
        count = Mux(whole, given, 0)
        claim(m, "read_accesses", ~busy | (asked == count + (whole & (lite.rready | axi.rvalid))))
        claim(m, "read_answered_accesses", ~busy | (answered == count + (whole & axi.rvalid)))
        claim(m, "read_refused_in_full", ~busy | whole | ~(lite.arvalid | lite.rready))
        claim(m, "read_address", ~lite.arvalid | (lite.araddr == self.place(kept, given)))
        claim(m, "read_prot", ~lite.arvalid | (lite.arprot == kept["prot"]))
        # The answers
        claim(m, "read_id", ~axi.rvalid | (axi.rid == kept["id"]))
        claim(m, "read_response", ~axi.rvalid | (axi.rresp == Mux(inside, Mux(legal, response, 2), 3)))
        claim(m, "read_data", ~axi.rvalid | (axi.rdata == Mux(whole, word, 0)))
        # What it remembers
        silent = (axi.rdata == 0) & (axi.rresp == Mux(inside, 2, 3))
        remembers = self.took_over(kept, self.adapter.read, given[:4], whole) & (whole | silent)
        claim(m, "read_remembers", ~busy | remembers)


def verdict(module=bitstreams.axi3, mode="prove", depth=3):
    design = Between(module.Axi3ToAxiLite(BASE, WINDOW_BITS))
    return prove(design, design.ports, depth=depth, mode=mode)


def test_every_transaction_is_answered_by_the_rules_for_all_time():
    found = verdict()
    assert found.status == "PASS", found.log
