// SPDX-License-Identifier: MIT
// A register window in memory, a 32-bit word at a time (host/board/mapped.py).
//
// Every access is one aligned 32-bit load or store: `volatile` keeps the compiler from merging, widening or repeating
// them. Addresses are byte offsets into the window.

#include <stddef.h>
#include <stdint.h>
#include <time.h>

enum { DONE = 0, NOT_YET = 1 };

// Between looks at the clock, which cost as much as several loads.
enum { POLLS = 64 };

typedef volatile uint32_t Window;

static uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

void words_write(Window *window, uint32_t address, const uint32_t *words, uint32_t count) {
    for (uint32_t i = 0; i < count; ++i) window[address / 4 + i] = words[i];
}

void words_read(Window *window, uint32_t address, uint32_t *words, uint32_t count) {
    for (uint32_t i = 0; i < count; ++i) words[i] = window[address / 4 + i];
}

// Loads one word until it equals `value` under `mask`; the last one loaded is in `*word`.
int32_t words_poll(Window *window, uint32_t address, uint32_t mask, uint32_t value, uint64_t timeout_ns,
                   uint32_t *word) {
    const uint64_t end = now_ns() + timeout_ns;
    for (;;) {
        for (int i = 0; i < POLLS; ++i) {
            *word = window[address / 4];
            if ((*word & mask) == value) return DONE;
        }
        if (now_ns() > end) return NOT_YET;
    }
}

// A whole decision: store the input, store `number` at `start`, await it at `done`, load `answers` words from there.
// On a timeout the last word loaded is in `answer[0]`.
int32_t words_exchange(Window *window, uint32_t input, const uint32_t *words, uint32_t count, uint32_t start,
                       uint32_t number, uint32_t done, uint32_t *answer, uint32_t answers, uint64_t timeout_ns) {
    words_write(window, input, words, count);
    window[start / 4] = number;
    const int32_t outcome = words_poll(window, done, 0xFFFFFFFFu, number, timeout_ns, answer);
    if (outcome == DONE) words_read(window, done, answer, answers);
    return outcome;
}
