// SPDX-License-Identifier: Apache-2.0
// The atomic accesses to shared words, for C and for Swift, which imports these as inlined
// functions.
//
// Every word of the segment that one side writes while another reads goes through one of these
// functions: plain C accesses may be torn, repeated or moved by a compiler, and Swift has no
// atomics over memory that it does not own. Each use of a release says with which acquire it pairs.

#ifndef ALLOCS_ATOMIC_H
#define ALLOCS_ATOMIC_H

#include <stdbool.h>
#include <stdint.h>

static inline uint64_t allocs_load_relaxed_u64(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
static inline uint64_t allocs_load_acquire_u64(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static inline void allocs_store_relaxed_u64(uint64_t *word, uint64_t value) {
  __atomic_store_n(word, value, __ATOMIC_RELAXED);
}
static inline void allocs_store_release_u64(uint64_t *word, uint64_t value) {
  __atomic_store_n(word, value, __ATOMIC_RELEASE);
}
static inline uint64_t allocs_fetch_or_u64(uint64_t *word, uint64_t bits) {
  return __atomic_fetch_or(word, bits, __ATOMIC_ACQ_REL);
}
static inline uint64_t allocs_fetch_add_u64(uint64_t *word, uint64_t amount) {
  return __atomic_fetch_add(word, amount, __ATOMIC_ACQ_REL);
}
static inline bool allocs_compare_exchange_u64(uint64_t *word, uint64_t expected, uint64_t desired) {
  return __atomic_compare_exchange_n(word, &expected, desired, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static inline uint16_t allocs_load_relaxed_u16(const uint16_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
static inline void allocs_store_relaxed_u16(uint16_t *word, uint16_t value) {
  __atomic_store_n(word, value, __ATOMIC_RELAXED);
}
static inline bool allocs_compare_exchange_u16(uint16_t *word, uint16_t expected, uint16_t desired) {
  return __atomic_compare_exchange_n(word, &expected, desired, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static inline uint32_t allocs_load_relaxed_u32(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
static inline uint32_t allocs_load_acquire_u32(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static inline void allocs_store_relaxed_u32(uint32_t *word, uint32_t value) {
  __atomic_store_n(word, value, __ATOMIC_RELAXED);
}
static inline void allocs_store_release_u32(uint32_t *word, uint32_t value) {
  __atomic_store_n(word, value, __ATOMIC_RELEASE);
}
static inline uint32_t allocs_exchange_u32(uint32_t *word, uint32_t value) {
  return __atomic_exchange_n(word, value, __ATOMIC_ACQ_REL);
}
static inline uint32_t allocs_fetch_add_u32(uint32_t *word, uint32_t amount) {
  return __atomic_fetch_add(word, amount, __ATOMIC_ACQ_REL);
}
static inline bool allocs_compare_exchange_u32(uint32_t *word, uint32_t expected, uint32_t desired) {
  return __atomic_compare_exchange_n(word, &expected, desired, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

// Orders the loads before the fence against the loads after it: the second half of a
// sequence-locked read.
static inline void allocs_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
// Orders the stores before the fence against the stores after it: the first half of a
// sequence-locked write.
static inline void allocs_fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }
// Orders all accesses before the fence against all accesses after it: a thread stores a word, and
// then looks at a word that another thread stores.
static inline void allocs_fence_full(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

#endif
