// SPDX-License-Identifier: Apache-2.0
// An arena: the slots of one region, 64 MiB of address space, and the summary that says which of
// the slots were ever used.
//
//   arena i of the file
//   +--------------------+  0
//   | struct allocs_arena|  region, summary levels 2 and 1, committed bits     (one page)
//   |  freers            |  who freed there, for the order of events; the agent's own note
//   +--------------------+  ALLOCS_ARENA_SUMMARY_OFFSET
//   | summary level 0    |  one bit for 2 KiB of heap: 64 slots                (one page)
//   +--------------------+  ALLOCS_ARENA_SLOTS_OFFSET
//   | slots              |  2^21 × 8 bytes, holes where nothing was allocated
//   +--------------------+
//   | spare              |  one slot, for the tail of an allocation that starts in the last
//   |                    |  block of the region                                (one page)
//   +--------------------+  ALLOCS_ARENA_STRIDE
//
// - A summary bit is set before the first slot under it is written, and is never cleared. The bits
//   of levels 2 and 1 are set before the bit of level 0, so a thread that finds a level 0 bit set
//   may write slots without touching the levels above.
// - A reader loads a slot only if the slot's level 0 bit is set: reading a hole of a tmpfs file
//   would allocate the page.
// - The last block's tail goes to the spare page, which is committed with the last slot page.

#ifndef ALLOCS_ARENA_H
#define ALLOCS_ARENA_H

#include <stddef.h>
#include <stdint.h>

#include "allocs_slot.h"

#define ALLOCS_PAGE_SIZE 4096u
// Bits of user addresses. On either machine the kernel gives out higher addresses only to programs
// that ask for them.
#if defined(__aarch64__)
#define ALLOCS_ADDRESS_BITS 48u
#else
#define ALLOCS_ADDRESS_BITS 47u
#endif
#define ALLOCS_REGION_SHIFT 26u
#define ALLOCS_SUMMARY_SHIFT 11u  // level 0: 2 KiB of heap a bit
#define ALLOCS_FREER_SHIFT 16u    // 64 KiB of heap a word that says who freed there

// Constants that are computed are enumerators, because Swift imports those, and does not import
// macros with operators.
enum {
  ALLOCS_REGION_SIZE = 1 << 26,
  ALLOCS_REGION_COUNT = 1 << (ALLOCS_ADDRESS_BITS - 26),
  ALLOCS_ARENA_SLOTS = 1 << 21,
  ALLOCS_SLOTS_PER_SUMMARY_BIT = 64,
  ALLOCS_SUMMARY_BITS = 1 << 15,
  ALLOCS_SUMMARY_LEVEL0_WORDS = ALLOCS_SUMMARY_BITS / 64,
  ALLOCS_SUMMARY_LEVEL1_WORDS = ALLOCS_SUMMARY_LEVEL0_WORDS / 64,  // 128 KiB of heap a bit
  ALLOCS_SLOTS_PER_PAGE = 4096 / 8,
  ALLOCS_ARENA_SLOT_PAGES = ALLOCS_ARENA_SLOTS / ALLOCS_SLOTS_PER_PAGE,

  ALLOCS_ARENA_FREERS_OFFSET = 1024,
  ALLOCS_ARENA_SUMMARY_OFFSET = 4096,
  ALLOCS_ARENA_SLOTS_OFFSET = 2 * 4096,
  ALLOCS_ARENA_STRIDE = ALLOCS_ARENA_SLOTS_OFFSET + ALLOCS_ARENA_SLOTS * 8 + 4096
};

_Static_assert(ALLOCS_REGION_SIZE == 1u << ALLOCS_REGION_SHIFT, "region size");
_Static_assert(ALLOCS_REGION_COUNT == 1u << (ALLOCS_ADDRESS_BITS - ALLOCS_REGION_SHIFT), "region count");
_Static_assert(ALLOCS_ARENA_SLOTS == 1u << (ALLOCS_REGION_SHIFT - ALLOCS_BLOCK_SHIFT), "slots of an arena");
_Static_assert(ALLOCS_SLOTS_PER_SUMMARY_BIT == 1u << (ALLOCS_SUMMARY_SHIFT - ALLOCS_BLOCK_SHIFT), "slots under a bit");
_Static_assert(ALLOCS_SUMMARY_BITS == 1u << (ALLOCS_REGION_SHIFT - ALLOCS_SUMMARY_SHIFT), "summary bits");

struct allocs_arena {
  uint64_t region;  // address >> ALLOCS_REGION_SHIFT
  uint64_t level2;  // bit i: word i of level 1 is not zero
  // Bit i of word j: word 64j + i of level 0 is not zero.
  uint64_t level1[ALLOCS_SUMMARY_LEVEL1_WORDS];
  // Slot pages that memory is behind; the agent's own note.
  uint64_t committed[ALLOCS_ARENA_SLOT_PAGES / 64];
  // 1 + the number of the region's nested arena of each level; 0 if there is none
  // (allocs_nested.h).
  uint32_t nested[2];
  uint32_t fine;  // 1 + the number of the region's nested arena of fine slots; 0 if there is none
  uint32_t reserved;
};

_Static_assert(ALLOCS_SUMMARY_LEVEL0_WORDS * 8 == ALLOCS_PAGE_SIZE, "level 0 fills one page");
_Static_assert(ALLOCS_SUMMARY_LEVEL1_WORDS == 8, "level 2 is one word");
_Static_assert(offsetof(struct allocs_arena, region) == 0, "arena.region");
_Static_assert(offsetof(struct allocs_arena, level2) == 8, "arena.level2");
_Static_assert(offsetof(struct allocs_arena, level1) == 16, "arena.level1");
_Static_assert(offsetof(struct allocs_arena, committed) == 80, "arena.committed");
_Static_assert(offsetof(struct allocs_arena, nested) == 592, "arena.nested");
_Static_assert(offsetof(struct allocs_arena, fine) == 600, "arena.fine");
_Static_assert(sizeof(struct allocs_arena) == 608, "arena");
_Static_assert(sizeof(struct allocs_arena) <= ALLOCS_ARENA_FREERS_OFFSET, "arena head ends before the freers");
_Static_assert(ALLOCS_ARENA_FREERS_OFFSET + (ALLOCS_REGION_SIZE >> ALLOCS_FREER_SHIFT) * 2 <=
                   ALLOCS_ARENA_SUMMARY_OFFSET,
               "freers fit");
_Static_assert(ALLOCS_ARENA_STRIDE % ALLOCS_PAGE_SIZE == 0, "arenas are page aligned");

// MARK: where an address lies

static inline uint64_t allocs_region_of_address(uint64_t address) { return address >> ALLOCS_REGION_SHIFT; }
static inline uint64_t allocs_address_of_region(uint64_t region) { return region << ALLOCS_REGION_SHIFT; }
// The index of the slot, within its arena, of the block that holds `address`.
static inline uint32_t allocs_slot_index(uint64_t address) {
  return (uint32_t)(address >> ALLOCS_BLOCK_SHIFT) & (ALLOCS_ARENA_SLOTS - 1);
}
// The inverse: the address at which the allocation starts whose head, with `granule`, is in slot
// `index` of `region`.
static inline uint64_t allocs_address_of_slot(uint64_t region, uint32_t index, uint32_t granule) {
  return (region << ALLOCS_REGION_SHIFT) + ((uint64_t)index << ALLOCS_BLOCK_SHIFT) + granule * ALLOCS_GRANULE_SIZE;
}
static inline uint32_t allocs_granule_of_address(uint64_t address) { return (uint32_t)(address >> 4) & 1; }
static inline uint32_t allocs_summary_index(uint64_t address) {
  return (uint32_t)(address >> ALLOCS_SUMMARY_SHIFT) & (ALLOCS_SUMMARY_BITS - 1);
}

#endif
