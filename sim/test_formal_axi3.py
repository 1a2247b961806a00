# SPDX-License-Identifier: MIT
"""Proofs of the AXI3 adapter between any manager and any AXI4-Lite subordinate that keep the protocols' rules."""

import pytest
from amaranth.hdl import Assume, Cat, Const, Elaboratable, Module, Mux, Signal

import bitstreams.axi3
from bitstreams.axi3 import Axi3ToAxiLite
from sim.formal import claim, mutant, prove

BASE, WINDOW_BITS = 0x4000_0000, 8
"""A small window makes the proofs short; it still holds the longest burst, of 64 octets, four times."""

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
OF = {"write": ("aw", "w", "b"), "read": ("ar", "r")}


class Between(Elaboratable):
    """The adapter with the claims of one direction, which share nothing but the reset.

    What the two sides do is free, but for the rules they are assumed to keep.
    """

    def __init__(self, adapter: Axi3ToAxiLite, direction: str) -> None:
        self.adapter = adapter
        self.direction = direction
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
                if channel in FROM_ADAPTER[side] and channel in OF[self.direction]:
                    claim(m, f"{side}_{channel}_held", kept)
                elif channel not in FROM_ADAPTER[side]:
                    m.d.comb += Assume(kept)
        {"write": self.write, "read": self.read}[self.direction](m, was_reset)
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
        start, places = kept["addr"][:WINDOW_BITS], []  # a place per size
        for size in range(3):
            later = Cat(Const(0, size), start[size:] + beat)[:WINDOW_BITS]
            block = Cat(Const((1 << size) - 1, size), kept["len"], Const(0, WINDOW_BITS - size - 4))
            wrapped = (start & ~block) | (later & block)
            places.append(Mux((beat == 0) | (kept["burst"] == 0), start, Mux(kept["burst"] == 2, wrapped, later)))
        return Mux(kept["size"] == 0, places[0], Mux(kept["size"] == 1, places[1], places[2]))

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


def verdict(direction, module=bitstreams.axi3, mode="prove", depth=2):
    design = Between(module.Axi3ToAxiLite(BASE, WINDOW_BITS), direction)
    return prove(design, design.ports, depth=depth, mode=mode)


@pytest.mark.parametrize("direction", ["write", "read"])
def test_every_transaction_is_answered_by_the_rules_for_all_time(direction):
    found = verdict(direction)
    assert found.status == "PASS", found.log


@pytest.mark.parametrize(
    ("direction", "old", "new", "claims"),
    [
        ("write", "axi.bid.eq(it.id)", "axi.bid.eq(axi.awid)", {"axi_b_held", "write_id"}),
        ("read", "axi.rid.eq(it.id)", "axi.rid.eq(axi.arid)", {"axi_r_held", "read_id"}),
        ("read", "axi.rlast.eq(last)", "axi.rlast.eq(1)", {"read_last"}),
        ("write", "with m.If(lite.awready):", "with m.If(1):", {"lite_aw_held"}),
        ("write", "with m.If(axi.bready):", "with m.If(1):", {"axi_b_held"}),
        ("read", "with m.If(axi.rready):", "with m.If(1):", {"axi_r_held"}),
        ("write", "with m.If(lite.bresp > it.response)", "with m.If(1)", {"write_response"}),
        ("write", "Mux(outside, Response.DECERR,", "Mux(outside, Response.SLVERR,", {"write_response"}),
        ("write", "with m.If(~it.refused):", "with m.If(1):", {"write_refused_in_full"}),
        ("read", "with m.If(it.refused):", "with m.If(0):", {"read_never_idle", "read_refused_in_full"}),
        ("read", "self.left.eq(self.left - 1), ", "", {"read_remembers"}),
        ("read", "(after & span)", "after", {"read_remembers"}),
        ("read", "m.d.comb += following.eq(self.address)", "m.d.comb += following.eq(after)", {"read_remembers"}),
        ("write", "axi.awready.eq(awake)", "axi.awready.eq(1)", {"write_ready"}),
        ("read", "(size > 2) | ", "", {"read_refused_in_full", "read_steps", "read_never_idle"}),
    ],
    ids=[
        *("foreign-write-id", "foreign-read-id", "every-beat-last", "drops-awvalid", "drops-bvalid", "drops-rvalid"),
        *("last-response", "wrong-error", "accesses-refused", "reads-refused", "never-ends", "wraps-wrong"),
        *("fixed-moves", "ready-in-reset", "too-wide"),
    ],
)
def test_proof_finds_a_planted_defect(direction, old, new, claims):
    found = verdict(direction, mutant(bitstreams.axi3, old, new), mode="bmc", depth=12)
    assert found.status == "FAIL", found.log
    assert found.failed & claims, found.failed
