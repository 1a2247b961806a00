# SPDX-License-Identifier: MIT
"""Proofs of the register window: AXI4-Lite's handshakes and the register file's rules."""

import pytest
from amaranth.hdl import Assume, Cat, Elaboratable, Module, Mux, Signal, signed
from amaranth.lib import wiring

import hw.axi
import hw.regfile
from hw.axi import AxiLiteSlave
from hw.memory_map import Section
from hw.regfile import RegisterFile
from hw.registers import register_table
from model.deployed.presets import TINY
from sim.formal import claim, mutant, prove

WRITE_WAIT = 2
"""Most cycles from the later of a write's address and data to BVALID, the response before it taken."""

READ_WAIT = 5
"""Most cycles from a read's address to RVALID, the response before it taken."""

TABLE = tuple(register for register in register_table(TINY) if register.name in ("MAGIC", "SCRATCH", "CONTROL"))
TABLE += tuple(register for register in register_table(TINY) if register.name in ("STATUS", "START", "PAGE", "DONE"))
# three pages to write, one to look at; both end within a page
SECTIONS = {"policy": Section("policy", 0, 9000, 40, True, ""), "probe": Section("probe", 3, 100, 20, False, "")}


class Handshakes(Elaboratable):
    """The slave with a small register file, and a manager that keeps AXI4-Lite's rules and no others.

    Memories behind the pages, inputs of registers and the busy line take any value at any time.

    order : claim too that the words that were read are answered, in order and unchanged until they are taken, which an
        induction does not see: it knows nothing of what a memory holds.
    """

    def __init__(self, slave, order=False, write_wait=WRITE_WAIT, read_wait=READ_WAIT):
        self.slave, self.order, self.write_wait, self.read_wait = slave, order, write_wait, read_wait
        self.registers = RegisterFile(TABLE, SECTIONS)
        self.ports = []
        manager = slave.s_axil
        for channel in ("aw", "w", "ar"):
            self.ports += [signal for name, signal in payload(manager, channel)] + [getattr(manager, f"{channel}valid")]
        self.ports += [manager.bready, manager.rready, self.registers.busy]
        self.ports += [getattr(self.registers, r.name) for r in TABLE if r.access in ("RO", "W1C")]
        self.ports += [getattr(self.registers, name).read_data for name in SECTIONS]
        self.watch = Signal()
        self.ports.append(self.watch)

    def elaborate(self, platform):
        m = Module()
        m.submodules.slave = slave = self.slave
        m.submodules.registers = self.registers
        wiring.connect(m, slave.access, self.registers.access)
        axi = slave.s_axil
        was_reset = Signal(init=1)  # after power-up, and after every cycle of a reset
        m.d.sync += was_reset.eq(0)

        # The manager holds VALID and what belongs to it until READY
        for channel in ("aw", "w", "ar"):
            m.d.comb += [Assume(kept) for kept in held(m, axi, channel, was_reset)]

        # The slave holds its responses until they are taken, all of them OKAY
        for channel in ("b", "r"):
            claim(m, f"{channel}_held", held(m, axi, channel, was_reset)[0])
            claim(m, f"{channel}_okay", getattr(axi, f"{channel}resp") == 0)

        # Nothing happens in reset
        ready = axi.awready | axi.wready | axi.arready
        claim(m, "silent_in_reset", ~was_reset | ~(ready | axi.bvalid | axi.rvalid))

        # A request is accessed once: what was taken over and is not accessed is at most one, and as it was asked
        access, waiting = slave.access, {}
        for channel, leaves in (("aw", access.write), ("w", access.write), ("ar", access.read)):
            asked = getattr(axi, f"{channel}valid") & getattr(axi, f"{channel}ready")
            said = Cat(signal for _, signal in payload(axi, channel))
            waits, kept = Signal(name=f"{channel}_waits"), Signal.like(said, name=f"{channel}_kept")
            waiting[channel] = waits, kept
            m.d.sync += waits.eq(Mux(asked, 1, waits & ~leaves))
            with m.If(asked):
                m.d.sync += kept.eq(said)
            claim(m, f"{channel}_accessed_once", (waits | ~leaves) & ~(asked & waits & ~leaves))
            claim(m, f"{channel}_ready", getattr(axi, f"{channel}ready") == ~was_reset & (~waits | leaves))
        for channel, leaves in (("aw", access.write), ("ar", access.read)):
            waits, kept = waiting[channel]
            address = kept[2 : len(axi.awaddr)]
            claim(m, f"{channel}_kept", ~waits | (slave.addresses[channel] == address))
            claim(m, f"{channel}_asked_there", ~leaves | (access.address == address))
        data, strobes = waiting["w"][1][:32], waiting["w"][1][32:]
        right = (access.write_data == data) & (access.whole == strobes.all())
        claim(m, "stores_what_came", ~waiting["w"][0] | right)
        claim(m, "one_access_a_cycle", ~(access.read & access.write))

        # An access is answered once, in order, with the word that it read
        unanswered = {}
        for name, made, answer in (("write", access.write, "b"), ("read", access.read, "r")):
            answered = getattr(axi, f"{answer}valid") & getattr(axi, f"{answer}ready")
            count = unanswered[name] = Signal(signed(5), name=f"{name}_unanswered")
            m.d.sync += count.eq(count + made - answered)
            claim(m, f"{name}_answered_once", (count >= getattr(axi, f"{answer}valid")) & (count <= slave.ANSWERS))
            claim(m, f"{name}_counted", count == slave.unanswered[name])
        coming = [access.read]
        for cycle in range(slave.READ_CYCLES):
            came = Signal(name=f"came{cycle}")
            m.d.sync += came.eq(coming[-1])
            coming.append(came)
        claim(m, "reads_on_their_way", unanswered["read"] == slave.words.level + sum(coming[1:]))
        if self.order:
            self._in_order(m, axi, coming[-1], access.read_data)

        # Every request is answered in time, whatever the other channel does
        for name, waits, limit in (
            (
                "write",
                ((waiting["aw"][0] & waiting["w"][0]) | (unanswered["write"] > 0)) & ~axi.bvalid,
                self.write_wait,
            ),
            ("read", (waiting["ar"][0] | (unanswered["read"] > 0)) & ~axi.rvalid, self.read_wait),
        ):
            cycles = Signal(range(limit + 2), name=f"{name}_cycles")
            m.d.sync += cycles.eq(Mux(waits, cycles + 1, 0))
            claim(m, f"{name}_in_time", cycles < limit)
        return m

    def _in_order(self, m, axi, comes, word):
        """Claim of one read, any, that its word is the answer when those before it are answered."""
        watched, before = Signal(), Signal(range(self.slave.ANSWERS + 1))
        kept, answered = Signal.like(word), axi.rvalid & axi.rready
        with m.If(watched):
            m.d.sync += before.eq(before - answered)
            with m.If(answered & (before == 0)):
                m.d.sync += watched.eq(0)
        with m.Elif(self.watch & comes):
            m.d.sync += [watched.eq(1), before.eq(self.slave.words.level - answered), kept.eq(word)]
        claim(m, "answers_in_order", ~(watched & axi.rvalid & (before == 0)) | (axi.rdata == kept))


def payload(axi, channel):
    names = {"aw": ["awaddr", "awprot"], "w": ["wdata", "wstrb"], "ar": ["araddr", "arprot"]}
    names |= {"b": ["bresp"], "r": ["rdata", "rresp"]}
    return [(name, getattr(axi, name)) for name in names[channel]]


def held(m, axi, channel, was_reset):
    """Return whether a channel that was valid and not taken is still valid, and whether it says the same."""
    valid, ready = getattr(axi, f"{channel}valid"), getattr(axi, f"{channel}ready")
    said = Cat(signal for _, signal in payload(axi, channel))
    waited, said_before = Signal(name=f"{channel}_waited"), Signal.like(said, name=f"{channel}_said")
    m.d.sync += [waited.eq(valid & ~ready), said_before.eq(said)]
    free = was_reset | ~waited
    return free | valid, free | (said == said_before)


ORDER_CYCLES = 11
"""As many reads as may be unanswered, and their answers after a wait."""


def slave_verdict(slave, order=False, **limits):
    design = Handshakes(slave, order, **limits)
    return prove(design, design.ports, **({"depth": ORDER_CYCLES, "mode": "bmc"} if order else {"depth": 8}))


def test_register_window_keeps_axi_handshakes_for_all_time():
    verdict = slave_verdict(AxiLiteSlave(16))
    assert verdict.status == "PASS", verdict.log


def test_register_window_answers_in_order_for_the_first_cycles():
    verdict = slave_verdict(AxiLiteSlave(16), order=True)
    assert verdict.status == "PASS", verdict.log


@pytest.mark.parametrize("limit", ["write_wait", "read_wait"])
def test_register_window_needs_the_cycles_it_is_given(limit):
    verdict = slave_verdict(AxiLiteSlave(16), **{limit: globals()[limit.upper()] - 1})
    assert (verdict.status, verdict.failed) == ("FAIL", {f"{limit.split('_')[0]}_in_time"}), verdict.log


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("access.write - (axi.bvalid & axi.bready)", "access.write - axi.bvalid", "write_counted"),
        ("words.r_en.eq(axi.rready)", "words.r_en.eq(1)", "r_held"),
        ("axi.rdata.eq(words.r_data)", "axi.rdata.eq(access.read_data)", "answers_in_order"),
        ('readable.eq(fulls["ar"] & (reads != self.ANSWERS))', 'readable.eq(fulls["ar"])', "read_answered_once"),
        ("awake & (~full | leaves)", "~full | leaves", "silent_in_reset"),
        ('fulls["aw"] & fulls["w"]', 'fulls["aw"]', "w_accessed_once"),
        ("m.Elif(leaves)", "m.Elif(leaves & axi.bready)", "aw_ready"),
        ('Mux(access.write, address["aw"], address["ar"])', 'address["aw"]', "ar_asked_there"),
        (" & ~(readable & wrote)", "", "read_in_time"),
        ("axi.bvalid.eq(writes != 0)", "axi.bvalid.eq((writes != 0) & axi.bready)", "write_in_time"),
        ("axi.bvalid.eq(writes != 0)", "axi.bvalid.eq(writes != 0), axi.rresp.eq(2)", "r_okay"),
        ("words.w_en.eq(coming[-1])", "words.w_en.eq(coming[0])", "reads_on_their_way"),
        ("words.w_data.eq(access.read_data)", "words.w_data.eq(access.read_data ^ words.level)", "answers_in_order"),
    ],
    ids=[
        *("drops-bvalid", "drops-rvalid", "unsteady-rdata", "overruns", "ready-in-reset", "answers-without-data"),
        *("accesses-twice", "reads-where-it-writes", "starves-reads", "bvalid-waits-for-bready", "error-response"),
        *("takes-words-early", "spoils-what-waits"),
    ],
)
def test_handshake_proof_finds_a_planted_defect(old, new, found):
    verdict = slave_verdict(mutant(hw.axi, old, new).AxiLiteSlave(16), order=found == "answers_in_order")
    assert verdict.status == "FAIL", verdict.log
    assert found in verdict.failed


STATUS_CYCLES = 16


class RegisterRules(Elaboratable):
    """A small register file beside its rules (docs/registers.md), word access by word access.

    status : claim what reads of STATUS show, instead of what other reads show.
    """

    def __init__(self, module, status):
        self.status = status
        self.file = file = module.RegisterFile(TABLE, SECTIONS)
        access = file.access
        self.ports = [access.address, access.write, access.whole, access.write_data, access.read, file.busy]
        self.ports += [getattr(file, r.name) for r in TABLE if r.access in ("RO", "W1C")]
        self.ports += [getattr(file, name).read_data for name in SECTIONS]

    def elaborate(self, platform):
        m = Module()
        m.submodules.file = file = self.file
        access, busy = file.access, file.busy
        m.d.comb += Assume(~(access.read & access.write))
        here = {r.name: access.address == r.offset // 4 for r in TABLE}
        store = access.write & access.whole

        # What was stored is held, and START only changes while idle
        held = {}
        for name, width, free in (("SCRATCH", 32, 1), ("START", 32, ~busy), ("PAGE", 16, 1)):
            held[name] = Signal(width, name=f"{name}_held")
            with m.If(store & here[name] & free):
                m.d.sync += held[name].eq(access.write_data)
            claim(m, f"holds_{name}", getattr(file, name) == held[name])
        acts = Mux(store & here["CONTROL"], access.write_data[:3], 0)
        claim(m, "pulses_control", acts == file.CONTROL)

        # A page shows its section, and only an idle, whole, fitting store changes it
        in_page, word = access.address[-1], access.address[:-1]
        reach = {}
        for name, section in SECTIONS.items():
            place = (held["PAGE"] - section.page) * 8192 + word
            inside = (held["PAGE"] >= section.page) & (place < section.rows * section.stride)
            reach[name] = Signal(name=f"reaches_{name}")
            port = getattr(file, name)
            m.d.comb += reach[name].eq(in_page & inside)
            claim(m, f"stores_{name}", port.write == (store & reach[name] & ~busy & section.writable))
            claim(m, f"place_{name}", ~reach[name] | ((port.address == place) & (port.data == access.write_data)))

        # Errors stick until a one is written; the one that comes in that cycle stays
        status, touched = Signal(4), access.read | access.write
        known = Cat(*here.values()).any() | reach["policy"] | (reach["probe"] & ~access.write)
        refused = touched & in_page & busy
        refused |= store & here["START"] & busy & (access.write_data != held["START"])
        bad = touched & (~known | (access.write & ~access.whole))
        cleared = Mux(store & here["STATUS"], access.write_data[:4], 0)
        m.d.sync += status.eq((status & ~cleared) | file.STATUS | (refused << 1) | (bad << 2))

        # A read shows the register, the word of the page, or zero
        values = held | {"MAGIC": file.MAGIC, "DONE": file.DONE, "STATUS": status | busy, "CONTROL": 0}
        value = 0
        for name, shown in values.items():
            value = Mux(here[name], shown, value)
        word_now, section_now = Signal(32), {name: Signal(name=f"shows_{name}") for name in SECTIONS}
        m.d.sync += word_now.eq(Mux(in_page, 0, value))
        m.d.sync += [shows.eq(reach[name] & ~busy) for name, shows in section_now.items()]
        shown = word_now
        for name, shows in section_now.items():
            shown = Mux(shows, getattr(file, name).read_data, shown)
        expected, asked, status_asked = Signal(32), [access.read], [here["STATUS"]]
        m.d.sync += expected.eq(shown)
        for cycle in range(file.READ_CYCLES):
            came, of_status = Signal(name=f"came{cycle}"), Signal(name=f"of_status{cycle}")
            m.d.sync += [came.eq(asked[-1]), of_status.eq(status_asked[-1])]
            asked.append(came)
            status_asked.append(of_status)
        right = ~asked[-1] | (access.read_data == expected)
        if self.status:
            claim(m, "status", right | ~status_asked[-1])
        else:
            claim(m, "read", right | status_asked[-1])
        return m


def register_verdict(module, status):
    design = RegisterRules(module, status)
    if status:
        # the sticky bits show in reads alone, which leaves an induction nothing to start from
        return prove(design, design.ports, depth=STATUS_CYCLES, mode="bmc")
    return prove(design, design.ports, depth=4)


def test_register_file_follows_its_rules_for_all_time():
    verdict = register_verdict(hw.regfile, status=False)
    assert verdict.status == "PASS", verdict.log


def test_status_follows_its_rules_for_the_first_cycles():
    verdict = register_verdict(hw.regfile, status=True)
    assert verdict.status == "PASS", verdict.log


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("m.If(self.busy & register.idle_only)", "m.If(0)", "holds_START"),
        ("(held & ~access.write_data) | word", "held & ~access.write_data", "status"),
        ("reach & access.write & access.whole & ~self.busy", "reach & access.write & access.whole", "stores_policy"),
        ("(address < section.rows * section.stride)", "1", "stores_policy"),
        ("Mux(self.busy, 0, section_number)", "section_number", "read"),
        ("bad.eq(~known | (access.write & ~access.whole))", "bad.eq(~known)", "status"),
        ("refused.eq(access.write_data != word)", "refused.eq(0)", "status"),
    ],
    ids=[
        *("starts-while-busy", "loses-an-event", "stores-while-busy", "stores-beyond", "shows-while-busy"),
        *("half-words-pass", "refuses-silently"),
    ],
)
def test_register_proof_finds_a_planted_defect(old, new, found):
    verdict = register_verdict(mutant(hw.regfile, old, new), status=found == "status")
    assert verdict.status == "FAIL", verdict.log
    assert found in verdict.failed
