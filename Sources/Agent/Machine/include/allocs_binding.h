// SPDX-License-Identifier: Apache-2.0
// The memory that binding keeps of the modules whose functions were hooked at their entries
// (EntryPoints.swift, LaterModules.swift).

#ifndef ALLOCS_BINDING_H
#define ALLOCS_BINDING_H

#include <link.h>
#include <stdint.h>

#include "allocs_hidden.h"

// Room for code near a module with functions that are hooked at their entries: the jumps to the
// hooks, and the trampolines back.
struct allocs_gate_room {
  uint8_t *_Nullable start;          // null: the entry is free
  uint64_t size;                     // bytes
  struct link_map *_Nullable module; // null: the room stays for good
};
#define ALLOCS_GATED_MODULES 256u

// A module that was looked at when it was loaded: the three values by which it is known again.
struct allocs_seen_module {
  struct link_map *map;
  const void *dynamic;
  uint64_t bias;
};

#endif
