// SPDX-License-Identifier: Apache-2.0
// Sections: the tables that a segment consists of. One list says all of each: the rest is derived
// from it.
//
// A row of the list gives a section's number in the header's table, its enumerator, the words that
// people read, bytes of an entry, how many entries an agent without limits makes room for, how many
// a reader accepts at most, whether the section may be missing, and the layout version that added
// it. The rows stand in the order in which the agent places the sections in the file.
//
// The agent (Core/Life/Segment.swift), the reader (IndexReader's Geometry.swift) and the segments
// that tests make go through this list. The picture in allocs_segment.h is compared with it by
// SharedLayoutTests. To add a section is to add a row, at a number that no row has had, and a line
// of the picture.

#ifndef ALLOCS_SECTION_H
#define ALLOCS_SECTION_H

#include <stddef.h>
#include <stdint.h>

#include "allocs_allocator.h"
#include "allocs_arena.h"
#include "allocs_bypass.h"
#include "allocs_context.h"
#include "allocs_mapping.h"
#include "allocs_module.h"
#include "allocs_nested.h"
#include "allocs_ring.h"
#include "allocs_thread.h"
#include "allocs_total.h"

#define ALLOCS_SECTION_SPACE 16u  // entries in the header's table of sections

// `used`: entries that a reader may read. For nodes, contexts and totals, ids below it, of which
// some may not be given out yet: their entries are zero; for former threads, holders ever moved
// there (the number may exceed the capacity: that section is a ring).
struct allocs_section {
  uint64_t offset;      // from the start of the file, a multiple of ALLOCS_PAGE_SIZE
  uint64_t entry_size;  // bytes
  uint64_t capacity;    // entries
  uint64_t used;
};

// The region bits: bit r of level 0 says that region r has an arena. Levels 1 and 2 summarize the
// level below, 64 bits in one.
enum {
  ALLOCS_REGION_LEVEL0_WORDS = ALLOCS_REGION_COUNT / 64,
  ALLOCS_REGION_LEVEL1_WORDS = ALLOCS_REGION_LEVEL0_WORDS / 64,
  ALLOCS_REGION_LEVEL2_WORDS = ALLOCS_REGION_LEVEL1_WORDS / 64,
  // In the section, level 1 fills the first page (two pages where addresses have 48 bits), and
  // level 0 follows.
  ALLOCS_REGION_LEVEL0_OFFSET = ALLOCS_REGION_LEVEL1_WORDS * 8
};

#define ALLOCS_MODULE_CAPACITY 65536u
#define ALLOCS_STRINGS_CAPACITY 16777216u
// Where address space or the size of files is limited.
#define ALLOCS_MODULE_CAPACITY_SMALL 4096u
#define ALLOCS_STRINGS_CAPACITY_SMALL 4194304u
#define ALLOCS_THREAD_CAPACITY 32768u
#define ALLOCS_FORMER_THREAD_CAPACITY 32768u
#define ALLOCS_ARENA_CAPACITY 16384u

// Whether a section may be missing.
enum allocs_section_presence {
  ALLOCS_SECTION_REQUIRED = 0,  // every segment has it, with any capacity up to the reader's limit
  ALLOCS_SECTION_WHOLE,         // every segment has it, with the list's capacity, all of it in use
  ALLOCS_SECTION_OPTIONAL       // may be missing: then offset, entry size and capacity are 0
};

#define ALLOCS_ANY_CAPACITY UINT64_MAX
#define ALLOCS_ENTRY_SIZE_VARIES 0  // a ring's size is a setting (ALLOCS_RING); the header has it

// Number, enumerator, words, bytes of an entry, capacity, most entries that a reader accepts,
// presence, the version that added the section.
#define ALLOCS_SECTION_TABLE(ROW)                                                                  \
  ROW(0, MODULES, "modules", sizeof(struct allocs_module), ALLOCS_MODULE_CAPACITY,                 \
      ALLOCS_MODULE_CAPACITY, REQUIRED, 2)                                                         \
  ROW(1, STRINGS, "strings", 1, ALLOCS_STRINGS_CAPACITY, ALLOCS_STRINGS_CAPACITY, REQUIRED, 2)     \
  ROW(2, THREADS, "threads", sizeof(struct allocs_thread), ALLOCS_THREAD_CAPACITY,                 \
      ALLOCS_THREAD_UNKNOWN, REQUIRED, 2)                                                          \
  ROW(3, FORMER_THREADS, "former threads", sizeof(struct allocs_former_thread),                    \
      ALLOCS_FORMER_THREAD_CAPACITY, ALLOCS_FORMER_THREAD_CAPACITY, REQUIRED, 2)                   \
  ROW(4, NODES, "stack nodes", sizeof(struct allocs_node), ALLOCS_NODE_LIMIT, ALLOCS_NODE_LIMIT,   \
      REQUIRED, 2)                                                                                 \
  ROW(5, CONTEXTS, "contexts", sizeof(uint64_t), ALLOCS_CONTEXT_LIMIT, ALLOCS_CONTEXT_LIMIT,       \
      REQUIRED, 2)                                                                                 \
  ROW(11, TOTALS, "totals", sizeof(struct allocs_total), ALLOCS_CONTEXT_LIMIT,                       \
      ALLOCS_CONTEXT_LIMIT, OPTIONAL, 3)                                                           \
  ROW(6, REGION_BITS, "region bits", sizeof(uint64_t),                                             \
      ALLOCS_REGION_LEVEL1_WORDS + ALLOCS_REGION_LEVEL0_WORDS, ALLOCS_ANY_CAPACITY, WHOLE, 2)      \
  ROW(7, DIRECTORY, "arena directory", sizeof(uint32_t), ALLOCS_REGION_COUNT, ALLOCS_ANY_CAPACITY, \
      WHOLE, 2)                                                                                    \
  ROW(9, ALLOCATORS, "allocators", sizeof(struct allocs_allocator), ALLOCS_ALLOCATOR_CAPACITY,     \
      ALLOCS_ALLOCATOR_CAPACITY, REQUIRED, 2)                                                      \
  ROW(12, MAPPINGS, "mappings", sizeof(struct allocs_mapping), ALLOCS_MAPPING_CAPACITY,            \
      ALLOCS_MAPPING_CAPACITY, OPTIONAL, 2)                                                        \
  ROW(14, BYPASSES, "bypasses", sizeof(struct allocs_bypass), ALLOCS_BYPASS_CAPACITY,              \
      ALLOCS_BYPASS_CAPACITY, OPTIONAL, 3)                                                         \
  ROW(15, MODULE_FILES, "module files", sizeof(struct allocs_module_file), ALLOCS_MODULE_CAPACITY, \
      ALLOCS_MODULE_CAPACITY, OPTIONAL, 3)                                                         \
  ROW(8, ARENAS, "arenas", ALLOCS_ARENA_STRIDE, ALLOCS_ARENA_CAPACITY, ALLOCS_ARENA_CAPACITY,      \
      REQUIRED, 2)                                                                                 \
  ROW(10, NESTED, "nested arenas", ALLOCS_NESTED_STRIDE, ALLOCS_NESTED_CAPACITY,                   \
      ALLOCS_NESTED_CAPACITY, OPTIONAL, 2)                                                         \
  ROW(13, RINGS, "event rings", ALLOCS_ENTRY_SIZE_VARIES, ALLOCS_RING_COUNT, ALLOCS_RING_COUNT,    \
      OPTIONAL, 2)

enum allocs_section_id {
#define ALLOCS_SECTION_ENUMERATOR(number, id, words, entry, capacity, most, presence, since) \
  ALLOCS_SECTION_##id = number,
  ALLOCS_SECTION_TABLE(ALLOCS_SECTION_ENUMERATOR)
#undef ALLOCS_SECTION_ENUMERATOR
};

// Rows of the list, which are numbered in its order.
enum allocs_section_row {
#define ALLOCS_SECTION_ROW(number, id, words, entry, capacity, most, presence, since) \
  ALLOCS_SECTION_ROW_##id,
  ALLOCS_SECTION_TABLE(ALLOCS_SECTION_ROW)
#undef ALLOCS_SECTION_ROW
  ALLOCS_SECTION_ROWS
};

// The facts that the list has of a section, but for its words: without a pointer, so that the
// agent's copy needs no relocation.
struct allocs_section_facts {
  uint64_t entry_size;     // bytes; ALLOCS_ENTRY_SIZE_VARIES for the rings
  uint64_t capacity;       // entries that an agent without limits makes room for
  uint64_t most_accepted;  // entries
  uint32_t id;             // enum allocs_section_id
  uint32_t presence;       // enum allocs_section_presence
  uint32_t since;          // layout version
};

// `row`: below ALLOCS_SECTION_ROWS.
static inline struct allocs_section_facts allocs_section_facts(uint32_t row) {
  static const struct allocs_section_facts table[ALLOCS_SECTION_ROWS] = {
#define ALLOCS_SECTION_ENTRY(number, id, words, entry, capacity, most, presence, since) \
  {entry, capacity, most, number, ALLOCS_SECTION_##presence, since},
      ALLOCS_SECTION_TABLE(ALLOCS_SECTION_ENTRY)
#undef ALLOCS_SECTION_ENTRY
  };
  return table[row];
}

// The words of a section; empty for a number without a row. Of two rows with one number the
// compiler complains here.
static inline const char *allocs_section_words(uint32_t id) {
  switch (id) {
#define ALLOCS_SECTION_CASE(number, id, words, entry, capacity, most, presence, since) \
  case number: return words;
    ALLOCS_SECTION_TABLE(ALLOCS_SECTION_CASE)
#undef ALLOCS_SECTION_CASE
    default: return "";
  }
}

#define ALLOCS_SECTION_CHECK(number, id, words, entry, capacity, most, presence, since) \
  _Static_assert(number < ALLOCS_SECTION_SPACE, words " have a place in the header's table");
ALLOCS_SECTION_TABLE(ALLOCS_SECTION_CHECK)
#undef ALLOCS_SECTION_CHECK

_Static_assert(sizeof(struct allocs_section) == 32, "section");
_Static_assert(ALLOCS_REGION_LEVEL2_WORDS == 8 << (ALLOCS_ADDRESS_BITS - 47),
               "level 2 fits the header");
_Static_assert(ALLOCS_REGION_LEVEL0_OFFSET % ALLOCS_PAGE_SIZE == 0,
               "level 1 of the region bits fills whole pages");

#endif
