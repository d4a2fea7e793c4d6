// SPDX-License-Identifier: Apache-2.0
// The agent's private memory that C code, assembly and Swift reach by address: the words of a
// thread, the process's state, and the page over which the control file is mapped. The headers say
// what is in them, and what becomes of them in a child of fork.
#include "allocs_agent.h"

__thread __attribute__((tls_model("initial-exec"))) struct allocs_thread_local allocs_thread_local;

struct allocs_process allocs_process_state;

const uintptr_t allocs_unindexable_bits = ~(((uintptr_t)1 << ALLOCS_ADDRESS_BITS) - 1) | 15;

const uint64_t allocs_no_clock_words[2] = {UINT64_MAX, UINT64_MAX};

__attribute__((aligned(ALLOCS_PAGE_SIZE))) uint8_t allocs_control_page[ALLOCS_PAGE_SIZE];

const void *const allocs_own_module = &allocs_process_state;
