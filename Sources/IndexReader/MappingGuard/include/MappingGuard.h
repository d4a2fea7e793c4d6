// SPDX-License-Identifier: Apache-2.0
// Keeps a reader alive when a file is cut short, or its file system runs full, while it is mapped.
//
// Touching a page of a mapping that no longer has a page of the file behind it raises SIGBUS. The
// guard's handler puts zero pages in place of everything from there to the end of the mapping,
// notes that the mapping is broken, and lets the read go on. A SIGBUS anywhere else goes to the
// handler that was there before, or ends the process as it would have.
//
// - Entries are never freed, only reused, so the handler may walk them without a lock.
// - Everything to the mapping's end is replaced at once: page by page, a large mapping could need
//   more areas than the kernel grants a process (vm.max_map_count).

#ifndef MAPPING_GUARD_H
#define MAPPING_GUARD_H

#include <stdbool.h>
#include <stddef.h>

struct mapping_guard;

// Guards the mapping at `start`, a page address, of `length` bytes; `writable`: it may be written
// to as well. NULL if there is no memory for the entry. Any thread may call it; the first call
// installs the handler.
struct mapping_guard *mapping_guard_add(void *start, size_t length, bool writable);

// As mapping_guard_add, for one of several mappings of a file: when a page of this mapping is
// missing, the mapping of `whole` counts as broken, too. `whole` is removed after its parts.
struct mapping_guard *mapping_guard_add_part(void *start, size_t length, bool writable, struct mapping_guard *whole);

// To be called before the mapping is unmapped, when no thread reads it any more.
void mapping_guard_remove(struct mapping_guard *guard);

// Whether a page of the mapping was missing when it was read. Once true, it stays so. Any thread
// may call it.
bool mapping_guard_is_broken(const struct mapping_guard *guard);

#endif
