// SPDX-License-Identifier: Apache-2.0
// The copy of its parent's wiped memory that a child of fork takes over, if the child is followed
// (ForkCopy.swift).

#ifndef ALLOCS_SAVED_STATE_H
#define ALLOCS_SAVED_STATE_H

#include <stddef.h>
#include <stdint.h>

#include "SharedLayout.h"
#include "allocs_hidden.h"
#include "allocs_shared.h"
#include "allocs_thread_block.h"

// One thread's block as of a fork.
struct allocs_saved_thread {
  struct allocs_thread_block *block;
  struct allocs_thread *entry;
  uint32_t slot;
  uint32_t tid;
};
// The saved state lies in the parent's private memory from the closing of the gate to its opening;
// a child finds its own copy.
struct allocs_saved_state {
  int64_t file;              // the child's segment, without a name yet
  int64_t directory;
  uint64_t size;             // of this struct with its threads
  int64_t monotonic_offset;  // of the parent's time namespace
  struct allocs_shared shared;
  struct allocs_thread_block own;          // the block of the thread that forks
  struct allocs_thread_block *own_block;   // where that block lies
  uint64_t thread_count;
  struct allocs_saved_thread threads[];
};
static inline struct allocs_saved_thread *_Nonnull allocs_saved_threads(struct allocs_saved_state *_Nonnull saved) {
  return saved->threads;
}

// Swift has no offsetof for members of C's structs.
enum {
  ALLOCS_ARENA_LEVEL2_OFFSET = offsetof(struct allocs_arena, level2),
  ALLOCS_ARENA_LEVEL1_OFFSET = offsetof(struct allocs_arena, level1),
  ALLOCS_ARENA_COMMITTED_OFFSET = offsetof(struct allocs_arena, committed),
  ALLOCS_ARENA_FINE_OFFSET = offsetof(struct allocs_arena, fine),
  ALLOCS_NESTED_LEVEL2_OFFSET = offsetof(struct allocs_nested, level2),
  ALLOCS_NESTED_LEVEL1_OFFSET = offsetof(struct allocs_nested, level1),
  ALLOCS_NESTED_COMMITTED_OFFSET = offsetof(struct allocs_nested, committed)
};

#endif
