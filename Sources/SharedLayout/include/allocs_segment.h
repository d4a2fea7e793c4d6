// The segment: one sparse file for each process, written by the agent inside it and mapped read-only by everyone else.
//
//   offset                                             entry   default capacity
//   0   +-------------------------------------------+
//       | header         struct allocs_header       |          one page
//       +-------------------------------------------+
//       | modules        struct allocs_module       |  120 B   65,536
//       +-------------------------------------------+
//       | strings        bytes: paths               |    1 B   16 MiB
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
//       | bypasses       struct allocs_bypass       |   32 B   128
//       +-------------------------------------------+
//       | module files   struct allocs_module_file  |   64 B   65,536
//       +-------------------------------------------+
//       | arenas         see allocs_arena.h         |  16 MiB  16,384
//       +-------------------------------------------+
//       | nested arenas  see allocs_nested.h        |  64 MiB  4,096, also of fine slots
//       +-------------------------------------------+
//       | rings          see allocs_ring.h          |  1 MiB   4,096
//       +-------------------------------------------+
//
// The picture has the order in which the agent places sections (Agent/Core/Life/Segment.swift, layOut); a reader takes their
// places from the header alone. SharedLayoutTests compare the two.
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
#include "allocs_bypass.h"
#include "allocs_clock.h"
#include "allocs_context.h"
#include "allocs_counter.h"
#include "allocs_mapping.h"
#include "allocs_module.h"
#include "allocs_nested.h"
#include "allocs_thread.h"

#define ALLOCS_MAGIC 0x474553434F4C4C41ull  // "ALLOCSEG" in memory order
#define ALLOCS_LAYOUT_VERSION 3u
// A reader also takes segments of this version, written by agents that were there before an upgrade. They lack what
// version 3 added: sections (capacity 0), counters, and the fields at the header's end. All of it reads as zero, "not
// known".
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
  ALLOCS_SECTION_BYPASSES = 14,  // may be missing
  ALLOCS_SECTION_MODULE_FILES = 15,  // may be missing: capacity 0
  ALLOCS_SECTION_COUNT
};
#define ALLOCS_SECTION_SPACE 16u  // entries in the header's table; the rest are for later versions

// `used`: entries that a reader may read. For nodes and contexts, ids below it; for former threads, holders ever moved
// there (may exceed the capacity: the section is a ring); for region bits and the directory always the capacity. A
// section of capacity 0 is not there: the rings, where there is no room for any.
struct allocs_section {
  uint64_t offset;      // from the start of the file, a multiple of ALLOCS_PAGE_SIZE
  uint64_t entry_size;  // bytes
  uint64_t capacity;    // entries
  uint64_t used;
};

#define ALLOCS_MODULE_CAPACITY 65536u
#define ALLOCS_STRINGS_CAPACITY 16777216u
// Where address space or the size of files is limited.
#define ALLOCS_MODULE_CAPACITY_SMALL 4096u
#define ALLOCS_STRINGS_CAPACITY_SMALL 4194304u
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
  // What the process's time namespace adds to the machine's clocks, in nanoseconds (time_namespaces(7)): to
  // CLOCK_MONOTONIC, which all ticks and stamps of the segment count, and to the time since boot, which `start_time`
  // counts.
  int64_t monotonic_offset;
  int64_t boottime_offset;
  uint32_t identity;        // enum allocs_identity, bits
  uint32_t reserved_identity;
};

// What the header knows of who its process is.
enum allocs_identity {
  ALLOCS_IDENTITY_CLOCKS = 1,  // the two offsets above
  // The process holds a lock of the file's first byte (fcntl(2), F_OFD_SETLK, F_WRLCK), which lasts as long as its
  // mapping: who finds the file without that lock knows that nobody writes to it any more, in whatever namespace the
  // process was.
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
