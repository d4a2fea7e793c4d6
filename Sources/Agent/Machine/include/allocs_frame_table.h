// SPDX-License-Identifier: Apache-2.0
// A table of frame description entries for a module that has no such table itself
// (FrameTables.swift).

#ifndef ALLOCS_FRAME_TABLE_H
#define ALLOCS_FRAME_TABLE_H

#include <stdint.h>

#include "allocs_hidden.h"

struct allocs_frame_place {
  uint32_t code;   // offset of the code from the module's start
  uint32_t entry;  // offset of its frame description entry
};
struct allocs_frame_table {
  uint64_t map;    // the module's struct link_map; 0: none
  uint64_t start;  // of the module
  uint64_t count;
  uint64_t capacity;
  struct allocs_frame_place *entries;
  uint32_t is_ready;
  uint32_t has_failed;  // there are entries, and no room for them
};
#define ALLOCS_FRAME_TABLE_COUNT 64u

#endif
