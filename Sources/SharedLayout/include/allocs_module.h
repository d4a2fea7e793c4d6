// SPDX-License-Identifier: Apache-2.0
// Modules: the executable and the shared objects whose code has allocated, so that a stack stays
// readable after dlclose and after the process is gone.
//
// `used` of the section is raised after an entry is complete (release). Two entries may cover the
// same addresses at different times. Once addresses may have changed hands, the node of a frame
// says in which of the modules the frame lies (allocs_context.h). For nodes from before that
// moment, the module is the entry without ALLOCS_MODULE_LATER that covers the address and was
// loaded at the record's time.
//
// An entry changes when its module is unloaded, and when the same file is loaded again at the same
// place: then the module has its old entry again. When the table is full, the entry of an unloaded
// module is given to another module: nodes with ids below `first_node` of the new entry belonged to
// the old one. A reader of an entry reads the `sequence` of the entry's allocs_module_file before
// and after.

#ifndef ALLOCS_MODULE_H
#define ALLOCS_MODULE_H

#include <stddef.h>
#include <stdint.h>

#define ALLOCS_BUILD_ID_SIZE 32u

enum allocs_module_state {
  ALLOCS_MODULE_NONE = 0,
  ALLOCS_MODULE_LOADED = 1,
  ALLOCS_MODULE_UNLOADED = 2
};

struct allocs_module {
  uint64_t start;           // lowest mapped address
  uint64_t end;             // one past the highest
  uint64_t bias;            // added to an ELF address, it gives the mapped address
  uint32_t load_ticks;
  uint32_t unload_ticks;    // meaningful in state UNLOADED
  uint32_t state;           // enum allocs_module_state
  uint32_t build_id_size;   // 0 if the module has none
  uint8_t build_id[ALLOCS_BUILD_ID_SIZE];
  uint64_t path;            // offset into the strings section, not zero terminated
  uint32_t path_size;       // bytes
  uint32_t flags;           // enum allocs_module_flag
  // For a module whose block of thread-local variables lies at one distance from the thread pointer
  // in all threads: that distance, which is added to the pointer, and the block's size in bytes.
  // The two numbers are 0 if the module has no such block, or the distance is not known.
  uint64_t thread_local_offset;
  uint64_t thread_local_size;
  uint64_t reserved[2];
};

enum allocs_module_flag {
  ALLOCS_MODULE_MAIN = 1,   // the executable
  ALLOCS_MODULE_VDSO = 2,   // mapped by the kernel: there is no file
  ALLOCS_MODULE_AGENT = 4,
  ALLOCS_MODULE_LATER = 8   // noted at a time when nodes said already in which module they lie
};

// Which file a module was mapped from, for modules whose build id does not tell. Entry i belongs to
// module i. The section may be missing.
struct allocs_module_file {
  // st_dev, st_ino, st_size and st_mtim of the file, as of `noted_ns`; all 0 if they are not known.
  uint64_t device;
  uint64_t inode;
  uint64_t size;
  uint64_t mtime_seconds;
  uint32_t mtime_nanoseconds;
  uint32_t flags;           // enum allocs_module_file_flag
  uint64_t noted_ns;        // CLOCK_REALTIME at which the file was asked for; 0 if it was not
  uint32_t first_node;      // nodes of the module have ids from here on
  uint32_t sequence;        // odd while the module's two entries are changed
  // The agent's own note: entry i holds the index of the i-th loaded module by address.
  uint32_t place;
  uint32_t path_room;       // bytes of the strings section that the path may take
};

enum allocs_module_file_flag {
  // When the module was noted, the path did not lead to the file any more.
  ALLOCS_MODULE_FILE_DELETED = 1,
  // The kernel gave the path. Without this flag the path is the dynamic linker's name of the
  // module.
  ALLOCS_MODULE_FILE_ASKED = 2
};

_Static_assert(offsetof(struct allocs_module, bias) == 16, "module.bias");
_Static_assert(offsetof(struct allocs_module, state) == 32, "module.state");
_Static_assert(offsetof(struct allocs_module, build_id) == 40, "module.build_id");
_Static_assert(offsetof(struct allocs_module, path) == 72, "module.path");
_Static_assert(offsetof(struct allocs_module, thread_local_offset) == 88, "module.thread_local_offset");
_Static_assert(sizeof(struct allocs_module) == 120, "module");
_Static_assert(offsetof(struct allocs_module_file, flags) == 36, "module_file.flags");
_Static_assert(offsetof(struct allocs_module_file, first_node) == 48, "module_file.first_node");
_Static_assert(sizeof(struct allocs_module_file) == 64, "module_file");

#endif
