// SPDX-License-Identifier: Apache-2.0
// The entries of allocators beside the one below the agent (allocs_family.h): the table of the
// names of their functions, and the stubs that take a hooked function's place.
#include "allocs_family.h"
#include "allocs_hooks.h"
#include "entry_arm.h"
#include "entry_x86.h"

#include <string.h>

// Records are taken and given back where functions are hooked: in the agent's constructor, while
// there is one thread, and later under the dynamic linker's lock.
static struct allocs_hooked hooked_functions[ALLOCS_HOOKED_CAPACITY];

struct allocs_hooked *allocs_next_hooked(const struct allocs_signature *signature, uint32_t allocator) {
  for (uint32_t index = 0; index < ALLOCS_HOOKED_CAPACITY; index++) {
    struct allocs_hooked *record = &hooked_functions[index];
    if (record->signature) continue;
    *record = (struct allocs_hooked){.signature = signature, .allocator = allocator};
    return record;
  }
  return NULL;
}
void allocs_release_hooked(struct allocs_hooked *record) { *record = (struct allocs_hooked){0}; }

void allocs_release_hooked_within(const uint8_t *start, uint64_t size) {
  for (uint32_t index = 0; index < ALLOCS_HOOKED_CAPACITY; index++)
    if ((uint64_t)((const uint8_t *)hooked_functions[index].below - start) < size)
      allocs_release_hooked(&hooked_functions[index]);
}

void *allocs_below_entry(uint64_t address) {
  if (!address) return NULL;
  for (uint32_t index = 0; index < ALLOCS_HOOKED_CAPACITY; index++)
    if (hooked_functions[index].address == address) return hooked_functions[index].below;
  return NULL;
}

// MARK: families

enum {
  OWN,        // names without a prefix
  RJEM,       // jemalloc as Rust's crates build it
  JE,         // jemalloc, --with-jemalloc-prefix=je_
  MI,         // mimalloc
  TC,         // tcmalloc
  DL,         // dlmalloc with USE_DL_PREFIX
  MSPACE,     // dlmalloc's spaces: their first argument is the space
  TOKEN,      // clang's -fsanitize=alloc-token: one more argument behind the others, or a number in the name
  ALL = 1 << OWN | 1 << RJEM | 1 << JE | 1 << MI | 1 << TC | 1 << DL,
  BOTH = 1 << OWN | 1 << TOKEN,
  JEMALLOC = 1 << OWN | 1 << RJEM | 1 << JE,
};
_Static_assert(OWN == ALLOCS_FAMILY_OWN && TOKEN == ALLOCS_FAMILY_TOKEN, "families");

static const struct allocs_family families[ALLOCS_FAMILY_COUNT] = {
    [OWN] = {"", ""}, [RJEM] = {"_rjem_", "jemalloc"}, [JE] = {"je_", "jemalloc"},
    [MI] = {"mi_", "mimalloc"}, [TC] = {"tc_", "tcmalloc"}, [DL] = {"dl", "dlmalloc"},
    [MSPACE] = {"", "dlmalloc"}, [TOKEN] = {"__alloc_token_", ""},
};
const struct allocs_family *allocs_family(uint32_t index) { return &families[index]; }

// MARK: signatures

#define SIGNATURE(name, families, operation, function, ...) \
  {name, families, ALLOCS_##operation, ALLOCS_FUNCTION_##function, __VA_ARGS__}
#define ALLOCATES(name, families, function, ...) SIGNATURE(name, families, ALLOCATE, function, __VA_ARGS__)
#define RESIZES(name, families, function, ...) SIGNATURE(name, families, RESIZE, function, .block = 1, __VA_ARGS__)
#define FREES(name, families, ...) SIGNATURE(name, families, FREE, UNKNOWN, .block = 1, __VA_ARGS__)
// The first argument is the heap that the block is of.
#define HEAP_RESIZES(name, function, ...) SIGNATURE(name, 1 << MI, RESIZE, function, .block = 2, __VA_ARGS__)
// The first argument is the address of a pointer to the block; 0 is returned on success.
#define RESIZES_AT(name, families, function, ...) \
  SIGNATURE(name, families, RESIZE, function, .result = 1, __VA_ARGS__)
// The block is a text and its end; `count` is the size of a character in bytes.
#define DUPLICATES(name, families, ...) SIGNATURE(name, families, ALLOCATE_TEXT, MALLOC, .count = 1, __VA_ARGS__)
// The function is not hooked; `helper` says what the agent needs it for.
#define HELPS(name, families, helper) {name, families, ALLOCS_HELPER, helper, .block = 0}
// Blocks whose addresses are stored in the array `result`, or in an array of their own where that
// is null. With `flags`, `size` is an array with the size of each; else all have this size.
#define SEVERAL(name, family, ...) SIGNATURE(name, 1 << family, ALLOCATE_SEVERAL, CALLOC, __VA_ARGS__)

// The rows of allocs_hooked_functions.h and of allocs_operators.h.
#define HOOKED(name, kit, version, entry, result, parameters, operation, function, ...) \
  HOOKED_##operation(#name, function, __VA_ARGS__),
#define HOOKED_ALLOCATES(name, function, ...) ALLOCATES(name, ALL | 1 << TOKEN, function, __VA_ARGS__)
#define HOOKED_RESIZES(name, function, ...) RESIZES(name, ALL | 1 << TOKEN, function, __VA_ARGS__)
#define HOOKED_FREES(name, function, ...) FREES(name, ALL, __VA_ARGS__)
#define OLD_NAME(name, ...) FREES(#name, ALL),
#define NEW(enumerator, symbol, function, form) NEW_FORM(symbol, function, ALLOCS_NEW_##form)
#define NEW_FORM(symbol, function, ...) NEW_OPERATOR(symbol, function, __VA_ARGS__)
#define NEW_OPERATOR(symbol, function, parameters, arguments, asked, ...) \
  ALLOCATES(#symbol, BOTH, function, __VA_ARGS__),
#define DELETE(enumerator, symbol, function, form) DELETE_FORM(symbol, ALLOCS_DELETE_##form)
#define DELETE_FORM(symbol, ...) DELETE_OPERATOR(symbol, __VA_ARGS__)
#define DELETE_OPERATOR(symbol, parameters, arguments, ...) FREES(#symbol, 1 << OWN, __VA_ARGS__),

static const struct allocs_signature signatures[] = {
    ALLOCS_HOOKED_FUNCTIONS(HOOKED)
    ALLOCS_OLD_NAMES(OLD_NAME)

    // The functions of the C library by other names, of allocators that take the place of glibc's.
    ALLOCATES("__libc_malloc", 1 << OWN, MALLOC, .size = 1),
    ALLOCATES("__libc_calloc", 1 << OWN, CALLOC, .count = 1, .size = 2),
    RESIZES("__libc_realloc", 1 << OWN, REALLOC, .size = 2),
    RESIZES("__libc_reallocarray", 1 << OWN, REALLOCARRAY, .count = 2, .size = 3),
    ALLOCATES("__libc_memalign", 1 << OWN, MEMALIGN, .alignment = 1, .size = 2),
    ALLOCATES("__posix_memalign", 1 << OWN, POSIX_MEMALIGN, .result = 1, .alignment = 2, .size = 3),
    ALLOCATES("__libc_valloc", 1 << OWN, VALLOC, .size = 1),
    ALLOCATES("__libc_pvalloc", 1 << OWN, PVALLOC, .size = 1),
    FREES("__libc_free", 1 << OWN),
    FREES("__libc_cfree", 1 << OWN),
    // From the BSDs' C libraries.
    SIGNATURE("reallocf", 1 << OWN, RESIZE_OR_FREE, REALLOC, .block = 1, .size = 2),
    RESIZES_AT("reallocarr", 1 << OWN | 1 << MI, REALLOCARRAY, .count = 2, .size = 3),
    FREES("vfree", 1 << OWN),

    // jemalloc(3).
    ALLOCATES("mallocx", JEMALLOC, MALLOCX, .size = 1, .flags = 2),
    RESIZES("rallocx", JEMALLOC, RALLOCX, .size = 2, .flags = 3),
    SIGNATURE("xallocx", JEMALLOC, RESIZE_TO, XALLOCX, .block = 1, .size = 2, .flags = 4),
    FREES("dallocx", JEMALLOC),
    FREES("sdallocx", JEMALLOC, .size = 2),

    // mimalloc.h.
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
    SIGNATURE("reallocf", 1 << MI, RESIZE_OR_FREE, REALLOC, .block = 1, .size = 2),
    RESIZES("rezalloc", 1 << MI, REALLOC, .size = 2),
    RESIZES("recalloc", 1 << MI, REALLOC, .count = 2, .size = 3),
    RESIZES("realloc_aligned", 1 << MI, REALLOC_ALIGNED, .size = 2, .alignment = 3),
    RESIZES("realloc_aligned_at", 1 << MI, REALLOC_ALIGNED, .size = 2),
    RESIZES("rezalloc_aligned", 1 << MI, REALLOC_ALIGNED, .size = 2, .alignment = 3),
    RESIZES("rezalloc_aligned_at", 1 << MI, REALLOC_ALIGNED, .size = 2),
    RESIZES("recalloc_aligned", 1 << MI, REALLOC_ALIGNED, .count = 2, .size = 3, .alignment = 4),
    RESIZES("recalloc_aligned_at", 1 << MI, REALLOC_ALIGNED, .count = 2, .size = 3),
    SIGNATURE("expand", 1 << MI, RESIZE_IN_PLACE, EXPAND, .block = 1, .size = 2),
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

    ALLOCATES("heap_malloc", 1 << MI, MALLOC, .size = 2),
    ALLOCATES("heap_zalloc", 1 << MI, ZALLOC, .size = 2),
    ALLOCATES("heap_calloc", 1 << MI, CALLOC, .count = 2, .size = 3),
    ALLOCATES("heap_mallocn", 1 << MI, MALLOC, .count = 2, .size = 3),
    ALLOCATES("heap_malloc_small", 1 << MI, MALLOC, .size = 2),
    ALLOCATES("heap_malloc_aligned", 1 << MI, MALLOC_ALIGNED, .size = 2, .alignment = 3),
    ALLOCATES("heap_malloc_aligned_at", 1 << MI, MALLOC_ALIGNED, .size = 2),
    ALLOCATES("heap_zalloc_aligned", 1 << MI, ZALLOC_ALIGNED, .size = 2, .alignment = 3),
    ALLOCATES("heap_zalloc_aligned_at", 1 << MI, ZALLOC_ALIGNED, .size = 2),
    ALLOCATES("heap_calloc_aligned", 1 << MI, CALLOC_ALIGNED, .count = 2, .size = 3, .alignment = 4),
    ALLOCATES("heap_calloc_aligned_at", 1 << MI, CALLOC_ALIGNED, .count = 2, .size = 3),
    ALLOCATES("heap_alloc_new", 1 << MI, NEW, .size = 2),
    ALLOCATES("heap_alloc_new_n", 1 << MI, NEW_ARRAY, .count = 2, .size = 3),
    HEAP_RESIZES("heap_realloc", REALLOC, .size = 3),
    HEAP_RESIZES("heap_reallocn", REALLOC, .count = 3, .size = 4),
    SIGNATURE("heap_reallocf", 1 << MI, RESIZE_OR_FREE, REALLOC, .block = 2, .size = 3),
    HEAP_RESIZES("heap_rezalloc", REALLOC, .size = 3),
    HEAP_RESIZES("heap_recalloc", REALLOC, .count = 3, .size = 4),
    HEAP_RESIZES("heap_realloc_aligned", REALLOC_ALIGNED, .size = 3, .alignment = 4),
    HEAP_RESIZES("heap_realloc_aligned_at", REALLOC_ALIGNED, .size = 3),
    HEAP_RESIZES("heap_rezalloc_aligned", REALLOC_ALIGNED, .size = 3, .alignment = 4),
    HEAP_RESIZES("heap_rezalloc_aligned_at", REALLOC_ALIGNED, .size = 3),
    HEAP_RESIZES("heap_recalloc_aligned", REALLOC_ALIGNED, .count = 3, .size = 4, .alignment = 5),
    HEAP_RESIZES("heap_recalloc_aligned_at", REALLOC_ALIGNED, .count = 3, .size = 4),
    SIGNATURE("heap_destroy", 1 << MI, FREE_HEAP, UNKNOWN, .block = 1),
    HELPS("heap_visit_blocks", 1 << MI, ALLOCS_HELPER_VISIT),
    HELPS("heap_get_backing", 1 << MI, ALLOCS_HELPER_BACKING),
    HELPS("heap_new_ex", 1 << MI, ALLOCS_HELPER_NEW_EX),
    DUPLICATES("strdup", 1 << MI),
    DUPLICATES("strndup", 1 << MI),
    DUPLICATES("mbsdup", 1 << MI),
    DUPLICATES("realpath", 1 << MI),
    DUPLICATES("heap_strdup", 1 << MI),
    DUPLICATES("heap_strndup", 1 << MI),
    DUPLICATES("heap_realpath", 1 << MI),
    SIGNATURE("wcsdup", 1 << MI, ALLOCATE_TEXT, MALLOC, .count = 2),
    DUPLICATES("dupenv_s", 1 << MI, .result = 1),
    SIGNATURE("wdupenv_s", 1 << MI, ALLOCATE_TEXT, MALLOC, .count = 2, .result = 1),
    RESIZES("aligned_recalloc", 1 << MI, REALLOC_ALIGNED, .count = 2, .size = 3, .alignment = 4),
    RESIZES("aligned_offset_recalloc", 1 << MI, REALLOC_ALIGNED, .count = 2, .size = 3),
    SIGNATURE("_expand", 1 << MI, RESIZE_IN_PLACE, EXPAND, .block = 1, .size = 2),

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

    // dlmalloc.
    SIGNATURE("realloc_in_place", 1 << DL, RESIZE_IN_PLACE, REALLOC, .block = 1, .size = 2),
    SIGNATURE("bulk_free", 1 << DL, FREE_ARRAY, UNKNOWN, .block = 1, .count = 2),
    SEVERAL("independent_calloc", DL, .count = 1, .size = 2, .result = 3),
    SEVERAL("independent_comalloc", DL, .count = 1, .size = 2, .result = 3, .flags = 2),
    ALLOCATES("mspace_malloc", 1 << MSPACE, MALLOC, .size = 2),
    ALLOCATES("mspace_calloc", 1 << MSPACE, CALLOC, .count = 2, .size = 3),
    SIGNATURE("mspace_realloc", 1 << MSPACE, RESIZE, REALLOC, .block = 2, .size = 3),
    SIGNATURE("mspace_realloc_in_place", 1 << MSPACE, RESIZE_IN_PLACE, REALLOC, .block = 2, .size = 3),
    ALLOCATES("mspace_memalign", 1 << MSPACE, MEMALIGN, .alignment = 2, .size = 3),
    SIGNATURE("mspace_free", 1 << MSPACE, FREE, UNKNOWN, .block = 2),
    SIGNATURE("mspace_bulk_free", 1 << MSPACE, FREE_ARRAY, UNKNOWN, .block = 2, .count = 3),
    SIGNATURE("destroy_mspace", 1 << MSPACE, FREE_HEAP, UNKNOWN, .block = 1),
    SEVERAL("mspace_independent_calloc", MSPACE, .count = 2, .size = 3, .result = 4),
    SEVERAL("mspace_independent_comalloc", MSPACE, .count = 2, .size = 3, .result = 4, .flags = 3),

    // mozjemalloc's arenas.
    ALLOCATES("moz_arena_malloc", 1 << OWN, MALLOC, .size = 2),
    ALLOCATES("moz_arena_calloc", 1 << OWN, CALLOC, .count = 2, .size = 3),
    SIGNATURE("moz_arena_realloc", 1 << OWN, RESIZE, REALLOC, .block = 2, .size = 3),
    ALLOCATES("moz_arena_memalign", 1 << OWN, MEMALIGN, .alignment = 2, .size = 3),
    SIGNATURE("moz_arena_free", 1 << OWN, FREE, UNKNOWN, .block = 2),

    ALLOCS_NEW_OPERATORS(NEW)
    ALLOCS_DELETE_OPERATORS(DELETE)
};
enum { SIGNATURE_COUNT = sizeof signatures / sizeof *signatures };

const struct allocs_signature *allocs_signature(uint32_t index) {
  return index < SIGNATURE_COUNT ? &signatures[index] : NULL;
}

extern ALLOCS_HIDDEN bool allocs_visited_block(
    const void *heap, const void *area, void *block, size_t size, void *argument);
void *allocs_block_visitor(void) { return (void *)allocs_visited_block; }

// MARK: stubs

#if defined(__x86_64__)
__attribute__((naked)) static void preserving_stub(void) {
  __asm__(ALLOCS_ENTRY_PRESERVING(allocs_hook_at_entry));
}
void *allocs_preserving_stub(void) { return (void *)preserving_stub; }

// Operators of C++ throw: see Operators.c.
__attribute__((used)) static void *hook_new(
    struct allocs_hooked *hooked, uint64_t *arguments, uintptr_t return_slot, uint64_t frame_pointer) {
  ALLOCS_UNWINDS;
  size_t alignment;
  size_t size = allocs_request(hooked, arguments, &alignment);
  uint32_t function = hooked->signature->function | hooked->allocator << 8;
  struct allocs_thread_block *thread = allocs_operator_enter(return_slot, frame_pointer);
  void *block = (void *)(uintptr_t)allocs_call(hooked->below, arguments);
  if (thread) allocs_operator_leave(thread, block, size, alignment, return_slot, frame_pointer, function);
  else allocs_operator_inner(block, size, return_slot, frame_pointer, function);
  return block;
}

// malloc and free are the functions that programs call most. The stub of all others puts the
// arguments into memory, as an array.
__attribute__((naked)) static void malloc_stub(void) { __asm__(ALLOCS_ENTRY_HOOKED_MALLOC); }
__attribute__((naked)) static void free_stub(void) { __asm__(ALLOCS_ENTRY_HOOKED_FREE); }
__attribute__((naked)) static void new_stub(void) { __asm__(ALLOCS_ENTRY_HOOKED(hook_new)); }
__attribute__((naked)) static void general_stub(void) { __asm__(ALLOCS_ENTRY_HOOKED(allocs_hook_at_entry)); }

void *allocs_signature_stub(const struct allocs_signature *signature, uint32_t family) {
  // malloc_stub passes on one argument, and malloc takes no more, but in the family TOKEN.
  // free_stub passes on two: the second is the flags of dallocx.
  if (!strcmp(signature->name, "malloc") && family != TOKEN) return (void *)malloc_stub;
  if (signature->operation == ALLOCS_FREE && signature->block == 1 && !signature->size) return (void *)free_stub;
  if (signature->operation == ALLOCS_ALLOCATE &&
      (signature->function == ALLOCS_FUNCTION_NEW || signature->function == ALLOCS_FUNCTION_NEW_ARRAY))
    return (void *)new_stub;
  return (void *)general_stub;
}
#else
// On other machines no function is hooked at its entry yet.
void *allocs_signature_stub(const struct allocs_signature *signature, uint32_t family) {
  return (void *)((uintptr_t)signature + family);
}
void *allocs_preserving_stub(void) { return (void *)families; }
#endif
