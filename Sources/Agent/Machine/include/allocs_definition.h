// SPDX-License-Identifier: Apache-2.0
// Other definitions of the malloc family, behind the agent's, whose symbols were changed to lead to
// the agent (Definitions.swift).

#ifndef ALLOCS_DEFINITION_H
#define ALLOCS_DEFINITION_H

#include <link.h>
#include <stdbool.h>
#include <stdint.h>

#include "allocs_agent.h"
#include "allocs_family.h"

// A symbol that was changed, and the value that it had.
struct allocs_changed_symbol {
  const ElfW(Sym) *symbol;
  uint64_t value;
};
#define ALLOCS_CHANGED_SYMBOLS 128u

struct allocs_address_range {
  uint64_t start;
  uint64_t end;
};
#define ALLOCS_MODULES_BELOW 8u

struct allocs_definitions {
  uint32_t count;
  uint32_t below_count;
  struct allocs_changed_symbol changed[ALLOCS_CHANGED_SYMBOLS];
  // The modules whose code the agent's hooks may have called: the agent, and modules that define
  // malloc.
  struct allocs_address_range below[ALLOCS_MODULES_BELOW];
  // The C library as an allocator beside the one below the agent.
  uint32_t allocator;    // its number; 0 until it has an entry
  uint32_t is_entering;  // a thread is making the entry
  // The address that Terminal had for free, where the function at that address calls a free that
  // leads back to the agent.
  void (*free_below)(void *);
  void (*seen_free)(void *);  // while the agent finds out whether it does
};
extern ALLOCS_HIDDEN struct allocs_definitions allocs_definitions_state;
static inline struct allocs_definitions *_Nonnull allocs_definitions(void) { return &allocs_definitions_state; }
static inline struct allocs_changed_symbol *_Nonnull allocs_changed_symbols(void) {
  return allocs_definitions_state.changed;
}
static inline struct allocs_address_range *_Nonnull allocs_modules_below(void) {
  return allocs_definitions_state.below;
}

// The linker defines these two: the agent's own code and data lie between them.
extern ALLOCS_HIDDEN const char __ehdr_start[];
extern ALLOCS_HIDDEN const char _end[];
static inline bool allocs_is_in_agent(uint64_t address) {
  return address - (uint64_t)(uintptr_t)__ehdr_start < (uint64_t)(_end - __ehdr_start);
}

// The stub that takes the place of a definition that is not the function below the agent, and the
// stub's record, which names that definition. The index says which function of the agent's has
// the definition's name, as in allocs_entry_point; null behind the last, and on machines without
// stubs.
extern ALLOCS_HIDDEN void *_Nullable allocs_passing_stub(uint32_t index);
extern ALLOCS_HIDDEN struct allocs_hooked *_Nonnull allocs_passing_record(uint32_t index);

// Where a module lies, by its program headers: for the time before _dl_find_object knows. False if
// the headers are not found.
extern ALLOCS_HIDDEN bool allocs_module_range(
    const struct link_map *_Nonnull map, uint64_t *_Nonnull start, uint64_t *_Nonnull end);
// How the memory at `address` of a module is protected, RELRO included, by the headers of its file:
// PROT_READ, PROT_WRITE, PROT_EXEC; 0 if the headers are not found.
extern ALLOCS_HIDDEN uint32_t allocs_protection(const struct link_map *_Nonnull map, uint64_t address);

// Writes a word that other threads may be reading.
static inline void allocs_store_word(uint64_t *_Nonnull word, uint64_t value) {
  __atomic_store_n(word, value, __ATOMIC_RELEASE);
}
static inline void allocs_change_symbol(const ElfW(Sym) *_Nonnull symbol, uint64_t value) {
  allocs_store_word((uint64_t *)&((ElfW(Sym) *)symbol)->st_value, value);
}

#endif
