// Time as the segment keeps it: ticks, the processor's invariant counter shifted right so that 31 bits last for months.
//
// On x86-64 the counter is the TSC and a tick is 2^25 cycles (14.6 ms at 2.3 GHz; 31 bits wrap after about a year).
// Ticks are compared modulo 2^31: an age is (now - then) & ALLOCS_TICK_MASK, right for anything younger than one wrap.

#ifndef ALLOCS_CLOCK_H
#define ALLOCS_CLOCK_H

#include <stdint.h>

#define ALLOCS_TICK_BITS 31u
#define ALLOCS_TICK_MASK 0x7FFFFFFFu

#if defined(__x86_64__)
#define ALLOCS_TICK_SHIFT 25u
static inline uint64_t allocs_counter(void) { return __builtin_ia32_rdtsc(); }
#elif defined(__aarch64__)
// The generic timer runs at 25 MHz to 1 GHz; 2^20 of its cycles are 1 to 42 ms.
#define ALLOCS_TICK_SHIFT 20u
static inline uint64_t allocs_counter(void) {
  uint64_t value;
  __asm__ volatile("mrs %0, cntvct_el0" : "=r"(value));
  return value;
}
#else
#error "allocs knows the counters of x86-64 and aarch64"
#endif

static inline uint32_t allocs_ticks_of_counter(uint64_t counter) { return (uint32_t)(counter >> ALLOCS_TICK_SHIFT) & ALLOCS_TICK_MASK; }
static inline uint32_t allocs_ticks_now(void) { return allocs_ticks_of_counter(allocs_counter()); }
// Ticks from `then` to `now`, both modulo 2^31.
static inline uint32_t allocs_ticks_between(uint32_t then, uint32_t now) { return (now - then) & ALLOCS_TICK_MASK; }

// What relates the counter to the wall clock. `first` is taken when the agent starts and never changes; `latest` is
// taken again on slow paths, between two increments of `sequence` (odd while it changes). A reader derives the
// counter's rate from first and latest, or, on the machine where the process lives, from first and its own clock.
struct allocs_clock_point {
  uint64_t counter;
  uint64_t monotonic_ns;  // CLOCK_MONOTONIC
};

struct allocs_calibration {
  struct allocs_clock_point first;
  uint64_t first_realtime_ns;  // CLOCK_REALTIME at `first`
  uint32_t tick_shift;         // ALLOCS_TICK_SHIFT of the writer
  uint32_t sequence;
  struct allocs_clock_point latest;
};

_Static_assert(sizeof(struct allocs_clock_point) == 16, "clock point");
_Static_assert(sizeof(struct allocs_calibration) == 48, "calibration");

#endif
