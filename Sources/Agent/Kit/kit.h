// What the kit's parts know of each other. Names that begin with allocs_ are hidden in the executable.
#ifndef ALLOCS_KIT_H
#define ALLOCS_KIT_H

#include "allocs_agent.h"
#include "names.h"

// Where the entries lead (Entries.S): at first to allocs_decide.
extern ALLOCS_HIDDEN void *allocs_entries[ALLOCS_KIT_COUNT];
// What is linked into the executable under each name, an allocator's or Fallback.S; null where nothing is.
extern ALLOCS_HIDDEN void *const allocs_linked[ALLOCS_KIT_COUNT];
// The functions that lead to the hooks (User.c).
extern ALLOCS_HIDDEN void *const allocs_hooked_functions[ALLOCS_KIT_COUNT];

// Whether the process is to be indexed. Decides, if that has not been done.
extern ALLOCS_HIDDEN bool allocs_kit_is_active(void);

#endif
