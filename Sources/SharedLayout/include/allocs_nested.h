// SPDX-License-Identifier: Apache-2.0
// A nested arena: finer slots for one region, 64 MiB of address space. A region has up to three
// nested arenas: two for blocks that suballocators have handed out there, and one of fine slots.
//
// MARK: suballocations
//
// The blocks of a pool lie inside a chunk of another allocator, in a mapping, or in static memory.
// So they have slots of their own, and one slot for each 8 bytes, as pools hand out blocks of 8
// bytes, side by side. allocs_slot.h says what stands in such a slot, but for its `granule` bit,
// which means here:
//
//   granule 0   the block lies in a chunk: in an allocation of the arena, or of the nested arena
//               one level down
//   granule 1   the block lies in no chunk: in a mapping of its pool's own, or in static memory
//
// A block of 64 bytes or more covers the slot behind its head, so the tail stands there, as in an
// arena. A block of a pool may be carved up by another pool: there are ALLOCS_NESTED_LEVELS levels,
// each with arenas of its own. A region's nested arenas are found through its arena
// (allocs_arena.h), which is made for that purpose if the region has no chunks.
//
// MARK: fine slots
//
// An allocator other than glibc's may hand out blocks that lie closer than the 32 bytes of a slot,
// or that do not start at a multiple of 16: jemalloc, mimalloc and tcmalloc have classes of 8 and
// 16 bytes. Such blocks have their slots in the third nested arena. They are allocations like those
// of the arena, and lie in no chunk. These blocks go there:
//
// - blocks that do not start at a multiple of 16;
// - blocks of at most ALLOCS_FINE_SIZE bytes whose allocator is not glibc's.
//
// Any other block starts at a multiple of 16 and owns the next such place, too. Of two such blocks
// in one slot's 32 bytes the lower would reach into the upper, so each has its slot of the arena to
// itself. In a fine slot, `granule` is the opposite of the block's granule in the arena (bit 4 of
// its address): so a head tells in which of the two slots of an address it was. No block is in both
// at once: see Fine.swift of the agent.
//
// MARK: the file
//
//   nested arena i of the file
//   +--------------------------+  0
//   | struct allocs_nested     |  region, summary levels 2 and 1, committed bits     (one page)
//   +--------------------------+  ALLOCS_NESTED_SUMMARY_OFFSET
//   | summary level 0          |  one bit for 512 bytes: 64 slots                    (four pages)
//   +--------------------------+  ALLOCS_NESTED_SLOTS_OFFSET
//   | slots                    |  2^23 × 8 bytes, holes where nothing was handed out
//   +--------------------------+
//   | spare                    |  one slot, for the tail of a block that starts in
//   |                          |  the last 8 bytes of the region                     (one page)
//   +--------------------------+  ALLOCS_NESTED_STRIDE
//
// The rules of an arena for bits, pages and readers hold here too. One rule is added: the call that
// frees a chunk erases all nested slots in the chunk before the chunk goes back. A reader believes
// a block with granule 0 only if a live chunk holds all of the block and is not younger than it, by
// more than the second that the clock may be wrong: see NestedIndex.swift of the agent.

#ifndef ALLOCS_NESTED_H
#define ALLOCS_NESTED_H

#include <stddef.h>
#include <stdint.h>

#include "allocs_arena.h"

#define ALLOCS_NESTED_LEVELS 2u
#define ALLOCS_NESTED_FINE 2u         // behind the levels: the nested arena of fine slots
#define ALLOCS_NESTED_CAPACITY 4096u  // nested arenas of all levels, and of fine slots
#define ALLOCS_FINE_SIZE 16u          // ALLOCS_GRANULE_SIZE: larger blocks reach beyond it
#define ALLOCS_NESTED_SHIFT 3u        // a slot for each 8 bytes
#define ALLOCS_NESTED_SUMMARY_SHIFT 9u
#define ALLOCS_NESTED_IN_CHUNK 0u
#define ALLOCS_NESTED_OUTSIDE 1u

enum {
  ALLOCS_NESTED_SLOTS = 1 << 23,
  ALLOCS_NESTED_SUMMARY_BITS = 1 << 17,
  ALLOCS_NESTED_LEVEL0_WORDS = ALLOCS_NESTED_SUMMARY_BITS / 64,
  ALLOCS_NESTED_LEVEL1_WORDS = ALLOCS_NESTED_LEVEL0_WORDS / 64,
  ALLOCS_NESTED_SLOT_PAGES = ALLOCS_NESTED_SLOTS / ALLOCS_SLOTS_PER_PAGE,
  ALLOCS_NESTED_SUMMARY_OFFSET = 4096,
  ALLOCS_NESTED_SLOTS_OFFSET = 5 * 4096,
  ALLOCS_NESTED_STRIDE = ALLOCS_NESTED_SLOTS_OFFSET + ALLOCS_NESTED_SLOTS * 8 + 4096
};

struct allocs_nested {
  uint64_t region;  // address >> ALLOCS_REGION_SHIFT
  uint64_t level2;  // levels 2 and 1 of the summary, as in an arena
  uint64_t level1[ALLOCS_NESTED_LEVEL1_WORDS];
  // Slot pages that memory is behind; the agent's own note.
  uint64_t committed[ALLOCS_NESTED_SLOT_PAGES / 64];
  uint64_t number;  // the number of this nested arena; the agent's own note
};

_Static_assert(ALLOCS_FINE_SIZE == ALLOCS_GRANULE_SIZE, "larger blocks reach the next granule");
_Static_assert(ALLOCS_NESTED_SLOTS == 1u << (ALLOCS_REGION_SHIFT - ALLOCS_NESTED_SHIFT), "slots of a nested arena");
_Static_assert(ALLOCS_NESTED_SUMMARY_BITS == 1u << (ALLOCS_REGION_SHIFT - ALLOCS_NESTED_SUMMARY_SHIFT), "summary bits");
_Static_assert(ALLOCS_SLOTS_PER_SUMMARY_BIT == 1u << (ALLOCS_NESTED_SUMMARY_SHIFT - ALLOCS_NESTED_SHIFT),
               "slots under a bit");
_Static_assert(ALLOCS_NESTED_LEVEL1_WORDS <= 64, "level 2 is one word");
_Static_assert(offsetof(struct allocs_nested, level2) == 8, "nested.level2");
_Static_assert(offsetof(struct allocs_nested, level1) == 16, "nested.level1");
_Static_assert(offsetof(struct allocs_nested, committed) == 272, "nested.committed");
_Static_assert(sizeof(struct allocs_nested) <= ALLOCS_NESTED_SUMMARY_OFFSET, "nested head fits its page");
_Static_assert(ALLOCS_NESTED_LEVEL0_WORDS * 8 == ALLOCS_NESTED_SLOTS_OFFSET - ALLOCS_NESTED_SUMMARY_OFFSET,
               "level 0 fills its pages");

// The granule of a block at `address` in a fine slot.
static inline uint32_t allocs_fine_granule(uint64_t address) { return allocs_granule_of_address(address) ^ 1; }
static inline uint32_t allocs_nested_slot_index(uint64_t address) {
  return (uint32_t)(address >> ALLOCS_NESTED_SHIFT) & (ALLOCS_NESTED_SLOTS - 1);
}
static inline uint32_t allocs_nested_summary_index(uint64_t address) {
  return (uint32_t)(address >> ALLOCS_NESTED_SUMMARY_SHIFT) & (ALLOCS_NESTED_SUMMARY_BITS - 1);
}

#endif
