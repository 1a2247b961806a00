# SPDX-License-Identifier: MIT
"""The leaky integrate-and-fire neuron, its T steps unrolled."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.expressions import if_valid
from model.deployed.geometry import Geometry


class LifNeuron(wiring.Component):
    """One channel's neuron over the T steps of a token (docs/numbers.md, "Neuron").

    `m[t] = u[t] + m[t-1]/4 (1 - s[t-1])`, `s[t] = m[t] > threshold`, at rest before the first step. Step t works in
    units of 4**-t: the carried membrane then keeps its integer and the current moves up two bits, so no bit is lost.

    Parameters
    ----------
    geometry : Geometry

    Members
    -------
    valid : per stage of the pipeline, whether a token is in it: currents come with the first bit
    currents : signed `current_bits` per step
    threshold : unsigned
    spikes : one bit per step, `latency(geometry)` cycles later

    Timing
    ------
    A token per cycle, no back-pressure. `STEPS_PER_STAGE` steps between registers; the spikes are registered too, for
    what reads them decides in the same cycle whether a pass goes on.

    """

    STEPS_PER_STAGE = 2

    @classmethod
    def latency(cls, g: Geometry) -> int:
        """Return the cycles from currents to spikes."""
        return -(-g.steps // cls.STEPS_PER_STAGE)

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.threshold_bits = max(geometry.threshold_bits, geometry.membrane_bits - 1)
        super().__init__(
            {
                "valid": In(self.latency(geometry)),
                "currents": In(data.ArrayLayout(signed(geometry.current_bits), geometry.steps)),
                "threshold": In(self.threshold_bits),
                "spikes": Out(geometry.steps),
            }
        )

    def elaborate(self, platform):
        m = Module()
        g = self.geometry
        # m > threshold where m - threshold - 1 is not negative: current and threshold are subtracted ahead, so that the
        # comparison is an addition beside the membrane's, not behind it
        currents = [self.currents[t] for t in range(g.steps)]
        excess = []
        for t in range(g.steps):
            excess.append(Signal(signed(max(g.current_bits, self.threshold_bits + 1) + 1), name=f"excess{t}"))
            m.d.comb += excess[t].eq(currents[t] - self.threshold - 1)
        spikes: list[Signal] = []
        carried = None
        for t in range(g.steps):
            valid = self.valid[t // self.STEPS_PER_STAGE]
            if t and t % self.STEPS_PER_STAGE == 0:
                # register what the later steps need
                registered = []
                for value in (*currents, *excess, carried, *spikes):
                    register = Signal.like(value, reset_less=True)
                    with m.If(self.valid[t // self.STEPS_PER_STAGE - 1]):
                        m.d.sync += register.eq(value)
                    registered.append(register)
                currents, excess = registered[: g.steps], registered[g.steps : 2 * g.steps]
                carried, spikes = registered[2 * g.steps], registered[2 * g.steps + 1 :]
            before = 0 if carried is None else carried
            membrane = Value.cast((currents[t] << (2 * t)) + before)
            above = Cat(Const((1 << 2 * t) - 1, 2 * t), excess[t]).as_signed() + before
            spike = if_valid(m, valid, above, f"margin{t}") >= 0
            carried = if_valid(m, valid, Mux(spike, 0, membrane), f"carried{t}")
            spikes.append(spike)
        with m.If(self.valid[-1]):
            m.d.sync += self.spikes.eq(Cat(spikes))
        return m
