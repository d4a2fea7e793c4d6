// Modules: the executable and the shared objects whose code has allocated, so that a stack stays readable after
// dlclose and after the process is gone.
//
// Entries only grow; `used` of the section is raised after an entry is complete (release). A module is the one that
// held an address at a record's time if start <= pc < end and it was loaded by then and not yet unloaded: two entries may
// cover the same addresses at different times. Only `unload_ticks` and `state` change later.

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
  uint64_t bias;            // what is added to an ELF address to get the mapped one
  uint32_t load_ticks;
  uint32_t unload_ticks;    // meaningful in state UNLOADED
  uint32_t state;           // enum allocs_module_state
  uint32_t build_id_size;   // 0 if the module has none
  uint8_t build_id[ALLOCS_BUILD_ID_SIZE];
  uint64_t path;            // offset into the strings section, not zero terminated
  uint32_t path_size;       // bytes
  uint32_t flags;           // enum allocs_module_flag
  // Of a module with thread-local variables whose block lies at the same distance from each thread's thread pointer: that
  // distance, added to the pointer, and the block's size in bytes; 0 if there is none, or it is not known.
  uint64_t thread_local_offset;
  uint64_t thread_local_size;
  uint64_t reserved[2];
};

enum allocs_module_flag {
  ALLOCS_MODULE_MAIN = 1,   // the executable
  ALLOCS_MODULE_VDSO = 2,   // mapped by the kernel: there is no file
  ALLOCS_MODULE_AGENT = 4
};

_Static_assert(offsetof(struct allocs_module, bias) == 16, "module.bias");
_Static_assert(offsetof(struct allocs_module, state) == 32, "module.state");
_Static_assert(offsetof(struct allocs_module, build_id) == 40, "module.build_id");
_Static_assert(offsetof(struct allocs_module, path) == 72, "module.path");
_Static_assert(offsetof(struct allocs_module, thread_local_offset) == 88, "module.thread_local_offset");
_Static_assert(sizeof(struct allocs_module) == 120, "module");

#endif
