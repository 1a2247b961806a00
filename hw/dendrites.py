# SPDX-License-Identifier: MIT
"""The dendrites of LRF-Dyn: a channel's, advanced by a token for either spike that the token may bring."""

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.expressions import saturated, tree
from hw.passes import steps_layout
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


def later(m: Module, value: Value, name: str, cycles: int = 1) -> Value:
    """Return a value some cycles later; it is not reset."""
    for cycle in range(cycles):
        register = Signal(value.shape(), name=f"{name}_{cycle}", reset_less=True)
        m.d.sync += register.eq(value)
        value = register
    return value


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
        decay = [later(m, parameters[i].decay, f"decay{i}") for i in each]
        upper, lower, readout = (
            [_Code.of(parameters[i][name], f"{name}{i}") for i in each] for name in ("upper", "lower", "readout")
        )
        couplings = [_Coupling(m, i, i + 1, upper[i]) for i in each[:-1]]
        couplings += [_Coupling(m, i, i - 1, lower[i]) for i in each[1:]]
        gain = [later(m, parameters[i].gain, f"gain{i}", 3) for i in each]
        reading = [readout[i].later(m, 4) for i in each]

        # Local taps wait for the newest value alone. With them come the ones that complete negative read-outs
        ones = later(m, tree([code.negative for code in readout]), "ones")
        newest = later(m, self.parameters.local[0] << g.local_shift, "newest", 2)
        older_taps = [(n, distance) for n, distance in enumerate(g.local_distances) if distance]

        silent_clips: list[Value] = []
        for t in range(g.steps):
            x = [later(m, self.x[t][i], f"x{t}_{i}") for i in each]
            base = self._recur(m, t, x, decay, couplings)
            sums, clipped = [], []
            for outcome, sink in (("silent", self.silent_x), ("both", self.both_x)):
                at = f"{t}_{outcome}"
                states, clips = [], []
                for i in each:
                    value = (base[i] + gain[i])[: g.dendrite_sum_bits].as_signed() if outcome == "both" else base[i]
                    state, clip = saturated(value, g.dendrite_bits)
                    states.append(later(m, state, f"x{at}{i}"))
                    clips.append(later(m, clip, f"clip{at}{i}"))
                    m.d.comb += sink[t][i].eq(states[i])
                if outcome == "silent":
                    silent_clips += clips
                clipped.append(tree(clips))
                sums.append(self._read(m, at, states, reading))

            past = [Mux(self.history[distance - 1][t], self.parameters.local[n], 0) for n, distance in older_taps]
            past = later(m, tree(past) << g.local_shift, f"past{t}")
            without = later(m, ones + past, f"without{t}")
            with_newest = later(m, without + newest, f"with_newest{t}", 4)
            without = later(m, without, f"without{t}_kept", 4)
            m.d.comb += [
                self.o.silent[t].eq(sums[0] + without),
                self.o.value[t].eq(sums[0] + with_newest),
                self.o.both[t].eq(sums[1] + with_newest),
                self.o.more_clipped[t].eq(later(m, clipped[1] - clipped[0], f"more_clipped{t}", 2)),
            ]
        m.d.comb += self.silent_clipped.eq(tree(silent_clips))
        return m

    def _recur(
        self,
        m: Module,
        t: int,
        x: Sequence[Value],
        decay: Sequence[Value],
        couplings: Sequence["_Coupling"],
    ) -> list[Value]:
        """Return a step's dendrites after leak and couplings, before a spike and saturation: cycles 2 and 3."""
        g = self.geometry
        most = (1 << g.dendrite_shift_bits) - 1
        totals: list[Value] = []
        for i in range(g.dendrites):
            # what is left after the leak is no wider than the dendrite
            left = (x[i] - _shift(x[i], decay[i], most))[: g.dendrite_bits].as_signed()
            totals.append(later(m, left, f"left{t}_{i}"))
        for coupling in couplings:
            moved = later(m, _shift(x[coupling.source], coupling.shifting.distance, most), f"{coupling.name}{t}")
            totals[coupling.sink] = coupling.adding.add(totals[coupling.sink], moved)
        bits = g.dendrite_sum_bits
        return [later(m, total[:bits].as_signed(), f"base{t}_{i}") for i, total in enumerate(totals)]

    def _read(self, m: Module, at: str, states: Sequence[Value], codes: Sequence["_Code"]) -> Value:
        """Return a step's read-outs added up, a one short for each negative code: cycles 5 and 6."""
        g = self.geometry
        furthest = (1 << g.dendrite_shift_bits) - 1 - g.least_readout_shift
        read = [
            code.invert(_shift(state[g.least_readout_shift :].as_signed(), code.distance, furthest), furthest)
            for state, code in zip(states, codes, strict=True)
        ]
        pairs = [later(m, tree(read[i : i + 2]), f"pair{at}{i}") for i in range(0, g.dendrites, 2)]
        return later(m, tree(pairs), f"sum{at}")


class _Code:
    """A shift code taken apart: distance, all ones where there is nothing to shift; whether there is; sign."""

    def __init__(self, distance: Value, present: Value, negative: Value, name: str) -> None:
        self.distance, self.present, self.negative, self._name = distance, present, negative, name

    @classmethod
    def of(cls, code: Value, name: str) -> "_Code":
        """Take a code apart: 0 for nothing, else a sign and one more than the distance."""
        # one less than the size, of a negative number, is its inversion
        return cls(Mux(code[-1], ~code, code - 1)[: len(code) - 1], code.any(), code[-1], name)

    def later(self, m: Module, cycles: int) -> "_Code":
        """Return the code some cycles later."""
        name = f"{self._name}_later"
        whole = later(m, Cat(self.distance, self.present, self.negative), name, cycles)
        return _Code(whole[:-2], whole[-2], whole[-1], name)

    def add(self, total: Value, moved: Value) -> Value:
        """Return `total` and, with the code's sign, what was shifted by its distance."""
        # a negation is an inversion and a carry, which comes from one more bit below
        moved = moved.as_unsigned()  # bits, not a number
        inverted = (moved & self.present.replicate(len(moved))) ^ self.negative.replicate(len(moved))
        return (Cat(self.negative, total).as_signed() + Cat(self.negative, inverted).as_signed())[1:].as_signed()

    def invert(self, moved: Value, furthest: int) -> Value:
        """Return what was shifted by the distance, one short of its negation where the code is negative."""
        moved = moved.as_unsigned()
        if not _vanishes(len(self.distance), furthest):
            moved = moved & self.present.replicate(len(moved))
        return (moved ^ self.negative.replicate(len(moved))).as_signed()


class _Coupling:
    """What dendrite `sink` takes of `source`: its code as the shift needs it, and a cycle later as the adder does."""

    def __init__(self, m: Module, sink: int, source: int, code: _Code) -> None:
        self.sink, self.source, self.name = sink, source, f"from{source}_to{sink}_"
        self.shifting = code.later(m, 1)
        self.adding = self.shifting.later(m, 1)


def _vanishes(bits: int, furthest: int) -> bool:
    """Return whether `_shift` by all ones, in `bits` bits, gives 0."""
    return 3 << (bits - 2) > furthest


def _shift(value: Value, distance: Value, furthest: int) -> Value:
    """Shift right, two bits of the distance a stage: a LUT of six inputs. 0 if the last stage alone is too far."""
    for low in range(0, len(distance), 2):
        last = low + 2 == len(distance)
        choices = [
            Const(0, signed(len(value))) if last and n << low > furthest else value >> (n << low) for n in range(4)
        ]
        near = Mux(distance[low], choices[1], choices[0])
        far = Mux(distance[low], choices[3], choices[2])
        value = Mux(distance[low + 1], far, near)
    return value
