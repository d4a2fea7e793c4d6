// SPDX-License-Identifier: Apache-2.0
// The functions that the agent asks of the kit, the agent inside an executable (Sources/Agent/Kit).

#ifndef ALLOCS_INEXE_H
#define ALLOCS_INEXE_H
#ifdef ALLOCS_INEXE

#include <link.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "allocs_hidden.h"

// Linked into the executable, the functions below the hooks have names.
extern ALLOCS_HIDDEN void *_Nullable allocs_real_malloc(size_t) __asm__("__real_malloc");
extern ALLOCS_HIDDEN void allocs_real_free(void *_Nullable) __asm__("__real_free");
extern ALLOCS_HIDDEN void *_Nullable allocs_real_calloc(size_t, size_t) __asm__("__real_calloc");
extern ALLOCS_HIDDEN void *_Nullable allocs_real_realloc(void *_Nullable, size_t) __asm__("__real_realloc");
// The function of the malloc family that is linked into the executable under this name; null if
// libc's is to be looked for.
extern ALLOCS_HIDDEN void *_Nullable allocs_linked_definition(const char *_Nonnull name);
// Whether the malloc that is linked into the executable is glibc's.
extern ALLOCS_HIDDEN bool allocs_linked_is_libc(void);
// Whether the executable is linked statically. Then it is the only module, and
// allocs_find_in_static tells all that there is to tell of modules.
extern ALLOCS_HIDDEN bool allocs_is_static(void);
extern ALLOCS_HIDDEN bool allocs_find_in_static(
    uint64_t address, uint64_t *_Nonnull start, uint64_t *_Nonnull end, struct link_map *_Nullable *_Nonnull map,
    uint64_t *_Nonnull table);
// Expresses Terminal's functions that were not found through the functions that were found.
extern ALLOCS_HIDDEN void allocs_complete_terminal(void);

#endif
#endif
