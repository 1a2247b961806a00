# SPDX-License-Identifier: MIT
"""Proofs for all inputs, and planted defects that each proof must find."""

import pytest
from amaranth.hdl import Assume, Cat, Elaboratable, Module, Mux, Signal, signed
from amaranth.lib import wiring

import hw.axi
import hw.lif
import hw.regfile
from hw.axi import AxiLiteSlave
from hw.lif import LifNeuron
from hw.memory_map import Section
from hw.regfile import RegisterFile
from hw.registers import register_table
from model.deployed.presets import HOPPER_Z2, ODD, TINY
from sim import formal
from sim.formal import ToolError, claim, mutant, prove

# The neuron


class NeuronEquation(Elaboratable):
    """A neuron beside its equation, computed from the inputs `latency` cycles ago.

    The equation works on integers in units of 4**-(T-1), with room to spare, and knows nothing of the circuit's
    changing units. That its quarters leave no remainder and its membranes fit `lif_bits` is claimed, not assumed.
    """

    def __init__(self, neuron):
        self.neuron = neuron
        self.ports = [neuron.currents.as_value(), neuron.threshold]

    def elaborate(self, platform):
        m = Module()
        m.submodules.neuron = neuron = self.neuron
        g = neuron.geometry
        unit = 4 ** (g.steps - 1)

        currents, threshold, known = neuron.currents, neuron.threshold, Signal(range(16))
        for _ in range(neuron.latency(g)):
            older_currents, older_threshold = Signal.like(currents), Signal.like(threshold)
            m.d.sync += [older_currents.eq(currents), older_threshold.eq(threshold)]
            currents, threshold = older_currents, older_threshold
        with m.If(known != neuron.latency(g)):
            m.d.sync += known.eq(known + 1)
        comparable = known == neuron.latency(g)

        wide = signed(g.lif_bits + 16)
        carried = 0
        for t in range(g.steps):
            membrane, quarter = Signal(wide, name=f"m{t}"), Signal(wide, name=f"quarter{t}")
            spike = Signal(name=f"s{t}")
            m.d.comb += [
                membrane.eq(currents[t] * unit + carried),
                spike.eq(membrane > threshold * unit),
                quarter.eq(membrane >> 2),
            ]
            carried = Mux(spike, 0, quarter)
            claim(m, f"spike_{t}", ~comparable | (neuron.spikes[t] == spike))
            limit = 1 << (g.lif_bits - 1)
            claim(m, f"width_{t}", (membrane >= -limit) & (membrane < limit))
            if t < g.steps - 1:
                claim(m, f"exact_{t}", quarter * 4 == membrane)
        return m


def neuron_verdict(neuron):
    design = NeuronEquation(neuron)
    # a spike depends on nothing older than the latency: one step more closes the induction
    return prove(design, design.ports, depth=neuron.latency(neuron.geometry) + 1)


@pytest.mark.parametrize("geometry", [TINY, HOPPER_Z2, ODD], ids=["TINY", "HOPPER_Z2", "ODD"])
def test_neuron_equals_its_equation_for_all_inputs(geometry):
    verdict = neuron_verdict(LifNeuron(geometry))
    assert verdict.status == "PASS", verdict.log


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("self.threshold - 1", "self.threshold"),
        ("Mux(spike, 0, membrane)", "membrane"),
        ("signed(g.current_bits + 1 + 2 * t)", "signed(g.current_bits + 2 * t)"),
        ("for value in (*currents, *excess, carried, *spikes)", "for value in (*currents, *excess, 0, *spikes)"),
        ("Const((1 << 2 * t) - 1, 2 * t)", "Const((1 << t) - 1, t)"),
        ("signed(len(excess[t]) + 1 + 2 * t)", "signed(len(excess[t]) - 1 + 2 * t)"),
    ],
    ids=["at-threshold", "no-reset", "narrow", "forgets", "wrong-unit", "narrow-margin"],
)
def test_neuron_proof_finds_a_planted_defect(old, new):
    verdict = neuron_verdict(mutant(hw.lif, old, new).LifNeuron(TINY))
    assert verdict.status == "FAIL", verdict.log
    assert verdict.failed
    assert all(name.startswith("spike") for name in verdict.failed)  # the circuit is wrong, not its equation


# The register window

WRITE_WAIT = 4
"""Most cycles from the later of a write's address and data to BVALID, the response before it taken."""

READ_WAIT = 5
"""Most cycles from a read's address to RVALID, the response before it taken."""

TABLE = tuple(register for register in register_table(TINY) if register.name in ("MAGIC", "SCRATCH", "CONTROL"))
TABLE += tuple(register for register in register_table(TINY) if register.name in ("STATUS", "START", "PAGE", "DONE"))
# three pages to write, one to look at; both end within a page
SECTIONS = {"policy": Section("policy", 0, 9000, 40, True, ""), "probe": Section("probe", 3, 100, 20, False, "")}


def following_read(m, access):
    """Return a signal per cycle that follows a read, and whether the access keeps its rules there.

    The address holds and nothing else is accessed until the data are taken.
    """
    address, reads = Signal.like(access.address), [access.read]
    with m.If(access.read):
        m.d.sync += address.eq(access.address)
    for cycle in range(AxiLiteSlave.READ_CYCLES):
        after = Signal(name=f"after_read{cycle}")
        m.d.sync += after.eq(reads[-1])
        reads.append(after)
    waiting = Cat(reads[1:]).any()
    kept = ~waiting | ((access.address == address) & ~access.read & ~access.write)
    return reads[1:], kept & ~(access.read & access.write)


class Handshakes(Elaboratable):
    """The slave with a small register file, and a manager that keeps AXI4-Lite's rules and no others.

    Memories behind the pages, inputs of registers and the busy line take any value at any time.
    """

    def __init__(self, slave, write_wait=WRITE_WAIT, read_wait=READ_WAIT):
        self.slave, self.write_wait, self.read_wait = slave, write_wait, read_wait
        self.registers = RegisterFile(TABLE, SECTIONS)
        self.ports = []
        manager = slave.s_axil
        for channel in ("aw", "w", "ar"):
            self.ports += [signal for name, signal in payload(manager, channel)] + [getattr(manager, f"{channel}valid")]
        self.ports += [manager.bready, manager.rready, self.registers.busy]
        self.ports += [getattr(self.registers, r.name) for r in TABLE if r.access in ("RO", "W1C")]
        self.ports += [getattr(self.registers, name).read_data for name in SECTIONS]

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
            m.d.comb += Assume(held(m, axi, channel, was_reset))

        # The slave holds its responses until they are taken, all of them OKAY
        for channel in ("b", "r"):
            claim(m, f"{channel}_held", held(m, axi, channel, was_reset))
            claim(m, f"{channel}_okay", getattr(axi, f"{channel}resp") == 0)

        # Nothing happens in reset
        ready = axi.awready | axi.wready | axi.arready
        claim(m, "silent_in_reset", ~was_reset | ~(ready | axi.bvalid | axi.rvalid))

        # One response per request: what was asked and is not answered yet
        open_count = {}
        for channel, answer in (("aw", "b"), ("w", "b"), ("ar", "r")):
            asked = getattr(axi, f"{channel}valid") & getattr(axi, f"{channel}ready")
            answered = getattr(axi, f"{answer}valid") & getattr(axi, f"{answer}ready")
            count = open_count[channel] = Signal(signed(4), name=f"{channel}_open")
            m.d.sync += count.eq(count + asked - answered)
            # a request taken over makes the slave unready until it is being answered: at most one more than that
            unready = ~(was_reset | getattr(axi, f"{channel}ready"))
            claim(m, f"{channel}_answered_once", count == unready + getattr(axi, f"{answer}valid"))

        # What the register file relies on
        claim(m, "one_access_at_a_time", following_read(m, slave.access)[1])

        # Every request is answered in time, whatever the other channel does
        for name, waits, limit in (
            ("write", (open_count["aw"] > 0) & (open_count["w"] > 0) & ~axi.bvalid, self.write_wait),
            ("read", (open_count["ar"] > 0) & ~axi.rvalid, self.read_wait),
        ):
            cycles = Signal(range(limit + 2), name=f"{name}_cycles")
            m.d.sync += cycles.eq(Mux(waits, cycles + 1, 0))
            claim(m, f"{name}_in_time", cycles < limit)
        return m


def payload(axi, channel):
    names = {"aw": ["awaddr", "awprot"], "w": ["wdata", "wstrb"], "ar": ["araddr", "arprot"]}
    names |= {"b": ["bresp"], "r": ["rdata", "rresp"]}
    return [(name, getattr(axi, name)) for name in names[channel]]


def held(m, axi, channel, was_reset):
    """Return whether a channel that was valid and not taken is still valid and says the same."""
    valid, ready = getattr(axi, f"{channel}valid"), getattr(axi, f"{channel}ready")
    said = Cat(signal for _, signal in payload(axi, channel))
    waited, said_before = Signal(name=f"{channel}_waited"), Signal.like(said, name=f"{channel}_said")
    m.d.sync += [waited.eq(valid & ~ready), said_before.eq(said)]
    return was_reset | ~waited | (valid & (said == said_before))


def slave_verdict(slave, **limits):
    design = Handshakes(slave, **limits)
    return prove(design, design.ports, depth=12)


def test_register_window_keeps_axi_handshakes_for_all_time():
    verdict = slave_verdict(AxiLiteSlave(16))
    assert verdict.status == "PASS", verdict.log


@pytest.mark.parametrize("limit", ["write_wait", "read_wait"])
def test_register_window_needs_the_cycles_it_is_given(limit):
    verdict = slave_verdict(AxiLiteSlave(16), **{limit: globals()[limit.upper()] - 1})
    assert (verdict.status, verdict.failed) == ("FAIL", {f"{limit.split('_')[0]}_in_time"}), verdict.log


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("m.If(axi.bvalid & axi.bready)", "m.If(axi.bvalid)", "b_held"),
        ("m.If(axi.rvalid & axi.rready)", "m.If(axi.rvalid)", "r_held"),
        ("with m.FSM():", "m.d.sync += axi.rdata.eq(access.read_data)\n        with m.FSM():", "r_held"),
        ("m.Elif(ar_full & ~axi.rvalid)", "m.Elif(ar_full)", "ar_answered_once"),
        ("axi.arready.eq(awake & ~ar_full)", "axi.arready.eq(~ar_full)", "silent_in_reset"),
        ("m.If(aw_full & w_full & ~axi.bvalid)", "m.If(aw_full & ~axi.bvalid)", "w_answered_once"),
        ("axi.rvalid.eq(1), ar_full.eq(0)]", "axi.rvalid.eq(1)]", "ar_answered_once"),
        ("m.If(wait == 0)", "m.If((wait == 0) & axi.rready)", "read_in_time"),
        ("m.If(aw_full & w_full & ~axi.bvalid)", "m.If(aw_full & w_full & ~axi.bvalid & axi.bready)", "write_in_time"),
        ("access.read_data), axi.rvalid.eq(1)", "access.read_data), axi.rresp.eq(2), axi.rvalid.eq(1)", "r_okay"),
    ],
    ids=[
        *(
            "drops-bvalid",
            "drops-rvalid",
            "unsteady-rdata",
            "overwrites-rdata",
            "ready-in-reset",
            "answers-without-data",
        ),
        *("answers-twice", "rvalid-waits-for-rready", "bvalid-waits-for-bready", "error-response"),
    ],
)
def test_handshake_proof_finds_a_planted_defect(old, new, found):
    verdict = slave_verdict(mutant(hw.axi, old, new).AxiLiteSlave(16))
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
        reads, kept = following_read(m, access)
        m.d.comb += Assume(kept)
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
        idle = Signal()
        m.d.sync += idle.eq(~busy)
        page_value = 0
        for name in SECTIONS:
            page_value = Mux(reach[name], getattr(file, name).read_data, page_value)
        value_before = Signal(32)
        m.d.sync += value_before.eq(Mux(in_page, Mux(idle, page_value, 0), value))
        right = ~reads[-1] | (access.read_data == value_before)
        if self.status:
            claim(m, "status", right | ~here["STATUS"])
        else:
            claim(m, "read", right | here["STATUS"])
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
        ("page_read.eq(in_page & ~self.busy)", "page_read.eq(in_page)", "read"),
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


# The prover


def test_prover_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(formal, "PROGRAMS", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match=r"yowasp-sby.*z3 missing; install"):
        neuron_verdict(LifNeuron(TINY))


def test_prover_does_not_take_an_unfinished_induction_for_a_proof():
    design = Handshakes(AxiLiteSlave(16))
    assert prove(design, design.ports, depth=1).status == "UNKNOWN"
