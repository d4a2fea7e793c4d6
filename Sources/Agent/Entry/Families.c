// User, for allocators beside the one below the agent: see allocs_family.h. The table of names, and the stubs that take a
// hooked function's place.
#include "allocs_family.h"
#include "allocs_hooks.h"
#include "entry_arm.h"
#include "entry_x86.h"

#include <string.h>

struct allocs_hooked *allocs_next_hooked(const struct allocs_signature *signature, uint32_t allocator) {
  static struct allocs_hooked functions[ALLOCS_HOOKED_CAPACITY];
  static uint32_t count;  // only the constructor hooks functions
  if (count == ALLOCS_HOOKED_CAPACITY) return 0;
  functions[count] = (struct allocs_hooked){.signature = signature, .allocator = allocator};
  return &functions[count++];
}

// MARK: families

enum {
  OWN,        // names without a prefix
  RJEM,       // jemalloc as Rust's crates build it
  JE,         // jemalloc, --with-jemalloc-prefix=je_
  MI,
  TC,
  DL,         // dlmalloc with USE_DL_PREFIX
  ALL = 1 << OWN | 1 << RJEM | 1 << JE | 1 << MI | 1 << TC | 1 << DL,
  JEMALLOC = 1 << OWN | 1 << RJEM | 1 << JE,
};

static const struct allocs_family families[ALLOCS_FAMILY_COUNT] = {
    [OWN] = {"", ""}, [RJEM] = {"_rjem_", "jemalloc"}, [JE] = {"je_", "jemalloc"},
    [MI] = {"mi_", "mimalloc"}, [TC] = {"tc_", "tcmalloc"}, [DL] = {"dl", "dlmalloc"},
};
const struct allocs_family *allocs_family(uint32_t index) { return &families[index]; }

// MARK: names

#define ALLOCATES(name, families, function, ...) {name, families, ALLOCS_ALLOCATE, ALLOCS_FUNCTION_##function, __VA_ARGS__}
#define RESIZES(name, families, function, ...) {name, families, ALLOCS_RESIZE, ALLOCS_FUNCTION_##function, .block = 1, __VA_ARGS__}
#define FREES(name, families, ...) {name, families, ALLOCS_FREE, 0, .block = 1, __VA_ARGS__}

static const struct allocs_signature signatures[] = {
    // Of the C library, ISO C and POSIX.
    ALLOCATES("malloc", ALL, MALLOC, .size = 1),
    ALLOCATES("calloc", ALL, CALLOC, .count = 1, .size = 2),
    RESIZES("realloc", ALL, REALLOC, .size = 2),
    RESIZES("reallocarray", ALL, REALLOCARRAY, .count = 2, .size = 3),
    ALLOCATES("memalign", ALL, MEMALIGN, .alignment = 1, .size = 2),
    ALLOCATES("aligned_alloc", ALL, ALIGNED_ALLOC, .alignment = 1, .size = 2),
    ALLOCATES("posix_memalign", ALL, POSIX_MEMALIGN, .result = 1, .alignment = 2, .size = 3),
    ALLOCATES("valloc", ALL, VALLOC, .size = 1),
    ALLOCATES("pvalloc", ALL, PVALLOC, .size = 1),
    FREES("free", ALL),
    FREES("cfree", ALL),
    FREES("free_sized", ALL, .size = 2),
    FREES("free_aligned_sized", ALL, .alignment = 2, .size = 3),

    // jemalloc(3).
    ALLOCATES("mallocx", JEMALLOC, MALLOCX, .size = 1, .flags = 2),
    RESIZES("rallocx", JEMALLOC, RALLOCX, .size = 2, .flags = 3),
    {"xallocx", JEMALLOC, ALLOCS_RESIZE_TO, ALLOCS_FUNCTION_XALLOCX, .block = 1, .size = 2, .flags = 4},
    FREES("dallocx", JEMALLOC),
    FREES("sdallocx", JEMALLOC, .size = 2),

    // mimalloc.h, but for its heaps and strings.
    ALLOCATES("zalloc", 1 << MI, ZALLOC, .size = 1),
    ALLOCATES("malloc_small", 1 << MI, MALLOC, .size = 1),
    ALLOCATES("zalloc_small", 1 << MI, ZALLOC, .size = 1),
    ALLOCATES("mallocn", 1 << MI, MALLOC, .count = 1, .size = 2),
    ALLOCATES("malloc_aligned", 1 << MI, MALLOC_ALIGNED, .size = 1, .alignment = 2),
    ALLOCATES("malloc_aligned_at", 1 << MI, MALLOC_ALIGNED, .size = 1),
    ALLOCATES("zalloc_aligned", 1 << MI, ZALLOC_ALIGNED, .size = 1, .alignment = 2),
    ALLOCATES("zalloc_aligned_at", 1 << MI, ZALLOC_ALIGNED, .size = 1),
    ALLOCATES("calloc_aligned", 1 << MI, CALLOC_ALIGNED, .count = 1, .size = 2, .alignment = 3),
    ALLOCATES("calloc_aligned_at", 1 << MI, CALLOC_ALIGNED, .count = 1, .size = 2),
    RESIZES("reallocn", 1 << MI, REALLOC, .count = 2, .size = 3),
    {"reallocf", 1 << MI, ALLOCS_RESIZE_OR_FREE, ALLOCS_FUNCTION_REALLOC, .block = 1, .size = 2},
    RESIZES("rezalloc", 1 << MI, REALLOC, .size = 2),
    RESIZES("recalloc", 1 << MI, REALLOC, .count = 2, .size = 3),
    RESIZES("realloc_aligned", 1 << MI, REALLOC_ALIGNED, .size = 2, .alignment = 3),
    RESIZES("realloc_aligned_at", 1 << MI, REALLOC_ALIGNED, .size = 2),
    RESIZES("rezalloc_aligned", 1 << MI, REALLOC_ALIGNED, .size = 2, .alignment = 3),
    RESIZES("rezalloc_aligned_at", 1 << MI, REALLOC_ALIGNED, .size = 2),
    RESIZES("recalloc_aligned", 1 << MI, REALLOC_ALIGNED, .count = 2, .size = 3, .alignment = 4),
    RESIZES("recalloc_aligned_at", 1 << MI, REALLOC_ALIGNED, .count = 2, .size = 3),
    {"expand", 1 << MI, ALLOCS_RESIZE_IN_PLACE, ALLOCS_FUNCTION_EXPAND, .block = 1, .size = 2},
    ALLOCATES("new", 1 << MI | 1 << TC, NEW, .size = 1),
    ALLOCATES("new_nothrow", 1 << MI | 1 << TC, NEW, .size = 1),
    ALLOCATES("new_aligned", 1 << MI | 1 << TC, NEW, .size = 1, .alignment = 2),
    ALLOCATES("new_aligned_nothrow", 1 << MI | 1 << TC, NEW, .size = 1, .alignment = 2),
    ALLOCATES("new_n", 1 << MI, NEW_ARRAY, .count = 1, .size = 2),
    RESIZES("new_realloc", 1 << MI, REALLOC, .size = 2),
    RESIZES("new_reallocn", 1 << MI, REALLOC, .count = 2, .size = 3),
    FREES("free_size", 1 << MI, .size = 2),
    FREES("free_size_aligned", 1 << MI, .size = 2, .alignment = 3),
    FREES("free_aligned", 1 << MI),

    // gperftools/tcmalloc.h.
    ALLOCATES("malloc_skip_new_handler", 1 << TC, MALLOC, .size = 1),
    ALLOCATES("newarray", 1 << TC, NEW_ARRAY, .size = 1),
    ALLOCATES("newarray_nothrow", 1 << TC, NEW_ARRAY, .size = 1),
    ALLOCATES("newarray_aligned", 1 << TC, NEW_ARRAY, .size = 1, .alignment = 2),
    ALLOCATES("newarray_aligned_nothrow", 1 << TC, NEW_ARRAY, .size = 1, .alignment = 2),
    FREES("delete", 1 << TC),
    FREES("delete_nothrow", 1 << TC),
    FREES("delete_sized", 1 << TC, .size = 2),
    FREES("delete_aligned", 1 << TC),
    FREES("delete_aligned_nothrow", 1 << TC),
    FREES("delete_sized_aligned", 1 << TC, .size = 2, .alignment = 3),
    FREES("deletearray", 1 << TC),
    FREES("deletearray_nothrow", 1 << TC),
    FREES("deletearray_sized", 1 << TC, .size = 2),
    FREES("deletearray_aligned", 1 << TC),
    FREES("deletearray_aligned_nothrow", 1 << TC),
    FREES("deletearray_sized_aligned", 1 << TC, .size = 2, .alignment = 3),

    // dlmalloc, but for its spaces and independent_calloc.
    {"realloc_in_place", 1 << DL, ALLOCS_RESIZE_IN_PLACE, ALLOCS_FUNCTION_REALLOC, .block = 1, .size = 2},
    {"bulk_free", 1 << DL, ALLOCS_FREE_ARRAY, 0, .block = 1, .count = 2},

    // Operators of C++ (Operators.c has them in words).
    ALLOCATES("_Znwm", 1 << OWN, NEW, .size = 1),
    ALLOCATES("_Znam", 1 << OWN, NEW_ARRAY, .size = 1),
    ALLOCATES("_ZnwmRKSt9nothrow_t", 1 << OWN, NEW, .size = 1),
    ALLOCATES("_ZnamRKSt9nothrow_t", 1 << OWN, NEW_ARRAY, .size = 1),
    ALLOCATES("_ZnwmSt11align_val_t", 1 << OWN, NEW, .size = 1, .alignment = 2),
    ALLOCATES("_ZnamSt11align_val_t", 1 << OWN, NEW_ARRAY, .size = 1, .alignment = 2),
    ALLOCATES("_ZnwmSt11align_val_tRKSt9nothrow_t", 1 << OWN, NEW, .size = 1, .alignment = 2),
    ALLOCATES("_ZnamSt11align_val_tRKSt9nothrow_t", 1 << OWN, NEW_ARRAY, .size = 1, .alignment = 2),
    FREES("_ZdlPv", 1 << OWN),
    FREES("_ZdaPv", 1 << OWN),
    FREES("_ZdlPvRKSt9nothrow_t", 1 << OWN),
    FREES("_ZdaPvRKSt9nothrow_t", 1 << OWN),
    FREES("_ZdlPvm", 1 << OWN, .size = 2),
    FREES("_ZdaPvm", 1 << OWN, .size = 2),
    FREES("_ZdlPvSt11align_val_t", 1 << OWN),
    FREES("_ZdaPvSt11align_val_t", 1 << OWN),
    FREES("_ZdlPvSt11align_val_tRKSt9nothrow_t", 1 << OWN),
    FREES("_ZdaPvSt11align_val_tRKSt9nothrow_t", 1 << OWN),
    FREES("_ZdlPvmSt11align_val_t", 1 << OWN, .size = 2, .alignment = 3),
    FREES("_ZdaPvmSt11align_val_t", 1 << OWN, .size = 2, .alignment = 3),
};
enum { SIGNATURE_COUNT = sizeof signatures / sizeof *signatures };

const struct allocs_signature *allocs_signature(uint32_t index) { return index < SIGNATURE_COUNT ? &signatures[index] : 0; }

// MARK: stubs

#if defined(__x86_64__)
__attribute__((naked)) static void preserving_stub(void) { __asm__(ALLOCS_ENTRY_PRESERVING(allocs_hook_hooked)); }
void *allocs_preserving_stub(void) { return (void *)preserving_stub; }

// Operators of C++ throw: see Operators.c.
__attribute__((used)) static void *hook_new(struct allocs_hooked *hooked, uint64_t *arguments, uintptr_t place, uint64_t frame_pointer) {
  ALLOCS_UNWINDS;
  size_t alignment;
  size_t size = allocs_request(hooked, arguments, &alignment);
  uint32_t function = hooked->signature->function | hooked->allocator << 8;
  struct allocs_thread_block *thread = allocs_operator_enter(place, frame_pointer);
  void *block = (void *)(uintptr_t)allocs_call(hooked->below, arguments);
  if (thread) allocs_operator_leave(thread, block, size, alignment, place, frame_pointer, function);
  else allocs_operator_inner(block, size, place, frame_pointer, function);
  return block;
}

// malloc and free are what programs call most. All others put their arguments into memory, as an array.
__attribute__((naked)) static void malloc_stub(void) { __asm__(ALLOCS_ENTRY_HOOKED_MALLOC); }
__attribute__((naked)) static void free_stub(void) { __asm__(ALLOCS_ENTRY_HOOKED_FREE); }
__attribute__((naked)) static void new_stub(void) { __asm__(ALLOCS_ENTRY_HOOKED(hook_new)); }
__attribute__((naked)) static void general_stub(void) { __asm__(ALLOCS_ENTRY_HOOKED(allocs_hook_hooked)); }

void *allocs_signature_stub(const struct allocs_signature *signature) {
  if (!strcmp(signature->name, "malloc")) return (void *)malloc_stub;
  // A second argument, as dallocx has, is passed on.
  if (signature->operation == ALLOCS_FREE && !signature->size) return (void *)free_stub;
  if (signature->operation == ALLOCS_ALLOCATE && (signature->function == ALLOCS_FUNCTION_NEW || signature->function == ALLOCS_FUNCTION_NEW_ARRAY))
    return (void *)new_stub;
  return (void *)general_stub;
}
#else
// Nothing is hooked at its entry on other machines yet.
void *allocs_signature_stub(const struct allocs_signature *signature) { return (void *)(uintptr_t)signature; }
void *allocs_preserving_stub(void) { return (void *)families; }
#endif
