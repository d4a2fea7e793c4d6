// SPDX-License-Identifier: Apache-2.0
// Counters: how much was not indexed or not recorded, and why; and sums that no other table holds
// any longer. Each counter counts since the start of the process, in a word of the header that
// never changes its place.
//
// One table says all of a counter: its number, its name in JSON, what it counts, and its words in
// `info`. Everything else is derived from the table: which counters are losses of blocks or of
// events (IndexReader's Counters.swift), and the sentences (Answers). To add a counter is to add a
// row, at any number without a row.

#ifndef ALLOCS_COUNTER_H
#define ALLOCS_COUNTER_H

#include <stddef.h>
#include <stdint.h>

// The kinds of counters. IndexCounter.Kind of IndexReader has a case for each but the first.
enum allocs_counter_kind {
  ALLOCS_COUNTS_NOTHING = 0,    // the number is not in use
  // Blocks that were allocated and are not in the index; they make no event either.
  ALLOCS_COUNTS_LOST_BLOCKS,
  // Blocks that were given back and whose allocation was not seen; they make no event either.
  ALLOCS_COUNTS_UNKNOWN_FREES,
  ALLOCS_COUNTS_LOST_EVENTS,    // events that are in no ring
  ALLOCS_COUNTS_FAULTS,         // anything else that is missing, refused or wrong
  ALLOCS_COUNTS_FIGURES,        // how often something happened; nothing is missing
  // How often something happened, shown as a part of another figure or not at all.
  ALLOCS_COUNTS_SUMS,
  // Blocks that are not in the index because they were allocated inside a call of the allocator;
  // they are mostly the allocator's own.
  ALLOCS_COUNTS_INNER_BLOCKS
};

// Number, enumerator, name in JSON, kind; then the words: the thing that is counted, in the
// singular, and the words that follow it in a sentence.
#define ALLOCS_COUNTER_TABLE(ROW)                                                                                      \
  ROW(0, NO_MEMORY, "no_memory", LOST_BLOCKS, "block", "not indexed: the segment's file system was full")             \
  ROW(1, ARENAS_EXHAUSTED, "arenas_exhausted", LOST_BLOCKS, "block", "not indexed: no arena was left")                \
  ROW(2, HIGH_ADDRESS, "high_address", LOST_BLOCKS, "block",                                                          \
      "not indexed: above the addresses that the index covers")                                                       \
  ROW(3, UNALIGNED, "unaligned", LOST_BLOCKS, "block", "not indexed: not aligned to 8 bytes")                         \
  ROW(4, NESTED, "nested", INNER_BLOCKS, "block", "not indexed: allocated inside another allocation call")             \
  ROW(5, EARLY, "early", LOST_BLOCKS, "block", "not indexed: allocated while the agent started")                      \
  ROW(6, UNKNOWN_FREES, "unknown_frees", UNKNOWN_FREES, "free", "where no block was known")                           \
  ROW(7, UNKNOWN_CONTEXTS, "unknown_contexts", FAULTS, "block", "indexed without call site and thread")               \
  ROW(8, UNKNOWN_THREADS, "unknown_threads", FAULTS, "thread", "without an entry")                                    \
  ROW(9, MODULES_DROPPED, "modules_dropped", FAULTS, "module", "without an entry")                                    \
  ROW(10, REALLOC_FAILED, "realloc_failed", FIGURES, "realloc", "failed, the old block stays")                        \
  ROW(11, ENDED_ALLOCATIONS, "ended_allocations", SUMS, "allocation", "of threads whose entry was used again")        \
  ROW(12, ENDED_FREES, "ended_frees", SUMS, "free", "of threads whose entry was used again")                          \
  ROW(13, STACKS_CHECKED, "stacks_checked", FIGURES, "stack", "captured a second time, to compare")                   \
  ROW(14, STACKS_DIFFERING, "stacks_differing", FAULTS, "stack", "differed the second time: a fault of the agent")    \
  ROW(15, ENTRIES_HOOKED, "entries_hooked", FIGURES, "function", "of allocators or pools hooked at the entry")        \
  ROW(16, ENTRIES_REFUSED, "entries_refused", FAULTS, "function",                                                     \
      "of the program's own allocator not hooked: ALLOCS_VERBOSE=1 says why")                                         \
  ROW(20, DECLARATIONS_REFUSED, "declarations_refused", FAULTS, "declaration",                                        \
      "of ALLOCS_SUBALLOC refused: ALLOCS_VERBOSE=1 says why")                                                        \
  ROW(21, SUBALLOCATIONS_LOST, "suballocations_lost", FAULTS, "block",                                                \
      "of pools not recorded: no room, or not at a multiple of 8")                                                    \
  ROW(22, SUBALLOCATIONS_REFUSED, "suballocations_refused", FAULTS, "block",                                          \
      "of pools refused: in no memory, or over another allocator's blocks")                                           \
  ROW(23, SUBALLOCATIONS_REPLACED, "suballocations_replaced", FAULTS, "block",                                        \
      "of pools handed out again without having been freed")                                                          \
  ROW(24, SUBALLOCATIONS_DROPPED, "suballocations_dropped", FIGURES, "block",                                          \
      "of pools gone with their chunk or pool")                                                                        \
  ROW(25, UNKNOWN_SUBFREES, "unknown_subfrees", FAULTS, "free",                                                       \
      "of what the pool is not known to have handed out")                                                             \
  ROW(26, MAPPINGS_CHANGED, "mappings_changed", SUMS, "change", "of the table of mappings")                           \
  ROW(27, MAPPINGS_DROPPED, "mappings_dropped", FAULTS, "mapping", "without an entry")                                \
  ROW(28, MAPPINGS_MISSED, "mappings_missed", FAULTS, "call", "of mmap and its like not noted")                       \
  /* The only name that differs from its enumerator: the contexts of these mappings are unknown. */                   \
  ROW(29, MAPPINGS_UNKNOWN, "mappings_without_context", FAULTS, "mapping", "noted without call stack and thread")     \
  ROW(32, EVENTS_UNRECORDED, "events_unrecorded", LOST_EVENTS, "event",                                               \
      "not recorded: there was no ring for the thread, or no memory for one")                                         \
  ROW(33, EVENTS_NESTED, "events_nested", LOST_EVENTS, "event",                                                       \
      "not recorded: a signal handler interrupted the recording of another")                                          \
  ROW(34, EVENTS_WAITS, "events_waits", FIGURES, "wait", "of threads for a lossless consumer of events")         \
  ROW(35, EVENTS_OVERRUN, "events_overrun", FAULTS, "event",                                                          \
      "overwritten before a lossless consumer had taken them, after such a wait")                                     \
  ROW(36, CONSUMERS_EXPELLED, "consumers_expelled", FAULTS, "consumer", "of events sent away: no sign of life came") \
  ROW(44, FORKS_UNFOLLOWED, "forks_unfollowed", FAULTS, "fork", "whose child was to be followed and could not be")  \
  ROW(48, BYPASSES_DROPPED, "bypasses_dropped", FAULTS, "function",                                                   \
      "not hooked, for whose name the table had no room")                                                             \
  ROW(49, HEAPS_DESTROYED, "heaps_destroyed", FAULTS, "heap",                                                         \
      "destroyed at once: what of its blocks was not known stays listed")                                             \
  ROW(51, SUMS_MOVED, "sums_moved", SUMS, "step", "of adding up what ended threads did; odd while one is being taken") \
  ROW(52, UNENTERED, "unentered", LOST_BLOCKS, "block",                                                                \
      "not indexed: allocated by threads that there was no memory for")                                                \
  ROW(55, MODULES_CHANGED, "modules_changed", SUMS, "change", "of the table of modules")                              \
  ROW(56, MODULES_FORGOTTEN, "modules_forgotten", FAULTS, "module",                                                   \
      "unloaded and forgotten: the table was full, and others needed the entries")                                    \
  ROW(59, UNBOUNDED_STACKS, "unbounded_stacks", FAULTS, "thread", "whose stack was not found: call sites only")        \
  ROW(60, CALLS_LEFT, "calls_left", FIGURES, "call", "of the allocator left by a jump out of it")                     \
  ROW(61, BLOCKS_LEFT, "blocks_left", LOST_BLOCKS, "block", "not indexed: a jump left the realloc of it")             \
  ROW(62, SETTINGS_REFUSED, "settings_refused", FAULTS, "setting",                                                     \
      "of the environment left out: ALLOCS_VERBOSE=1 says which, and why")                                             \
  ROW(63, ANCHORS_UNSHRUNK, "anchors_unshrunk", FAULTS, "mapping",                                                    \
      "of the index left larger than it has memory for: the kernel refused to shrink it")

enum allocs_counter {
#define ALLOCS_COUNTER_ENUMERATOR(number, enumerator, name, kind, noun, words) ALLOCS_COUNTER_##enumerator = number,
  ALLOCS_COUNTER_TABLE(ALLOCS_COUNTER_ENUMERATOR)
#undef ALLOCS_COUNTER_ENUMERATOR
  ALLOCS_COUNTER_COUNT = 64  // numbers; a number without a row was never used
};
#define ALLOCS_COUNTER_SPACE 64u  // in the header

struct allocs_counter_facts {
  const char *name;
  const char *noun;
  const char *words;
  uint32_t kind;  // enum allocs_counter_kind
};

// Empty strings for a number that is not in use.
static inline struct allocs_counter_facts allocs_counter_facts(uint32_t counter) {
  static const struct allocs_counter_facts table[ALLOCS_COUNTER_COUNT] = {
#define ALLOCS_COUNTER_ENTRY(number, enumerator, name, kind, noun, words) \
  [number] = {name, noun, words, ALLOCS_COUNTS_##kind},
      ALLOCS_COUNTER_TABLE(ALLOCS_COUNTER_ENTRY)
#undef ALLOCS_COUNTER_ENTRY
  };
  const struct allocs_counter_facts none = {"", "", "", ALLOCS_COUNTS_NOTHING};
  return counter < ALLOCS_COUNTER_COUNT && table[counter].name ? table[counter] : none;
}

// Empty for a number that is not in use.
static inline const char *allocs_counter_name(uint32_t counter) { return allocs_counter_facts(counter).name; }

_Static_assert(ALLOCS_COUNTER_COUNT <= ALLOCS_COUNTER_SPACE, "counters fit");

#endif
