// SPDX-License-Identifier: Apache-2.0
// The entries of libc's functions that change what is mapped. Each calls the function below first,
// with nothing held, and tells the agent afterwards. A call that fails or changes nothing is not
// told. errno stays as the call left it.
//
// The functions are declared here, without libc's header: mremap takes a fifth argument only with
// MREMAP_FIXED; here it is defined as if it always took one, and passes on whatever it got.
#include "allocs_agent.h"
#include "allocs_hooks.h"
#include "entry_arm.h"
#include "entry_x86.h"

enum { MAPS_SHARED = 1, MAPS_SHARED_VALIDATE = 3, MAPS_TYPE = 15, MAPS_ANONYMOUS = 0x20, REMAPS_LEAVING = 4 };
#define MAPPING_FAILED ((void *)-1)

static inline const struct allocs_terminal *below(void) {
  if (__builtin_expect(!allocs_terminal()->mmap, 0)) allocs_resolve_terminal();
  return allocs_terminal();
}

ALLOCS_FRAMED(void *, mmap, (void *address, size_t size, int protection, int flags, int descriptor, long offset)) {
  void *result = below()->mmap(address, size, protection, flags, descriptor, offset);
  if (result != MAPPING_FAILED) {
    uint64_t caller[] = {ALLOCS_CALLER};
    int type = flags & MAPS_TYPE;
    bool is_anonymous = flags & MAPS_ANONYMOUS;
    struct allocs_mapping_call call = {
        .return_slot = caller[0],
        .frame_pointer = caller[1],
        .function = ALLOCS_FUNCTION_MMAP,
        .protection = (uint32_t)protection,
        .flags = (is_anonymous ? ALLOCS_MAPPING_ANONYMOUS : 0) |
                 (type == MAPS_SHARED || type == MAPS_SHARED_VALIDATE ? ALLOCS_MAPPING_SHARED : 0),
        .descriptor = is_anonymous ? -1 : descriptor,
        .offset = is_anonymous ? 0 : (uint64_t)offset,
        .new_start = (uint64_t)(uintptr_t)result,
        .new_size = size,
    };
    allocs_hook_mapped(&call);
  }
  return result;
}
// mmap takes offsets of 64 bits, too.
extern ALLOCS_EXPORT __typeof__(mmap) mmap64 __attribute__((alias("mmap")));

ALLOCS_FRAMED(int, munmap, (void *address, size_t size)) {
  uint64_t number = allocs_mapping_number();
  int result = below()->munmap(address, size);
  if (result == 0) {
    uint64_t caller[] = {ALLOCS_CALLER};
    struct allocs_mapping_call call = {
        .number = number,
        .return_slot = caller[0],
        .frame_pointer = caller[1],
        .descriptor = -1,
        .old_start = (uint64_t)(uintptr_t)address,
        .old_size = size,
    };
    allocs_hook_mapped(&call);
  }
  return result;
}

ALLOCS_FRAMED(void *, mremap, (void *old, size_t old_size, size_t size, int flags, void *address)) {
  uint64_t number = allocs_mapping_number();
  void *result = below()->mremap(old, old_size, size, flags, address);
  if (result != MAPPING_FAILED) {
    uint64_t caller[] = {ALLOCS_CALLER};
    struct allocs_mapping_call call = {
        .number = number,
        .return_slot = caller[0],
        .frame_pointer = caller[1],
        .function = ALLOCS_FUNCTION_MREMAP,
        .descriptor = -1,
        .old_start = (uint64_t)(uintptr_t)old,
        // With MREMAP_DONTUNMAP the old range stays mapped, and keeps its entry.
        .old_size = flags & REMAPS_LEAVING ? 0 : old_size,
        .new_start = (uint64_t)(uintptr_t)result,
        .new_size = size,
        .source = (uint64_t)(uintptr_t)old,
    };
    allocs_hook_mapped(&call);
  }
  return result;
}

// The program break was `old` and is `new`.
static inline void moved_break(
    uint64_t number, uint64_t old, uint64_t new, enum allocs_function function, const uint64_t *caller) {
  struct allocs_mapping_call call = {
      .number = number,
      .return_slot = caller[0],
      .frame_pointer = caller[1],
      .function = new > old ? function : ALLOCS_FUNCTION_UNKNOWN,
      .protection = 3,  // PROT_READ | PROT_WRITE, as the kernel maps the break
      .flags = ALLOCS_MAPPING_ANONYMOUS | ALLOCS_MAPPING_BREAK,
      .descriptor = -1,
      .old_start = new < old ? new : 0,
      .old_size = new < old ? old - new : 0,
      .new_start = old,
      .new_size = new > old ? new - old : 0,
  };
  if (new != old) allocs_hook_mapped(&call);
}

ALLOCS_FRAMED(int, brk, (void *address)) {
  uint64_t number = allocs_mapping_number();
  void *old = below()->sbrk(0);
  int result = below()->brk(address);
  if (result == 0 && old != MAPPING_FAILED) {
    uint64_t caller[] = {ALLOCS_CALLER};
    moved_break(number, (uint64_t)(uintptr_t)old, (uint64_t)(uintptr_t)address, ALLOCS_FUNCTION_BRK, caller);
  }
  return result;
}

ALLOCS_FRAMED(void *, sbrk, (intptr_t increment)) {
  uint64_t number = allocs_mapping_number();
  void *old = below()->sbrk(increment);
  if (old != MAPPING_FAILED && increment != 0) {
    uint64_t caller[] = {ALLOCS_CALLER};
    uint64_t end = (uint64_t)(uintptr_t)old;
    moved_break(number, end, end + (uint64_t)increment, ALLOCS_FUNCTION_SBRK, caller);
  }
  return old;
}
