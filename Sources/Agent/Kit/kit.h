// SPDX-License-Identifier: Apache-2.0
// The tables and functions that the kit's parts share. Names that begin with allocs_ are hidden in
// the executable.
#ifndef ALLOCS_KIT_H
#define ALLOCS_KIT_H

#include "allocs_agent.h"

// The functions of the kit, as indexes of its tables: ALLOCS_KIT_malloc and so on.
#define ALLOCS_KIT_FUNCTIONS(X) ALLOCS_HOOKED_FUNCTIONS(X) ALLOCS_PASSED_FUNCTIONS(X) ALLOCS_OLD_NAMES(X)
enum {
#define ALLOCS_KIT_NUMBER(name, ...) ALLOCS_KIT_##name,
  ALLOCS_KIT_FUNCTIONS(ALLOCS_KIT_NUMBER)
#undef ALLOCS_KIT_NUMBER
  ALLOCS_KIT_COUNT
};

// Where the entries lead (Entries.S): at first to allocs_decide.
extern ALLOCS_HIDDEN void *allocs_entries[ALLOCS_KIT_COUNT];
// The function that is linked into the executable under each name, an allocator's or Fallback.S;
// null if there is none.
extern ALLOCS_HIDDEN void *const allocs_linked[ALLOCS_KIT_COUNT];
// The functions that lead to the hooks (MallocFamily.c); null where there is nothing to record.
extern ALLOCS_HIDDEN void *const allocs_hooked_functions[ALLOCS_KIT_COUNT];

// Whether the process is to be indexed. The first call decides.
extern ALLOCS_HIDDEN bool allocs_kit_is_active(void);

#endif
