// SPDX-License-Identifier: Apache-2.0
// The agent's memory of the process that a child of fork finds wiped: where the segment is, and
// everything that writing to it needs. It lies in a mapping with MADV_WIPEONFORK.

#ifndef ALLOCS_SHARED_H
#define ALLOCS_SHARED_H

#include <stdint.h>

#include "SharedLayout.h"
#include "allocs_hidden.h"
#include "allocs_mapping_table.h"
#include "allocs_thread_block.h"

#define ALLOCS_INTERN_LEVELS 5u  // 2^12 to 2^28 cells

#define ALLOCS_LINKS_PER_CHUNK 0x40000u  // 2 MiB: a huge page
#define ALLOCS_LINK_CHUNKS (ALLOCS_CONTEXT_LIMIT / ALLOCS_LINKS_PER_CHUNK)

// The lists of an intern table, by number: the head of the list of the node with this number, and
// the id that follows this number in the list that it is in, each with its tag. 0: none.
struct allocs_intern_link {
  uint32_t first;
  uint32_t next;
};

// Finds the id of a node, or of a context: lists, and a hash table (InternTable.swift).
struct allocs_intern_table {
  struct allocs_intern_link *links[ALLOCS_LINK_CHUNKS];
  uint32_t *levels[ALLOCS_INTERN_LEVELS];
  uint64_t next_id;     // next id to hand out
  uint64_t committed;   // ids below are backed by memory
};

// A pool that takes back all its blocks at once, and a range of memory in which some of them lie.
struct allocs_pool_range {
  uint64_t start;
  uint64_t end;
  struct allocs_pool_range *next;
};
struct allocs_pool_entry {
  uint64_t address;
  struct allocs_pool_range *ranges;  // newest first, or as sorted
  uint32_t number;                   // 0: the entry is empty
  uint32_t group;
  uint32_t range_count;
  uint32_t range_limit;              // the count at which ranges are sorted and joined
};

// A consumer of events, as the agent last saw it.
struct allocs_lease {
  uint64_t owner;
  uint64_t beat;
  uint32_t since;  // the tick at which its beat was first seen
};

#define ALLOCS_NEWS_COUNT 64u
#define ALLOCS_NEWS_UNLOADED 0x80000000u

// Where the next entry of a section begins whose entries are mapped one by one
// (AnchoredSection.swift).
struct allocs_anchor {
  uint8_t *start;  // of a mapping of the entry's first bytes; null if there is none
  uint64_t size;   // of that mapping: a page, or the whole entry where it could not shrink back
  uint64_t count;  // entries made so far, each with a mapping of its own
};

struct allocs_shared {
  struct allocs_header *header;  // the segment; null: do not index
  uint8_t **regions;
  uint32_t lock;                 // futex: 0 free, 1 held, 2 held and waited for
  uint32_t arena_refusal;        // the tick at which memory for arenas was refused last (Shortage.swift); 0: never
  struct allocs_anchor arena_anchor;
  struct allocs_intern_table nodes;
  struct allocs_intern_table contexts;
  struct allocs_total *totals;              // of the contexts; null: totals are not kept
  uint64_t totals_committed;                // entries that are backed by memory
  uint32_t wants_totals;
  struct allocs_thread_block *ended_first;  // queue of ended threads, oldest first
  struct allocs_thread_block *ended_last;
  struct allocs_thread_chunk *chunk_first;  // newest first
  uint64_t chunk_used;                      // blocks of the newest chunk in use
  uint64_t former_threads;
  uint64_t strings_committed;
  uint64_t *frame_rules;                    // cache of unwinding rules
  uint32_t full_stacks;
  uint32_t depth_limit;
  uint32_t checks_stacks;                   // capture each stack twice, and compare
  uint32_t last_module;                     // the module in which the last address asked for was found
  uint32_t modules_unloaded;                // ever: addresses may have changed hands, so nodes name their modules
  uint32_t loaded_modules;                  // entries of loaded modules, in order of address (allocs_module_file.place)
  uint32_t next_forgotten;                  // the entry that is looked at first when one is needed for another module
  uint64_t root_device;                     // of the directory that was / at the start
  uint64_t root_inode;
  uint8_t **nested_regions[ALLOCS_NESTED_LEVELS];  // as regions, for suballocations; null until there are any
  struct allocs_anchor nested_anchor;
  uint32_t fine_refusal;                    // as arena_refusal, of fine slots, which take the most room
  struct allocs_pool_entry *pools;
  uint64_t pool_capacity;                   // a power of two
  uint64_t pool_count;
  struct allocs_pool_range *free_ranges;
  uint32_t last_pool_number;
  uint32_t pool_epoch;                      // resets so far
  struct allocs_anchor ring_anchor;
  uint64_t ring_records;                    // of each ring
  uint8_t *positions;                       // of the consumers, in the control file; null if there is none
  uint64_t wait_ns;                         // how long a thread waits for a lossless consumer that names no time itself
  uint64_t position_pages[ALLOCS_CONSUMER_COUNT];  // bit for each page of a consumer's positions that has memory
  uint32_t leases_ticks;                    // when the consumers' beats were last looked at
  uint32_t news_first;                      // of the events of modules that wait to be recorded
  uint32_t news_end;
  uint32_t news[ALLOCS_NEWS_COUNT];         // 1 + index of a module, with ALLOCS_NEWS_UNLOADED
  struct allocs_lease leases[ALLOCS_CONSUMER_COUNT];
  struct allocs_mapping_table *mappings;    // null until something was mapped
  uint64_t mapping_number;                  // of the last call that mapped something
  uint64_t directory_pages[ALLOCS_REGION_COUNT * 4 / ALLOCS_PAGE_SIZE / 64];
  struct allocs_thread_chunk *hand_chunk;   // where to look next for ended threads that nobody announces
  uint64_t hand_index;
  uint64_t unannounced_threads;             // ever
  uint64_t region_pages[((ALLOCS_REGION_LEVEL0_OFFSET + ALLOCS_REGION_LEVEL0_WORDS * 8) / ALLOCS_PAGE_SIZE + 63) / 64];
};

static inline void *_Nullable *_Nonnull allocs_link_chunks(struct allocs_intern_table *_Nonnull table) {
  return (void **)table->links;
}
static inline struct allocs_lease *_Nonnull allocs_leases(struct allocs_shared *_Nonnull shared) {
  return shared->leases;
}
static inline uint32_t *_Nonnull allocs_news(struct allocs_shared *_Nonnull shared) { return shared->news; }
static inline uint64_t *_Nonnull allocs_position_pages(struct allocs_shared *_Nonnull shared) {
  return shared->position_pages;
}

#endif
