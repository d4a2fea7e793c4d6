// SPDX-License-Identifier: Apache-2.0
// Time as the segment keeps it: in ticks of 1/64 s of CLOCK_MONOTONIC, of which 31 bits are kept
// (they last 388 days).
//
// The agent reads the coarse clock, which the kernel sets at each timer interrupt, so a tick is
// known to within a few milliseconds. Ticks are compared modulo 2^31: an age is
// allocs_ticks_between(then, now), right for anything younger than one wrap. The clock is the clock
// of the process's time namespace (time_namespaces(7)): a reader of the same boot shifts its own
// clock by the difference of the two namespaces (monotonic_offset of the segment's header).

#ifndef ALLOCS_CLOCK_H
#define ALLOCS_CLOCK_H

#include <stdint.h>

#define ALLOCS_TICK_BITS 31u
#define ALLOCS_TICK_MASK 0x7FFFFFFFu
#define ALLOCS_TICKS_PER_SECOND 64u

// `nanoseconds`: below 10^9. 274 / 2^32 is the largest factor of that form that gives at most 63
// ticks.
static inline uint32_t allocs_ticks(uint64_t seconds, uint64_t nanoseconds) {
  return (uint32_t)(seconds * ALLOCS_TICKS_PER_SECOND + (nanoseconds * 274 >> 32)) & ALLOCS_TICK_MASK;
}
// Ticks from `then` to `now`, both modulo 2^31.
static inline uint32_t allocs_ticks_between(uint32_t then, uint32_t now) { return (now - then) & ALLOCS_TICK_MASK; }

// The age of a block: as allocs_ticks_between gives it, but an age within a minute of a whole wrap
// is taken for none, because a tick that was read in the middle of the kernel's update may be up to
// a second ahead.
static inline uint32_t allocs_age_ticks(uint32_t then, uint32_t now) {
  uint32_t age = allocs_ticks_between(then, now);
  return age > ALLOCS_TICK_MASK - ALLOCS_TICKS_PER_SECOND * 60 ? 0 : age;
}

// One moment on both clocks, taken when the agent starts: it turns ticks into wall clock time.
struct allocs_clock_start {
  uint64_t monotonic_ns;  // CLOCK_MONOTONIC
  uint64_t realtime_ns;   // CLOCK_REALTIME
};

_Static_assert(sizeof(struct allocs_clock_start) == 16, "clock start");

#endif
