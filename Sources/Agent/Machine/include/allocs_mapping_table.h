// SPDX-License-Identifier: Apache-2.0
// The agent's own memory of the table of mappings, and the record by which it learns of a call that
// changed the process's mappings (Mappings.swift).

#ifndef ALLOCS_MAPPING_TABLE_H
#define ALLOCS_MAPPING_TABLE_H

#include <stdint.h>

#include "SharedLayout.h"
#include "allocs_hidden.h"

// A file whose path is in the strings section. Device, inode and time of last change stand for the
// file.
struct allocs_mapped_file {
  uint64_t device;
  uint64_t inode;
  uint64_t seconds;
  uint64_t nanoseconds;
  uint64_t path;       // as in allocs_mapping
  uint64_t path_size;
};
#define ALLOCS_MAPPED_FILE_COUNT 256u

// A call that changed the process's mappings and has succeeded.
struct allocs_mapping_call {
  uint64_t number;        // the result of allocs_mapping_number before the call
  uint64_t return_slot;   // address of the call's return address
  uint64_t frame_pointer;
  uint32_t function;      // enum allocs_function; unknown for a call that only unmaps
  uint32_t protection;
  uint32_t flags;         // enum allocs_mapping_flag
  int32_t descriptor;     // of the file that was mapped, -1 if there is none
  uint64_t offset;
  uint64_t old_start;     // range where nothing is mapped any longer, empty if old_size is 0
  uint64_t old_size;
  uint64_t new_start;     // range that is mapped now, empty if new_size is 0
  uint64_t new_size;
  uint64_t source;        // where the memory at new_start was before, 0 if nowhere
};

struct allocs_mapping_table {
  uint32_t order[ALLOCS_MAPPING_CAPACITY];  // live entries, in the order of their addresses
  uint32_t free[ALLOCS_MAPPING_CAPACITY];   // a stack of entries to use again
  struct allocs_mapped_file files[ALLOCS_MAPPED_FILE_COUNT];
  uint64_t live_count;
  uint64_t free_count;
  uint64_t strings_used;                    // bytes of paths
};
static inline uint32_t *_Nonnull allocs_mapping_order(struct allocs_mapping_table *_Nonnull table) {
  return table->order;
}
static inline uint32_t *_Nonnull allocs_mapping_free(struct allocs_mapping_table *_Nonnull table) {
  return table->free;
}
static inline struct allocs_mapped_file *_Nonnull allocs_mapping_files(struct allocs_mapping_table *_Nonnull table) {
  return table->files;
}
// Moves entries, also to where some of them are. Not by memmove: a program may have another one in
// its place, and the one of ThreadSanitizer reports a race, as it does not see the agent's lock.
// Sixteen entries at a time, because Embedded Swift would move them one by one.
struct allocs_mapping_piece {
  uint32_t entries[16];
};
static inline void allocs_mapping_move(uint32_t *_Nonnull to, const uint32_t *_Nonnull from, uint64_t count) {
  struct allocs_mapping_piece piece;
  const uint64_t many = sizeof piece / sizeof *to;
  if (to < from) {
    for (; count >= many; count -= many, to += many, from += many) {
      __builtin_memcpy(&piece, from, sizeof piece);
      __builtin_memcpy(to, &piece, sizeof piece);
    }
    for (; count > 0; count--) {
      *to++ = *from++;
      __asm__ volatile("" ::: "memory");  // a compiler that knows the loop would call memmove
    }
  } else {
    for (; count >= many; count -= many) {
      __builtin_memcpy(&piece, from + count - many, sizeof piece);
      __builtin_memcpy(to + count - many, &piece, sizeof piece);
    }
    for (; count > 0; count--) {
      to[count - 1] = from[count - 1];
      __asm__ volatile("" ::: "memory");
    }
  }
}

#endif
