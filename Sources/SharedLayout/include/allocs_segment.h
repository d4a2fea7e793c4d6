// The segment: one sparse file for each process, written by the agent inside it and mapped read-only by everyone else.
//
//   offset                                             entry   default capacity
//   0   +-------------------------------------------+
//       | header         struct allocs_header       |          one page
//       +-------------------------------------------+
//       | modules        struct allocs_module       |  120 B   4,096
//       +-------------------------------------------+
//       | strings        bytes: paths               |    1 B   4 MiB
//       +-------------------------------------------+
//       | threads        struct allocs_thread       |  128 B   32,768
//       +-------------------------------------------+
//       | former threads struct allocs_former_thread|   64 B   32,768, a ring
//       +-------------------------------------------+
//       | nodes          struct allocs_node         |   16 B   2^24
//       +-------------------------------------------+
//       | contexts       uint64_t                   |    8 B   2^24
//       +-------------------------------------------+
//       | region bits    level 1, then level 0      |    8 B   512 + 32,768 words (level 2 is in the header)
//       +-------------------------------------------+
//       | directory      uint32_t: 1 + arena, or 0  |    4 B   2^21, one for each region
//       +-------------------------------------------+
//       | allocators     struct allocs_allocator    |   64 B   256
//       +-------------------------------------------+
//       | mappings       struct allocs_mapping      |   64 B   65,536
//       +-------------------------------------------+
//       | arenas         see allocs_arena.h         |  16 MiB  16,384
//       +-------------------------------------------+
//       | nested arenas  see allocs_nested.h        |  64 MiB  4,096
//       +-------------------------------------------+
//       | rings          see allocs_ring.h          |  1 MiB   4,096
//       +-------------------------------------------+
//
// The picture has the order in which the agent places sections (Agent/Core/Segment.swift, layOut); a reader takes their places
// from the header alone. SharedLayoutTests compare the two.
//
// Name: PID.STARTTIME.seg in the segment directory (STARTTIME: field 22 of /proc/PID/stat). The sections' places and
// capacities are in the header, so that a process with little address space can have smaller tables. The file gets its
// full size once, before the header's magic is written; pages are committed as they are used, never given back.
//
// Threat: everything here may be hostile or cut short. A reader copies a number, checks the copy against the file's
// size, and uses the copy. `used` of a section is raised after the entries below it are complete (release).

#ifndef ALLOCS_SEGMENT_H
#define ALLOCS_SEGMENT_H

#include <stddef.h>
#include <stdint.h>

#include "allocs_allocator.h"
#include "allocs_arena.h"
#include "allocs_clock.h"
#include "allocs_context.h"
#include "allocs_mapping.h"
#include "allocs_module.h"
#include "allocs_nested.h"
#include "allocs_thread.h"

#define ALLOCS_MAGIC 0x474553434F4C4C41ull  // "ALLOCSEG" in memory order
#define ALLOCS_LAYOUT_VERSION 3u
// A reader also takes segments of this version, written by agents that were there before an upgrade. They lack what version 3
// added: sections (capacity 0), counters, and the fields at the header's end. All of it reads as zero, "not known".
#define ALLOCS_OLDEST_LAYOUT_VERSION 2u
#define ALLOCS_COMMAND_SIZE 1024u

enum allocs_section_id {
  ALLOCS_SECTION_MODULES = 0,
  ALLOCS_SECTION_STRINGS,
  ALLOCS_SECTION_THREADS,
  ALLOCS_SECTION_FORMER_THREADS,
  ALLOCS_SECTION_NODES,
  ALLOCS_SECTION_CONTEXTS,
  ALLOCS_SECTION_REGION_BITS,
  ALLOCS_SECTION_DIRECTORY,
  ALLOCS_SECTION_ARENAS,
  ALLOCS_SECTION_ALLOCATORS,
  ALLOCS_SECTION_NESTED,
  ALLOCS_SECTION_MAPPINGS = 12,  // may be missing: capacity 0
  ALLOCS_SECTION_RINGS = 13,
  ALLOCS_SECTION_COUNT
};
#define ALLOCS_SECTION_SPACE 16u  // entries in the header's table; the rest are for later versions

// `used`: entries that a reader may read. For nodes and contexts, ids below it; for former threads, holders ever moved
// there (may exceed the capacity: the section is a ring); for region bits and the directory always the capacity. A section
// of capacity 0 is not there: the rings, where there is no room for any.
struct allocs_section {
  uint64_t offset;      // from the start of the file, a multiple of ALLOCS_PAGE_SIZE
  uint64_t entry_size;  // bytes
  uint64_t capacity;    // entries
  uint64_t used;
};

#define ALLOCS_MODULE_CAPACITY 4096u
#define ALLOCS_STRINGS_CAPACITY 4194304u
#define ALLOCS_THREAD_CAPACITY 32768u
#define ALLOCS_FORMER_THREAD_CAPACITY 32768u
#define ALLOCS_ARENA_CAPACITY 16384u

// The region bits: bit r of level 0 says that region r has an arena; level 1 and 2 summarize it 64 to one each.
enum {
  ALLOCS_REGION_LEVEL0_WORDS = ALLOCS_REGION_COUNT / 64,
  ALLOCS_REGION_LEVEL1_WORDS = ALLOCS_REGION_LEVEL0_WORDS / 64,
  ALLOCS_REGION_LEVEL2_WORDS = ALLOCS_REGION_LEVEL1_WORDS / 64,
  // In the section, level 1 fills the first page (two where addresses have 48 bits), level 0 follows.
  ALLOCS_REGION_LEVEL0_OFFSET = ALLOCS_REGION_LEVEL1_WORDS * 8
};

enum allocs_state {
  ALLOCS_STATE_STARTING = 0,
  ALLOCS_STATE_LIVE = 1,
  ALLOCS_STATE_EXITED = 2  // the process ran its exit handlers; blocks freed after that may still be listed
};

// What was not indexed, and why; and sums that the thread table no longer holds. Counts since the start.
enum allocs_counter {
  ALLOCS_COUNTER_NO_MEMORY = 0,      // blocks: the file system of the segment is full
  ALLOCS_COUNTER_ARENAS_EXHAUSTED,   // blocks: no arena left for their region
  ALLOCS_COUNTER_HIGH_ADDRESS,       // blocks: at or above 2^47
  ALLOCS_COUNTER_UNALIGNED,          // blocks: not at a multiple of 16
  ALLOCS_COUNTER_NESTED,             // blocks: allocated inside another hook, by the allocator itself or in a signal handler
  ALLOCS_COUNTER_EARLY,              // blocks: while another thread was starting the agent
  ALLOCS_COUNTER_UNKNOWN_FREES,      // frees of addresses at which no allocation was known
  ALLOCS_COUNTER_UNKNOWN_CONTEXTS,   // blocks: recorded, but without stack and thread, for want of ids or memory
  ALLOCS_COUNTER_UNKNOWN_THREADS,    // threads without an entry
  ALLOCS_COUNTER_MODULES_DROPPED,    // modules that found no place in the table
  ALLOCS_COUNTER_REALLOC_FAILED,     // failed reallocs: the old block was put back
  ALLOCS_COUNTER_ENDED_ALLOCATIONS,  // allocations of threads whose slot was reused: with the thread table, the total
  ALLOCS_COUNTER_ENDED_FREES,        // likewise their frees
  ALLOCS_COUNTER_STACKS_CHECKED,     // with ALLOCS_STACKS=check: stacks captured twice
  ALLOCS_COUNTER_STACKS_DIFFERING,   // of those, the ones that were not the same both times
  ALLOCS_COUNTER_ENTRIES_HOOKED,     // functions of an allocator that wins over the agent, hooked at their entry
  ALLOCS_COUNTER_ENTRIES_REFUSED,    // likewise, left alone: what they allocate or free is not seen
  ALLOCS_COUNTER_DECLARATIONS_REFUSED = 20,  // functions of ALLOCS_SUBALLOC that could not be hooked
  ALLOCS_COUNTER_SUBALLOCATIONS_LOST,        // blocks of pools: no room or memory, not at a multiple of 8, above 2^47
  ALLOCS_COUNTER_SUBALLOCATIONS_REFUSED,     // they overlap another allocator's blocks, or are no memory of the process
  ALLOCS_COUNTER_SUBALLOCATIONS_REPLACED,    // live ones that their own allocator handed out again
  ALLOCS_COUNTER_SUBALLOCATIONS_DROPPED,     // live ones whose chunk was freed or whose pool was reset
  ALLOCS_COUNTER_UNKNOWN_SUBFREES,           // frees of what their allocator has not handed out: nothing was erased
  ALLOCS_COUNTER_MAPPINGS_CHANGED = 26,  // changes of the table of mappings
  ALLOCS_COUNTER_MAPPINGS_DROPPED,       // mappings, or what was left of them, that found no place in the table
  ALLOCS_COUNTER_MAPPINGS_MISSED,        // calls in a signal handler that interrupted the agent's own work: not noted
  ALLOCS_COUNTER_MAPPINGS_UNKNOWN,       // mappings that are noted, but without stack and thread
  ALLOCS_COUNTER_EVENTS_UNRECORDED = 32,  // events of threads that found no ring, or no memory for one
  ALLOCS_COUNTER_EVENTS_NESTED,      // events in a signal handler that interrupted the recording of another
  ALLOCS_COUNTER_EVENTS_WAITS,       // times that a thread waited for a lossless consumer
  ALLOCS_COUNTER_EVENTS_OVERRUN,     // records overwritten though a lossless consumer had not taken them, after such a wait
  ALLOCS_COUNTER_CONSUMERS_EXPELLED, // consumers of events whose beat stopped
  ALLOCS_COUNTER_FORKS_UNFOLLOWED = 44,  // children of fork that were to be followed and could not be
  ALLOCS_COUNTER_COUNT
};
#define ALLOCS_COUNTER_SPACE 64u

// Empty for a number that is not in use.
static inline const char *allocs_counter_name(uint32_t counter) {
  static const char *const names[ALLOCS_COUNTER_COUNT] = {
      "no_memory", "arenas_exhausted", "high_address",    "unaligned",       "nested",        "early",
      "unknown_frees", "unknown_contexts", "unknown_threads", "modules_dropped", "realloc_failed",
      "ended_allocations", "ended_frees", "stacks_checked", "stacks_differing", "entries_hooked", "entries_refused",
      [ALLOCS_COUNTER_DECLARATIONS_REFUSED] = "declarations_refused", "suballocations_lost", "suballocations_refused",
      "suballocations_replaced", "suballocations_dropped", "unknown_subfrees",
      [ALLOCS_COUNTER_MAPPINGS_CHANGED] = "mappings_changed", "mappings_dropped", "mappings_missed", "mappings_without_context",
      [ALLOCS_COUNTER_EVENTS_UNRECORDED] = "events_unrecorded", "events_nested", "events_waits", "events_overrun", "consumers_expelled",
      [ALLOCS_COUNTER_FORKS_UNFOLLOWED] = "forks_unfollowed"};
  // Numbers that are set aside have no name.
  return counter < ALLOCS_COUNTER_COUNT && names[counter] ? names[counter] : "";
}

struct allocs_header {
  uint64_t magic;           // ALLOCS_MAGIC, stored last (release): until then the segment is half-written
  uint32_t layout_version;
  uint32_t header_size;     // sizeof(struct allocs_header)
  uint64_t file_size;
  uint32_t pid;
  uint32_t uid;
  uint64_t start_time;      // clock ticks since boot, field 22 of /proc/PID/stat
  uint32_t state;           // enum allocs_state
  uint32_t flags;           // enum allocs_flag
  struct allocs_clock_start clock;
  struct allocs_section sections[ALLOCS_SECTION_SPACE];
  uint64_t counters[ALLOCS_COUNTER_SPACE];
  uint64_t region_level2[ALLOCS_REGION_LEVEL2_WORDS];
  uint32_t command_size;
  uint32_t programs_before;                            // that had an index of this name: the process has called exec so often since
  char command[ALLOCS_COMMAND_SIZE];                   // the start of /proc/PID/cmdline, zeros between arguments
  uint32_t forked_from;                                // process id of the parent whose index this was up to the fork, 0 if none
  // The header of version 2 ends here: see ALLOCS_HEADER_SIZE_2.
  uint32_t reserved;
  // What the process's time namespace adds to the machine's clocks, in nanoseconds (time_namespaces(7)): to CLOCK_MONOTONIC,
  // which all ticks and stamps of the segment count, and to the time since boot, which `start_time` counts.
  int64_t monotonic_offset;
  int64_t boottime_offset;
  uint32_t identity;        // enum allocs_identity, bits
  uint32_t reserved_identity;
};

// What the header knows of who its process is.
enum allocs_identity {
  ALLOCS_IDENTITY_CLOCKS = 1,  // the two offsets above
  // The process holds a lock of the file's first byte (fcntl(2), F_OFD_SETLK, F_WRLCK), which lasts as long as its mapping: who
  // finds the file without that lock knows that nobody writes to it any more, in whatever namespace the process was.
  ALLOCS_IDENTITY_LOCKED = 2
};

enum {
  ALLOCS_PROGRAMS_BEFORE_OFFSET = 1092 + ALLOCS_REGION_LEVEL2_WORDS * 8,
  ALLOCS_IDENTITY_OFFSET = 2144 + ALLOCS_REGION_LEVEL2_WORDS * 8,
  ALLOCS_HEADER_SIZE_2 = 2128 + ALLOCS_REGION_LEVEL2_WORDS * 8  // bytes, of version 2
};

enum allocs_flag {
  ALLOCS_FLAG_FULL_STACKS = 1  // contexts hold whole stacks; else one frame, the call site
};

_Static_assert(sizeof(struct allocs_section) == 32, "section");
_Static_assert(ALLOCS_SECTION_COUNT <= ALLOCS_SECTION_SPACE, "sections fit");
_Static_assert(ALLOCS_COUNTER_COUNT <= ALLOCS_COUNTER_SPACE, "counters fit");
_Static_assert(ALLOCS_REGION_LEVEL2_WORDS == 8 << (ALLOCS_ADDRESS_BITS - 47), "level 2 fits the header");
_Static_assert(offsetof(struct allocs_header, layout_version) == 8, "header.layout_version");
_Static_assert(offsetof(struct allocs_header, file_size) == 16, "header.file_size");
_Static_assert(offsetof(struct allocs_header, pid) == 24, "header.pid");
_Static_assert(offsetof(struct allocs_header, start_time) == 32, "header.start_time");
_Static_assert(offsetof(struct allocs_header, state) == 40, "header.state");
_Static_assert(offsetof(struct allocs_header, clock) == 48, "header.clock");
_Static_assert(offsetof(struct allocs_header, sections) == 64, "header.sections");
_Static_assert(offsetof(struct allocs_header, counters) == 576, "header.counters");
_Static_assert(offsetof(struct allocs_header, region_level2) == 1088, "header.region_level2");
_Static_assert(offsetof(struct allocs_header, command_size) == 1088 + ALLOCS_REGION_LEVEL2_WORDS * 8, "header.command_size");
_Static_assert(offsetof(struct allocs_header, programs_before) == ALLOCS_PROGRAMS_BEFORE_OFFSET, "header.programs_before");
_Static_assert(offsetof(struct allocs_header, command) == 1096 + ALLOCS_REGION_LEVEL2_WORDS * 8, "header.command");
_Static_assert(offsetof(struct allocs_header, identity) == ALLOCS_IDENTITY_OFFSET, "header.identity");
_Static_assert(offsetof(struct allocs_header, reserved) == ALLOCS_HEADER_SIZE_2 - 4, "header.reserved");
_Static_assert(sizeof(struct allocs_header) <= ALLOCS_PAGE_SIZE, "header fits its page");

_Static_assert(ALLOCS_REGION_LEVEL0_OFFSET % ALLOCS_PAGE_SIZE == 0, "level 1 of the region bits fills whole pages");

#endif
