// SPDX-License-Identifier: Apache-2.0
// The time of a record, in ticks, as cheaply as it can be got.

#ifndef ALLOCS_TIME_H
#define ALLOCS_TIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "SharedLayout.h"
#include "allocs_hidden.h"
#include "allocs_process.h"

// Now, in ticks, by a call of the vdso: for where the words that allocs_now reads were not found.
extern ALLOCS_HIDDEN uint32_t allocs_ticks_by_call(void);
// Nanoseconds of CLOCK_MONOTONIC: exactly, or as of the last timer interrupt.
extern ALLOCS_HIDDEN uint64_t allocs_nanoseconds_by_call(bool exact);

// Two words that the kernel's clock never has.
extern ALLOCS_HIDDEN const uint64_t allocs_no_clock_words[2];
static inline const uint64_t *_Nonnull allocs_no_clock(void) { return allocs_no_clock_words; }

// The ticks of the kernel's two words of CLOCK_MONOTONIC_COARSE.
//
// The counter instruction costs 10 ns in a virtual machine, the vdso's coarse clock 5 ns; the two
// words that the vdso would load cost less than 1 ns. The vdso checks for an update under way by a
// sequence number; the agent leaves the check out, as it does not know where that number lies. A
// reader allows for that (allocs_age_ticks).
static inline uint32_t allocs_clock_ticks(const uint64_t *_Nonnull clock) {
  return allocs_ticks(__atomic_load_n(&clock[0], __ATOMIC_RELAXED), __atomic_load_n(&clock[1], __ATOMIC_RELAXED));
}
// Now, in ticks.
static inline uint32_t allocs_now(void) {
  const uint64_t *clock = allocs_process_state.coarse_clock;
  return __builtin_expect(clock == NULL, 0) ? allocs_ticks_by_call() : allocs_clock_ticks(clock);
}

#endif
