// SPDX-License-Identifier: MIT
// AXI4-Lite manager around the verilated circuit, with a C interface for ctypes (host/verilated.py).
//
// Transfers are issued back to back: the next address is offered as soon as the circuit takes the last one, and
// answers are taken whenever they come. Cycles spent here are simulated cycles, counted in `cycles`.

#include <cstdint>

#include "Vspikeloop.h"
#include "verilated.h"

namespace {

// An answer takes a handful of cycles; without one for this long the circuit hangs.
constexpr uint64_t kSilence = 100000;

enum Outcome : int32_t { kDone = 0, kSilent = 1, kErrorAnswer = 2, kNotYet = 3 };

struct Circuit {
    VerilatedContext context;
    Vspikeloop top{&context};
    uint64_t cycles = 0;

    Circuit() {
        top.clk = 0;
        top.rst = 1;
        top.s_axil___05Fawvalid = top.s_axil___05Fwvalid = top.s_axil___05Farvalid = 0;
        top.s_axil___05Fawprot = top.s_axil___05Farprot = 0;
        top.s_axil___05Fwstrb = 0xF;
        top.s_axil___05Fbready = top.s_axil___05Frready = 1;
        for (int i = 0; i < 4; ++i) {
            settle();
            edge();
        }
        top.rst = 0;
    }
    ~Circuit() { top.final(); }

    // Inputs change while the clock is low; outputs that follow from them are read between `settle` and `edge`.
    void settle() { top.eval(); }
    void edge() {
        top.clk = 1;
        top.eval();
        top.clk = 0;
        ++cycles;
    }

    int32_t write(uint32_t address, const uint32_t* words, uint32_t count) {
        uint32_t addressed = 0, given = 0, answered = 0;
        for (uint64_t last = cycles; answered < count;) {
            if (cycles - last > kSilence) return kSilent;
            top.s_axil___05Fawvalid = addressed < count;
            top.s_axil___05Fawaddr = address + 4 * addressed;
            top.s_axil___05Fwvalid = given < count;
            if (given < count) top.s_axil___05Fwdata = words[given];
            settle();
            if (top.s_axil___05Fawvalid && top.s_axil___05Fawready) ++addressed, last = cycles;
            if (top.s_axil___05Fwvalid && top.s_axil___05Fwready) ++given, last = cycles;
            if (top.s_axil___05Fbvalid) {
                if (top.s_axil___05Fbresp) return kErrorAnswer;
                ++answered, last = cycles;
            }
            edge();
        }
        top.s_axil___05Fawvalid = top.s_axil___05Fwvalid = 0;
        return kDone;
    }

    int32_t read(uint32_t address, uint32_t* words, uint32_t count) {
        uint32_t addressed = 0, answered = 0;
        for (uint64_t last = cycles; answered < count;) {
            if (cycles - last > kSilence) return kSilent;
            top.s_axil___05Farvalid = addressed < count;
            top.s_axil___05Faraddr = address + 4 * addressed;
            settle();
            if (top.s_axil___05Farvalid && top.s_axil___05Farready) ++addressed, last = cycles;
            if (top.s_axil___05Frvalid) {
                if (top.s_axil___05Frresp) return kErrorAnswer;
                words[answered++] = top.s_axil___05Frdata;
                last = cycles;
            }
            edge();
        }
        top.s_axil___05Farvalid = 0;
        return kDone;
    }
};

}  // namespace

extern "C" {

Circuit* spikeloop_new() { return new Circuit; }
void spikeloop_delete(Circuit* circuit) { delete circuit; }
uint64_t spikeloop_cycles(const Circuit* circuit) { return circuit->cycles; }

int32_t spikeloop_write(Circuit* circuit, uint32_t address, const uint32_t* words, uint32_t count) {
    return circuit->write(address, words, count);
}

int32_t spikeloop_read(Circuit* circuit, uint32_t address, uint32_t* words, uint32_t count) {
    return circuit->read(address, words, count);
}

// Reads one word until it equals `value` under `mask`, for at most `cycles` cycles; the last word read is in `*word`.
int32_t spikeloop_poll(Circuit* circuit, uint32_t address, uint32_t mask, uint32_t value, uint64_t cycles,
                       uint32_t* word) {
    const uint64_t end = circuit->cycles + cycles;
    do {
        if (const int32_t outcome = circuit->read(address, word, 1)) return outcome;
        if ((*word & mask) == value) return kDone;
    } while (circuit->cycles < end);
    return kNotYet;
}
}
