// SPDX-License-Identifier: Apache-2.0
// The segment: one sparse file for each process, written by the agent inside it and mapped
// read-only by everyone else.
//
//   offset                                                entry   capacity without limits
//   0   +-----------------+--------------------------+
//       | header          | struct allocs_header     |    one page
//       +-----------------+--------------------------+
//       | modules         | struct allocs_module     |   120 B       65,536
//       +-----------------+--------------------------+
//       | strings         | bytes: paths             |     1 B   16,777,216
//       +-----------------+--------------------------+
//       | threads         | struct allocs_thread     |   128 B       32,768
//       +-----------------+--------------------------+
//       | former threads  | allocs_former_thread     |    64 B       32,768   a ring
//       +-----------------+--------------------------+
//       | stack nodes     | struct allocs_node       |    16 B   16,777,216
//       +-----------------+--------------------------+
//       | contexts        | uint64_t                 |     8 B   16,777,216
//       +-----------------+--------------------------+
//       | totals          | struct allocs_total      |    16 B   16,777,216
//       +-----------------+--------------------------+
//       | region bits     | level 1, then level 0    |     8 B       33,280   level 2: the header
//       +-----------------+--------------------------+
//       | arena directory | 1 + arena, or 0          |     4 B    2,097,152   one for each region
//       +-----------------+--------------------------+
//       | allocators      | struct allocs_allocator  |    64 B          256
//       +-----------------+--------------------------+
//       | mappings        | struct allocs_mapping    |    64 B       65,536
//       +-----------------+--------------------------+
//       | bypasses        | struct allocs_bypass     |    32 B          128
//       +-----------------+--------------------------+
//       | module files    | allocs_module_file       |    64 B       65,536
//       +-----------------+--------------------------+
//       | arenas          | see allocs_arena.h       |  16 MiB       16,384
//       +-----------------+--------------------------+
//       | nested arenas   | see allocs_nested.h      |  64 MiB        4,096   also of fine slots
//       +-----------------+--------------------------+
//       | event rings     | see allocs_ring.h        |   1 MiB        4,096   size: ALLOCS_RING
//       +-----------------+--------------------------+
//
// The picture shows x86-64, and the order in which the agent places the sections. The agent's order
// is the order of the list of sections in allocs_section.h, and the picture is compared with that
// list (SharedLayoutTests). A reader takes the sections' places from the header alone.
//
// Name: PID.STARTTIME.seg in the segment directory (STARTTIME: field 22 of /proc/PID/stat). The
// sections' places and capacities are in the header, so that a process with little address space
// can have smaller tables. The file gets its full size once, before the header's magic is written;
// pages are committed as they are used, and never given back.
//
// Threat: everything here may be hostile or cut short. A reader copies a number, checks the copy
// against the file's size, and uses the copy. `used` of a section is raised after the entries below
// it are complete (release). Nodes and contexts are complete before their ids are stored anywhere.
//
// Versions: what readers and agents of different layout versions do with each other's files stands
// in docs/layout-versions.md.

#ifndef ALLOCS_SEGMENT_H
#define ALLOCS_SEGMENT_H

#include <stddef.h>
#include <stdint.h>

#include "allocs_clock.h"
#include "allocs_counter.h"
#include "allocs_section.h"

#define ALLOCS_MAGIC 0x474553434F4C4C41ull  // "ALLOCSEG" in memory order
#define ALLOCS_LAYOUT_VERSION 3u
// The oldest version that readers of this one take: the version before. Processes whose agent was
// there before an upgrade stay readable.
#define ALLOCS_OLDEST_LAYOUT_VERSION 2u
// From this version on the header has the fields from `monotonic_offset` on, the lock among them.
#define ALLOCS_IDENTITY_VERSION 3u
// From this version on `programs_before` is where it is now.
#define ALLOCS_PROGRAMS_BEFORE_VERSION 2u
#define ALLOCS_COMMAND_SIZE 1024u

enum allocs_state {
  ALLOCS_STATE_STARTING = 0,
  ALLOCS_STATE_LIVE = 1,
  // The process ran its exit handlers; blocks that were freed after that may still be listed.
  ALLOCS_STATE_EXITED = 2
};

// No field of the header ever moves: a later version only adds fields at the end.
struct allocs_header {
  uint64_t magic;           // ALLOCS_MAGIC, stored last (release): until then half-written
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
  // Programs that had an index of this name before: the process has called exec so often since.
  uint32_t programs_before;
  char command[ALLOCS_COMMAND_SIZE];  // the start of /proc/PID/cmdline, zeros between arguments
  // Process id of the parent whose index this was up to the fork, 0 if there was none.
  uint32_t forked_from;
  uint32_t reserved;
  // The header of version 2 ends here: see ALLOCS_HEADER_SIZE_2. The fields below are of version 3.
  //
  // The nanoseconds that the process's time namespace adds to the machine's clocks
  // (time_namespaces(7)): to CLOCK_MONOTONIC, which all ticks and stamps of the segment count, and
  // to the time since boot, which `start_time` counts.
  int64_t monotonic_offset;
  int64_t boottime_offset;
  uint32_t identity;        // enum allocs_identity, bits
  uint32_t reserved_identity;
};

// Further facts of the process, one bit each.
enum allocs_identity {
  ALLOCS_IDENTITY_CLOCKS = 1,  // the two offsets above
  // The process holds a lock of the file's first byte (fcntl(2), F_OFD_SETLK, F_WRLCK), which lasts
  // as long as its mapping. So a file of which nobody holds the lock is written by nobody any more,
  // in whatever namespace the process was.
  ALLOCS_IDENTITY_LOCKED = 2
};

enum {
  ALLOCS_PROGRAMS_BEFORE_OFFSET = 1092 + ALLOCS_REGION_LEVEL2_WORDS * 8,
  ALLOCS_IDENTITY_OFFSET = 2144 + ALLOCS_REGION_LEVEL2_WORDS * 8,
  ALLOCS_HEADER_SIZE_2 = 2128 + ALLOCS_REGION_LEVEL2_WORDS * 8  // bytes, of version 2
};

// The layout versions that a reader of this version takes: this version and the one before, each
// with the bytes of its header. A new version is a row here; the oldest row goes.
#define ALLOCS_LAYOUT_VERSION_TABLE(ROW) \
  ROW(2, ALLOCS_HEADER_SIZE_2)           \
  ROW(3, sizeof(struct allocs_header))

// Bytes of the header in a segment of that version; 0 if a reader of this version does not take
// it.
static inline uint32_t allocs_header_size(uint32_t version) {
  switch (version) {
#define ALLOCS_LAYOUT_VERSION_CASE(number, size) \
  case number: return size;
    ALLOCS_LAYOUT_VERSION_TABLE(ALLOCS_LAYOUT_VERSION_CASE)
#undef ALLOCS_LAYOUT_VERSION_CASE
    default: return 0;
  }
}

enum allocs_flag {
  ALLOCS_FLAG_FULL_STACKS = 1  // contexts hold whole stacks; else one frame, the call site
};

_Static_assert(ALLOCS_OLDEST_LAYOUT_VERSION == ALLOCS_LAYOUT_VERSION - 1,
               "readers take the version before their own");
_Static_assert(offsetof(struct allocs_header, layout_version) == 8, "header.layout_version");
_Static_assert(offsetof(struct allocs_header, file_size) == 16, "header.file_size");
_Static_assert(offsetof(struct allocs_header, pid) == 24, "header.pid");
_Static_assert(offsetof(struct allocs_header, start_time) == 32, "header.start_time");
_Static_assert(offsetof(struct allocs_header, state) == 40, "header.state");
_Static_assert(offsetof(struct allocs_header, clock) == 48, "header.clock");
_Static_assert(offsetof(struct allocs_header, sections) == 64, "header.sections");
_Static_assert(offsetof(struct allocs_header, counters) == 576, "header.counters");
_Static_assert(offsetof(struct allocs_header, region_level2) == 1088, "header.region_level2");
_Static_assert(offsetof(struct allocs_header, command_size) == 1088 + ALLOCS_REGION_LEVEL2_WORDS * 8,
               "header.command_size");
_Static_assert(offsetof(struct allocs_header, programs_before) == ALLOCS_PROGRAMS_BEFORE_OFFSET,
               "header.programs_before");
_Static_assert(offsetof(struct allocs_header, command) == 1096 + ALLOCS_REGION_LEVEL2_WORDS * 8,
               "header.command");
_Static_assert(offsetof(struct allocs_header, identity) == ALLOCS_IDENTITY_OFFSET, "header.identity");
_Static_assert(offsetof(struct allocs_header, monotonic_offset) == ALLOCS_HEADER_SIZE_2,
               "the header of version 2 ends before the clock offsets");
_Static_assert(sizeof(struct allocs_header) <= ALLOCS_PAGE_SIZE, "header fits its page");

#endif
