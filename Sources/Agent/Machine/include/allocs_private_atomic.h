// SPDX-License-Identifier: Apache-2.0
// Atomic operations, fences and copies over the agent's private memory. allocs_atomic.h of
// SharedLayout has the operations over the words of the segment.

#ifndef ALLOCS_PRIVATE_ATOMIC_H
#define ALLOCS_PRIVATE_ATOMIC_H

#include <stdbool.h>
#include <stdint.h>

#include "allocs_hidden.h"

static inline void *allocs_load_acquire_pointer(void *const *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static inline void allocs_store_release_pointer(void **word, void *value) {
  __atomic_store_n(word, value, __ATOMIC_RELEASE);
}
static inline bool allocs_compare_exchange_pointer(void **word, void *expected, void *desired) {
  return __atomic_compare_exchange_n(word, &expected, desired, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

// A compiler's fence: it orders what a signal handler of this thread sees.
static inline void allocs_fence_signal(void) { __atomic_signal_fence(__ATOMIC_SEQ_CST); }

// Loads a byte of code that another thread may have changed.
static inline uint8_t allocs_load_byte(const uint8_t *_Nonnull byte) { return __atomic_load_n(byte, __ATOMIC_ACQUIRE); }

// Embedded Swift would copy byte after byte.
static inline void allocs_copy(void *_Nonnull to, const void *_Nonnull from, uint64_t size) {
  __builtin_memcpy(to, from, size);
}

#endif
