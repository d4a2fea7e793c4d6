// SPDX-License-Identifier: Apache-2.0
// A slot: the 8 bytes that say whether an allocation starts in a 32-byte block of the heap, and
// everything about that allocation.
//
//   bit  63            33 32          9 8      3   2     1  0
//        +---------------+-------------+--------+-------+----+
//   head |    time:31    | context:24  | size:6 |granule|kind|   kind = SMALL or LARGE
//        +---------------+-------------+--------+-------+----+
//   bit  63     55 54          49 48                 2  1  0
//        +---------+-------------+--------------------+----+
//   tail | check:9 | alignment:6 |      size:47       |kind|     kind = TAIL
//        +---------+-------------+--------------------+----+
//
// - The tail stands in the slot behind a LARGE head.
// - A slot of zero says that no allocation starts in its block. Allocations start at multiples of
//   16: `granule` says in which half of the block. Allocations that start elsewhere, and small
//   allocations that may share a block with others, have finer slots (allocs_nested.h).
// - SMALL: `size` is the requested size, below 64. LARGE: `size` holds the low 6 bits of the tail's
//   size.
// - The tail's slot belongs to a block that the allocation covers whole, so no other allocation can
//   start there. A tail is never erased: a tail alone means nothing, and its kind keeps a stale
//   tail from being taken for a head.
// - The tail is stored before its head (release). `check` (the low bits of the head's time) and the
//   low bits of the size tie the two together. A reader loads head, tail, and head again, and
//   believes them if the head did not change.

#ifndef ALLOCS_SLOT_H
#define ALLOCS_SLOT_H

#include <stdbool.h>
#include <stdint.h>

#include "allocs_clock.h"

// A slot for each 32 bytes: the smallest footprint of glibc's blocks.
#define ALLOCS_BLOCK_SHIFT 5u
#define ALLOCS_BLOCK_SIZE 32u
// Every allocation that has such a slot starts at a multiple of this.
#define ALLOCS_GRANULE_SIZE 16u
#define ALLOCS_SMALL_SIZE_LIMIT 64u // sizes below are SMALL
#define ALLOCS_SIZE_BITS 47u
#define ALLOCS_SIZE_LIMIT 0x800000000000ull  // 2^ALLOCS_SIZE_BITS
#define ALLOCS_CONTEXT_BITS 24u
#define ALLOCS_CONTEXT_LIMIT 0x1000000u  // 2^ALLOCS_CONTEXT_BITS
#define ALLOCS_ALIGNMENT_LIMIT 64u  // logarithms to base 2; 0 means that none was asked for
#define ALLOCS_CHECK_MASK 0x1FFu

enum allocs_slot_kind {
  ALLOCS_SLOT_EMPTY = 0,
  ALLOCS_SLOT_SMALL = 1,
  ALLOCS_SLOT_LARGE = 2,
  ALLOCS_SLOT_TAIL = 3,
};

// MARK: encoding

// The context and the time in their places in a head.
static inline uint64_t allocs_slot_context_bits(uint32_t context) { return (uint64_t)context << 9; }
static inline uint64_t allocs_slot_time_bits(uint32_t ticks) { return (uint64_t)ticks << 33; }
static inline uint64_t allocs_slot_head(uint32_t kind, uint32_t granule, uint64_t size, uint32_t context,
                                        uint32_t ticks) {
  return (uint64_t)kind | (uint64_t)granule << 2 | (size & 63) << 3 | allocs_slot_context_bits(context) |
         allocs_slot_time_bits(ticks);
}
// A head in parts, for the path that programs take most. The parts have no bit in common, so they
// are added, because x86-64 has an instruction for sums of three. These two give the granule, the
// size and the kind of an allocation at `address`, a multiple of 16, in a coarse slot.
static inline uint64_t allocs_slot_small_bits(uint64_t address, uint64_t size) {
  return (address >> 2 & 4) + (size << 3) + ALLOCS_SLOT_SMALL;
}
static inline uint64_t allocs_slot_large_bits(uint64_t address, uint64_t size) {
  return (address >> 2 & 4) + ((size & 63) << 3) + ALLOCS_SLOT_LARGE;
}
static inline uint32_t allocs_slot_kind_of_size(uint64_t size) {
  return ALLOCS_SLOT_SMALL + (size >= ALLOCS_SMALL_SIZE_LIMIT);
}
// `granule`: 0 or 1; `size`: below ALLOCS_SMALL_SIZE_LIMIT; `context`: below ALLOCS_CONTEXT_LIMIT;
// `ticks`: at most ALLOCS_TICK_MASK.
static inline uint64_t allocs_slot_small(uint32_t granule, uint64_t size, uint32_t context, uint32_t ticks) {
  return allocs_slot_head(ALLOCS_SLOT_SMALL, granule, size, context, ticks);
}
static inline uint64_t allocs_slot_large(uint32_t granule, uint64_t size, uint32_t context, uint32_t ticks) {
  return allocs_slot_head(ALLOCS_SLOT_LARGE, granule, size, context, ticks);
}
// `size`: below ALLOCS_SIZE_LIMIT; `alignment`: a logarithm below ALLOCS_ALIGNMENT_LIMIT; `ticks`:
// the ticks of the head.
static inline uint64_t allocs_slot_tail(uint64_t size, uint32_t alignment, uint32_t ticks) {
  return (uint64_t)ALLOCS_SLOT_TAIL | size << 2 | (uint64_t)alignment << 49 |
         (uint64_t)(ticks & ALLOCS_CHECK_MASK) << 55;
}

// As allocs_slot_tail, without an alignment. `time`: the time where the head has it.
static inline uint64_t allocs_slot_tail_at(uint64_t size, uint64_t time) {
  return (time << 22) + (size << 2) + ALLOCS_SLOT_TAIL;
}

// MARK: decoding

static inline uint32_t allocs_slot_kind(uint64_t slot) { return (uint32_t)slot & 3; }
static inline bool allocs_slot_is_head(uint64_t slot) { return ((slot ^ slot >> 1) & 1) != 0; }
// Whether a slot is the head of an allocation that starts in `granule`, 0 or 1: one comparison
// tells kinds 1 and 2 from the others.
static inline bool allocs_slot_is_head_of(uint64_t slot, uint32_t granule) {
  return (((uint32_t)slot ^ granule << 2) & 7) - 1 < 2;
}
// As allocs_slot_is_head_of, for a coarse slot: whether the slot holds the head of an allocation at
// `address`, a multiple of 16.
static inline bool allocs_slot_is_head_at(uint64_t slot, uint64_t address) {
  return (((uint32_t)slot ^ (uint32_t)(address >> 2)) & 7) - 1 < 2;
}
static inline uint32_t allocs_slot_granule(uint64_t head) { return (uint32_t)(head >> 2) & 1; }
static inline uint64_t allocs_slot_small_size(uint64_t head) { return head >> 3 & 63; }
static inline uint32_t allocs_slot_context(uint64_t head) {
  return (uint32_t)(head >> 9) & (ALLOCS_CONTEXT_LIMIT - 1);
}
static inline uint32_t allocs_slot_ticks(uint64_t head) { return (uint32_t)(head >> 33); }
static inline uint64_t allocs_slot_tail_size(uint64_t tail) { return tail >> 2 & (ALLOCS_SIZE_LIMIT - 1); }
static inline uint32_t allocs_slot_tail_alignment(uint64_t tail) {
  return (uint32_t)(tail >> 49) & (ALLOCS_ALIGNMENT_LIMIT - 1);
}
// Whether `tail` was written for the LARGE head `head`.
static inline bool allocs_slot_tail_matches(uint64_t head, uint64_t tail) {
  return allocs_slot_kind(tail) == ALLOCS_SLOT_TAIL &&
         (allocs_slot_tail_size(tail) & 63) == allocs_slot_small_size(head) &&
         (uint32_t)(tail >> 55) == (allocs_slot_ticks(head) & ALLOCS_CHECK_MASK);
}

#endif
