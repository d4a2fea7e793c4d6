// SPDX-License-Identifier: Apache-2.0
// Mappings: who mapped which addresses, as far as the calls passed through libc's functions (mmap,
// munmap, mremap, brk, sbrk).
//
// An entry is a range of addresses that one call mapped, or the part of it that later calls left:
// an unmapping in the middle makes two entries of one. Live entries do not overlap, and are in no
// order. A free entry has `end` 0 and is used again. A range that was unmapped without libc (a
// thread's stack, a system call by hand) stays listed: which addresses of a running process are
// mapped is said by /proc/PID/maps, and an entry only says who mapped them.
//
// `sequence` is odd while an entry changes; a reader reads it before and after, as in
// allocs_thread.h. A change of several entries is not one change for the reader, who may see the
// first of them only. The counter MAPPINGS_CHANGED counts changes when they are complete.

#ifndef ALLOCS_MAPPING_H
#define ALLOCS_MAPPING_H

#include <stddef.h>
#include <stdint.h>

enum allocs_mapping_flag {
  ALLOCS_MAPPING_ANONYMOUS = 1,  // no file behind it
  ALLOCS_MAPPING_SHARED = 2,
  ALLOCS_MAPPING_BREAK = 4,      // by brk or sbrk
  ALLOCS_MAPPING_AGENT = 16,     // the agent's own memory, beside its module and this segment
  // mremap moved memory that was not known, so its protection and its file are not known either.
  ALLOCS_MAPPING_MOVED = 8
};

struct allocs_mapping {
  uint32_t sequence;
  uint32_t context;     // stack, thread and function of the call; 0 if not known
  uint64_t start;
  uint64_t end;         // one past the last; 0 if the entry is free
  uint64_t number;      // order of the calls, from 1
  uint32_t ticks;       // time of the call
  uint32_t protection;  // as the call asked for it: PROT_READ 1, PROT_WRITE 2, PROT_EXEC 4
  uint32_t flags;       // enum allocs_mapping_flag
  uint32_t path_size;   // bytes; 0 if there is no file, or its name is not known
  uint64_t offset;      // of `start` in the file, bytes
  uint64_t path;        // offset into the strings section, not zero terminated
};

#define ALLOCS_MAPPING_CAPACITY 65536u

_Static_assert(offsetof(struct allocs_mapping, start) == 8, "mapping.start");
_Static_assert(offsetof(struct allocs_mapping, ticks) == 32, "mapping.ticks");
_Static_assert(offsetof(struct allocs_mapping, offset) == 48, "mapping.offset");
_Static_assert(sizeof(struct allocs_mapping) == 64, "mapping");

#endif
