# SPDX-License-Identifier: MIT
"""The dendrites of LRF-Dyn: a channel's, advanced by a token for either spike that the token may bring."""

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.passes import steps_layout
from hw.sums import tree
from model.deployed.geometry import Geometry


def parameters_layout(g: Geometry) -> data.StructLayout:
    """Return a channel's parameters.

    dendrites : per dendrite; `upper` couples it to the next one, `lower` to the one before, 0 where there is none
    local : a tap per local distance
    """
    code = signed(1 + g.dendrite_shift_bits)
    dendrite = {"decay": g.dendrite_shift_bits, "upper": code, "lower": code, "readout": code}
    return data.StructLayout(
        {
            "dendrites": data.ArrayLayout(
                data.StructLayout(dendrite | {"gain": signed(g.gain_bits)}),
                g.dendrites,
            ),
            "local": data.ArrayLayout(signed(g.weight_bits), len(g.local_distances)),
        }
    )


def state_layout(g: Geometry) -> data.ArrayLayout:
    """Return a channel's dendrites, step by step."""
    return data.ArrayLayout(data.ArrayLayout(signed(g.dendrite_bits), g.dendrites), g.steps)


def history_layout(g: Geometry) -> data.ArrayLayout:
    """Return a channel's value spikes of the tokens that local taps reach back to, the newest of them first."""
    return data.ArrayLayout(g.steps, max(g.local_distances))


def outcomes_layout(g: Geometry) -> data.StructLayout:
    """Return what a token can bring a channel, step by step.

    silent, value, both : the current if no value spikes, if a value does but no key, if both do
    more_clipped : dendrites that saturate if both spike, less those that saturate if not
    """
    current = steps_layout(g, g.readout_bits)
    more = steps_layout(g, g.dendrites.bit_length() + 1)
    return data.StructLayout({"silent": current, "value": current, "both": current, "more_clipped": more})


class Dendrites(wiring.Component):
    """Advance a channel by a token before the token is there (docs/numbers.md, "LRF-Dyn").

    The dendrites of a step see one and the same spike, `k AND v`: there are two states they can come to, and both are
    computed. So are the currents of the three spikes that a key and a value can be together.

    Distances of shifts are the policy's, so every dendrite has shifters: for its leak, its two couplings, and its
    read-out from either state.

    Parameters
    ----------
    geometry : Geometry

    Members
    -------
    x, history, parameters : of a channel, as the token before left it
    silent_x, both_x : the states without and with `k AND v`, `STATE_LATENCY` cycles later
    silent_clipped : dendrites of all steps that saturate on the way to `silent_x`, with it
    o : `outcomes_layout`, `LATENCY` cycles later

    Timing
    ------
    A channel per cycle, no back-pressure. `o` is combinational after an adder, for a memory's write port to register.

    """

    STATE_LATENCY = 4
    LATENCY = 6

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        g = geometry
        super().__init__(
            {
                "x": In(state_layout(g)),
                "history": In(history_layout(g)),
                "parameters": In(parameters_layout(g)),
                "silent_x": Out(state_layout(g)),
                "both_x": Out(state_layout(g)),
                "silent_clipped": Out(range(g.steps * g.dendrites + 1)),
                "o": Out(outcomes_layout(g)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        g = self.geometry
        each = range(g.dendrites)
        parameters = [self.parameters.dendrites[i] for i in each]

        # Cycle 1 takes state and parameters over; each parameter goes along up to the cycle that needs it
        decay = [_later(m, parameters[i].decay, f"decay{i}") for i in each]
        upper, lower, readout = (
            [_Code.of(m, parameters[i][name], f"{name}{i}") for i in each] for name in ("upper", "lower", "readout")
        )
        couplings = [(upper[i].later(m, 1), lower[i].later(m, 1)) for i in each]
        gain = [_later(m, parameters[i].gain, f"gain{i}", 3) for i in each]
        reading = [readout[i].later(m, 4) for i in each]

        # Local taps wait for the newest value alone. With them come the ones that complete negative read-outs
        ones = _later(m, tree([code.negative for code in readout]), "ones")
        newest = _later(m, self.parameters.local[0] << g.local_shift, "newest", 2)
        older_taps = [(n, distance) for n, distance in enumerate(g.local_distances) if distance]

        silent_clips: list[Value] = []
        for t in range(g.steps):
            x = [_later(m, self.x[t][i], f"x{t}_{i}") for i in each]
            base = self._recur(m, t, x, decay, couplings)
            sums, clipped = [], []
            for outcome, sink in (("silent", self.silent_x), ("both", self.both_x)):
                at = f"{t}_{outcome}"
                states, clips = [], []
                for i in each:
                    value = (base[i] + gain[i])[: g.dendrite_sum_bits].as_signed() if outcome == "both" else base[i]
                    state, clip = _saturate(value, g.dendrite_bits)
                    states.append(_later(m, state, f"x{at}{i}"))
                    clips.append(_later(m, clip, f"clip{at}{i}"))
                    m.d.comb += sink[t][i].eq(states[i])
                if outcome == "silent":
                    silent_clips += clips
                clipped.append(tree(clips))
                sums.append(self._read(m, at, states, reading))

            past = [Mux(self.history[distance - 1][t], self.parameters.local[n], 0) for n, distance in older_taps]
            past = _later(m, tree(past) << g.local_shift, f"past{t}")
            without = _later(m, ones + past, f"without{t}")
            with_newest = _later(m, without + newest, f"with_newest{t}", 3)
            without = _later(m, without, f"without{t}_", 3)
            m.d.comb += [
                self.o.silent[t].eq(sums[0] + without),
                self.o.value[t].eq(sums[0] + with_newest),
                self.o.both[t].eq(sums[1] + with_newest),
                self.o.more_clipped[t].eq(_later(m, clipped[1] - clipped[0], f"more_clipped{t}", 2)),
            ]
        m.d.comb += self.silent_clipped.eq(tree(silent_clips))
        return m

    def _recur(
        self,
        m: Module,
        t: int,
        x: Sequence[Value],
        decay: Sequence[Value],
        couplings: Sequence[tuple["_Code", "_Code"]],
    ) -> list[Value]:
        """Return a step's dendrites after leak and couplings, before a spike and saturation: cycles 2 and 3."""
        g = self.geometry
        base: list[Value] = []
        for i in range(g.dendrites):
            # what is left after the leak is no wider than the dendrite
            left = (x[i] - _shift(x[i], decay[i]))[: g.dendrite_bits].as_signed()
            total: Value = _later(m, left, f"left{t}_{i}")
            for code, neighbour in zip(couplings[i], (i + 1, i - 1), strict=True):
                if neighbour in range(g.dendrites):
                    name = f"from{neighbour}_to{t}_{i}"
                    moved = _later(m, _shift(x[neighbour], code.distance), name)
                    total = code.later(m, 1).add(total, moved)
            base.append(_later(m, total[: g.dendrite_sum_bits].as_signed(), f"base{t}_{i}"))
        return base

    def _read(self, m: Module, at: str, states: Sequence[Value], codes: Sequence["_Code"]) -> Value:
        """Return a step's read-outs added up, a one short for each negative code: cycles 5 and 6."""
        g = self.geometry
        furthest = (1 << g.dendrite_shift_bits) - 1 - g.least_readout_shift
        read = [
            code.invert(_shift(state[g.least_readout_shift :].as_signed(), code.distance, furthest), furthest)
            for state, code in zip(states, codes, strict=True)
        ]
        pairs = [_later(m, tree(read[i : i + 2]), f"pair{at}{i}") for i in range(0, g.dendrites, 2)]
        return _later(m, tree(pairs), f"sum{at}")


class _Code:
    """A shift code apart: its distance (all ones where there is nothing to add), presence and sign."""

    def __init__(self, distance: Value, present: Value, negative: Value, name: str) -> None:
        self.distance, self.present, self.negative, self._name = distance, present, negative, name

    @classmethod
    def of(cls, m: Module, code: Value, name: str) -> "_Code":
        """Take a code apart: 0 for nothing, else a sign and one more than the distance."""
        magnitude_less_one = Mux(code[-1], ~code, code - 1)[: len(code) - 1]
        return cls(magnitude_less_one, code.any(), code[-1], name)

    def later(self, m: Module, cycles: int) -> "_Code":
        """Return the code some cycles later."""
        whole = Cat(self.distance, self.present, self.negative)
        whole = _later(m, whole, f"{self._name}_later", cycles)
        return _Code(whole[:-2], whole[-2], whole[-1], f"{self._name}_later")

    def add(self, total: Value, moved: Value) -> Value:
        """Return `total` and, with the code's sign, what was shifted by its distance."""
        # a negation is an inversion and a carry, which comes from one more bit below
        inverted = (moved & self.present.replicate(len(moved))) ^ self.negative.replicate(len(moved))
        return (Cat(self.negative, total).as_signed() + Cat(self.negative, inverted).as_signed())[1:].as_signed()

    def invert(self, moved: Value, furthest: int) -> Value:
        """Return what was shifted by the distance, at most `furthest`: inverted if negative, 0 if there is nothing."""
        ...


def _later(m: Module, value: Value, name: str, cycles: int = 1) -> Value:
    """Return the value some cycles later."""
    for cycle in range(cycles):
        register = Signal(value.shape(), name=f"{name}_{cycle}", reset_less=True)
        m.d.sync += register.eq(value)
        value = register
    return value


def _shift(value: Value, distance: Value, furthest: int | None = None) -> Value:
    """Shift right, two bits of the distance a stage; 0 for distances whose stage goes beyond the furthest."""
    for low in range(0, len(distance), 2):
        ...


def _saturate(value: Value, bits: int) -> tuple[Value, Value]:
    """Return the clipped value and whether it was clipped: the bits above must repeat the sign."""
    above = value[bits - 1 :]
    clips = above.any() & ~above.all()
    limit = Cat((~value[-1]).replicate(bits - 1), value[-1])
    return Mux(clips, limit, value[:bits]).as_signed(), clips
