// SPDX-License-Identifier: MIT
// A register window in memory whose every load and store is caught and answered by a device (x86-64, Linux).
//
// The window's pages are inaccessible. An access faults; the handler fetches the word from the device if it is a load,
// opens the page and lets the one instruction run; the trap behind it hands a stored word to the device and closes
// the page again. An instruction that is no plain aligned 32-bit load or store is counted as odd.

#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

typedef int32_t Transfer(void *device, uint32_t address, uint32_t *word, uint32_t count);

enum { EVENTS = 1 << 16, TRAP_FLAG = 0x100, WRITE_FAULT = 2 };

static unsigned char *window;
static size_t size;
static Transfer *device_read, *device_write;
static void *device;
static struct sigaction before_segv, before_trap;
static uint32_t events[EVENTS];  // address, lowest bit set for a store
static uint32_t count, odd;
static uint32_t pending;
static int storing;

static int plain(const unsigned char *code) {
    if (*code == 0x66 || *code == 0xF0 || *code == 0xF2 || *code == 0xF3) return 0;
    if ((*code & 0xF0) == 0x40) {      // REX
        if (*code & 0x08) return 0;    // 64 bits
        ++code;
    }
    // mov to and from memory, with a constant, and compare with memory: 32 bits each
    return *code == 0x8B || *code == 0x89 || *code == 0xC7 || *code == 0x3B || *code == 0x39;
}

static void on_fault(int number, siginfo_t *info, void *context) {
    (void)number;
    ucontext_t *machine = context;
    unsigned char *address = info->si_addr;
    if (address < window || address >= window + size) {
        sigaction(SIGSEGV, &before_segv, 0);  // not ours: fault once more
        return;
    }
    storing = (machine->uc_mcontext.gregs[REG_ERR] & WRITE_FAULT) != 0;
    uint32_t offset = (uint32_t)(address - window);
    if (offset % 4 || !plain((const unsigned char *)machine->uc_mcontext.gregs[REG_RIP])) ++odd;
    pending = offset & ~3u;
    if (count < EVENTS) events[count] = pending | (uint32_t)storing;
    ++count;
    mprotect(window, size, PROT_READ | PROT_WRITE);
    if (!storing) device_read(device, pending, (uint32_t *)(window + pending), 1);
    machine->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
}

static void on_step(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    ucontext_t *machine = context;
    machine->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
    if (storing) device_write(device, pending, (uint32_t *)(window + pending), 1);
    mprotect(window, size, PROT_NONE);
}

void trap_arm(void *memory, size_t bytes, Transfer *read, Transfer *write, void *circuit) {
    window = memory, size = bytes, device_read = read, device_write = write, device = circuit;
    count = odd = 0;
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_flags = SA_SIGINFO;
    action.sa_sigaction = on_fault;
    sigaction(SIGSEGV, &action, &before_segv);
    action.sa_sigaction = on_step;
    sigaction(SIGTRAP, &action, &before_trap);
    mprotect(window, size, PROT_NONE);
}

void trap_disarm(void) {
    mprotect(window, size, PROT_READ | PROT_WRITE);
    sigaction(SIGSEGV, &before_segv, 0);
    sigaction(SIGTRAP, &before_trap, 0);
}

// Copies at most EVENTS events, forgets them, and returns how many there were.
uint32_t trap_take(uint32_t *copy, uint32_t *odd_ones) {
    uint32_t taken = count;
    memcpy(copy, events, sizeof *copy * (taken < EVENTS ? taken : EVENTS));
    *odd_ones = odd;
    count = odd = 0;
    return taken;
}
