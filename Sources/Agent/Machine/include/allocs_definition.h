// Definitions of the malloc family behind the agent's, whose symbols lead to the agent: see Definitions.swift.

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
  // The modules whose code may be what the agent's hooks have called: the agent, and who defines malloc.
  struct allocs_address_range below[ALLOCS_MODULES_BELOW];
  // The C library as an allocator beside the one below the agent: its number once it is entered, and whether it is
  // being.
  uint32_t allocator;
  uint32_t is_entering;
  // What Terminal.free was, where it leads on to a definition that leads to the agent.
  void (*free_below)(void *);
  void (*seen_free)(void *);  // for finding that out
};
extern ALLOCS_HIDDEN struct allocs_definitions allocs_definitions_state;
static inline struct allocs_definitions *_Nonnull allocs_definitions(void) { return &allocs_definitions_state; }
static inline struct allocs_changed_symbol *_Nonnull allocs_changed_symbols(void) { return allocs_definitions_state.changed; }
static inline struct allocs_address_range *_Nonnull allocs_modules_below(void) { return allocs_definitions_state.below; }

// From the linker: where the agent's own code and data lie.
extern ALLOCS_HIDDEN const char __ehdr_start[];
extern ALLOCS_HIDDEN const char _end[];
static inline bool allocs_is_in_agent(uint64_t address) {
  return address - (uint64_t)(uintptr_t)__ehdr_start < (uint64_t)(_end - __ehdr_start);
}

// What takes the place of a definition that is not the function below the agent, and its record, which names that
// definition. By the index of the agent's function of that name, as in allocs_entry_point; null behind the last, and on
// machines for which there are none.
extern ALLOCS_HIDDEN void *_Nullable allocs_passing_stub(uint32_t index);
extern ALLOCS_HIDDEN struct allocs_hooked *_Nonnull allocs_passing_record(uint32_t index);

// Where a module lies, by its program headers, for before _dl_find_object knows. False if they cannot be had.
extern ALLOCS_HIDDEN bool allocs_module_range(const struct link_map *_Nonnull map, uint64_t *_Nonnull start, uint64_t *_Nonnull end);
// How the memory at `address` of a module is protected: PROT_READ and its like, as the file's headers say, RELRO
// included; 0 if they cannot be had.
extern ALLOCS_HIDDEN uint32_t allocs_protection(const struct link_map *_Nonnull map, uint64_t address);

// Writes a word that other threads may be reading.
static inline void allocs_store_word(uint64_t *_Nonnull word, uint64_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }
static inline void allocs_change_symbol(const ElfW(Sym) *_Nonnull symbol, uint64_t value) {
  allocs_store_word((uint64_t *)&((ElfW(Sym) *)symbol)->st_value, value);
}

#endif
