// User, for C++: every replaceable operator new and delete, under its mangled name (Itanium C++ ABI).
//
// Each calls the next definition of the same operator, as the dynamic linker would have found it, and lets it do what
// it does: call malloc, run the new-handler, throw. An exception that leaves operator new crosses the frame of the
// function here, whose personality routine puts the thread back as it was. It is named in the frame's call frame
// information, so the path without exceptions pays nothing and the agent needs no unwinder of its own.
#include "allocs_agent.h"
#include "allocs_hooks.h"
#include "entry_arm.h"
#include "entry_x86.h"

#include <stdlib.h>

// MARK: exceptions

// _Unwind_Reason_Code and _Unwind_Action of the Itanium C++ ABI, level I.
enum { UNWIND_CONTINUE = 8, UNWIND_CLEANUP_PHASE = 2 };

ALLOCS_HIDDEN int allocs_personality(int version, int actions, uint64_t exception_class, void *exception, void *context) {
  (void)version, (void)exception_class, (void)exception, (void)context;
  if (actions & UNWIND_CLEANUP_PHASE) allocs_operator_unwound();
  return UNWIND_CONTINUE;
}

// The personality routine by a pointer relative to the place, which the assembler needs a word for.
__asm__(
    ".hidden DW.ref.allocs_personality\n"
    ".weak DW.ref.allocs_personality\n"
    ".section .data.rel.local.DW.ref.allocs_personality,\"awG\",@progbits,DW.ref.allocs_personality,comdat\n"
    ".p2align 3\n"
    ".type DW.ref.allocs_personality, @object\n"
    ".size DW.ref.allocs_personality, 8\n"
    "DW.ref.allocs_personality:\n"
    ".quad allocs_personality\n"
    ".text\n");

// MARK: the operator below

static const char *const operator_names[ALLOCS_OPERATOR_COUNT] = {
    [ALLOCS_OPERATOR_NEW] = "_Znwm",
    [ALLOCS_OPERATOR_NEW_ARRAY] = "_Znam",
    [ALLOCS_OPERATOR_NEW_NOTHROW] = "_ZnwmRKSt9nothrow_t",
    [ALLOCS_OPERATOR_NEW_ARRAY_NOTHROW] = "_ZnamRKSt9nothrow_t",
    [ALLOCS_OPERATOR_NEW_ALIGNED] = "_ZnwmSt11align_val_t",
    [ALLOCS_OPERATOR_NEW_ARRAY_ALIGNED] = "_ZnamSt11align_val_t",
    [ALLOCS_OPERATOR_NEW_ALIGNED_NOTHROW] = "_ZnwmSt11align_val_tRKSt9nothrow_t",
    [ALLOCS_OPERATOR_NEW_ARRAY_ALIGNED_NOTHROW] = "_ZnamSt11align_val_tRKSt9nothrow_t",
    [ALLOCS_OPERATOR_DELETE] = "_ZdlPv",
    [ALLOCS_OPERATOR_DELETE_ARRAY] = "_ZdaPv",
    [ALLOCS_OPERATOR_DELETE_NOTHROW] = "_ZdlPvRKSt9nothrow_t",
    [ALLOCS_OPERATOR_DELETE_ARRAY_NOTHROW] = "_ZdaPvRKSt9nothrow_t",
    [ALLOCS_OPERATOR_DELETE_SIZED] = "_ZdlPvm",
    [ALLOCS_OPERATOR_DELETE_ARRAY_SIZED] = "_ZdaPvm",
    [ALLOCS_OPERATOR_DELETE_ALIGNED] = "_ZdlPvSt11align_val_t",
    [ALLOCS_OPERATOR_DELETE_ARRAY_ALIGNED] = "_ZdaPvSt11align_val_t",
    [ALLOCS_OPERATOR_DELETE_ALIGNED_NOTHROW] = "_ZdlPvSt11align_val_tRKSt9nothrow_t",
    [ALLOCS_OPERATOR_DELETE_ARRAY_ALIGNED_NOTHROW] = "_ZdaPvSt11align_val_tRKSt9nothrow_t",
    [ALLOCS_OPERATOR_DELETE_SIZED_ALIGNED] = "_ZdlPvmSt11align_val_t",
    [ALLOCS_OPERATOR_DELETE_ARRAY_SIZED_ALIGNED] = "_ZdaPvmSt11align_val_t",
};

__attribute__((noinline, cold)) static void *find_operator(enum allocs_operator which) {
  void *function = allocs_next_definition(operator_names[which]);
  if (!function) {
    // Somebody was linked against an operator that nothing in the process defines; without the agent it would not
    // have started.
    abort();
  }
  // Forgotten again by dlclose, should the module it is in go.
  allocs_store_release_pointer(&allocs_process()->operators[which], function);
  return function;
}

static inline void *operator_below(enum allocs_operator which) {
  void *function = allocs_load_acquire_pointer(&allocs_process()->operators[which]);
  return __builtin_expect(function != NULL, 1) ? function : find_operator(which);
}

// An executable's own is hooked at its entry, and what goes on there is the one below. It may lead on by
// dlsym(RTLD_NEXT) to the agent's of that name, which must not lead back to it: so each is here twice.
static inline void *own_operator(enum allocs_operator which) { return allocs_process()->own_operators[which]; }

// MARK: operator new

// Each has a frame of its own: a call in the middle.
#define ALLOCS_NEW(name, which, ...)                                            \
  ALLOCS_ONE_NEW(ALLOCS_EXPORT, name, operator_below(which), __VA_ARGS__)       \
  ALLOCS_ONE_NEW(ALLOCS_HIDDEN, allocs_own_##name, own_operator(which), __VA_ARGS__)
#define ALLOCS_ONE_NEW(visibility, name, next, function, alignment, parameters, types, ...) \
  ALLOCS_OPERATOR(visibility, void *, name, parameters) {                                    \
    ALLOCS_UNWINDS;                                                                          \
    void *(*below) types = (void *(*) types)next;                                            \
    struct allocs_thread_block *thread = allocs_operator_enter(ALLOCS_CALLER);               \
    void *block = below(size __VA_ARGS__);                                                   \
    if (thread) allocs_operator_leave(thread, block, size, alignment, ALLOCS_CALLER, function); \
    else allocs_operator_inner(block, size, ALLOCS_CALLER, function);                          \
    return block;                                                                            \
  }

ALLOCS_NEW(_Znwm, ALLOCS_OPERATOR_NEW, ALLOCS_FUNCTION_NEW, 0, (size_t size), (size_t), )
ALLOCS_NEW(_Znam, ALLOCS_OPERATOR_NEW_ARRAY, ALLOCS_FUNCTION_NEW_ARRAY, 0, (size_t size), (size_t), )
ALLOCS_NEW(_ZnwmRKSt9nothrow_t, ALLOCS_OPERATOR_NEW_NOTHROW, ALLOCS_FUNCTION_NEW, 0, (size_t size, const void *nothrow), (size_t, const void *), , nothrow)
ALLOCS_NEW(_ZnamRKSt9nothrow_t, ALLOCS_OPERATOR_NEW_ARRAY_NOTHROW, ALLOCS_FUNCTION_NEW_ARRAY, 0, (size_t size, const void *nothrow), (size_t, const void *), , nothrow)
ALLOCS_NEW(_ZnwmSt11align_val_t, ALLOCS_OPERATOR_NEW_ALIGNED, ALLOCS_FUNCTION_NEW, alignment, (size_t size, size_t alignment), (size_t, size_t), , alignment)
ALLOCS_NEW(_ZnamSt11align_val_t, ALLOCS_OPERATOR_NEW_ARRAY_ALIGNED, ALLOCS_FUNCTION_NEW_ARRAY, alignment, (size_t size, size_t alignment), (size_t, size_t), , alignment)
ALLOCS_NEW(_ZnwmSt11align_val_tRKSt9nothrow_t, ALLOCS_OPERATOR_NEW_ALIGNED_NOTHROW, ALLOCS_FUNCTION_NEW, alignment, (size_t size, size_t alignment, const void *nothrow), (size_t, size_t, const void *), , alignment, nothrow)
ALLOCS_NEW(_ZnamSt11align_val_tRKSt9nothrow_t, ALLOCS_OPERATOR_NEW_ARRAY_ALIGNED_NOTHROW, ALLOCS_FUNCTION_NEW_ARRAY, alignment, (size_t size, size_t alignment, const void *nothrow), (size_t, size_t, const void *), , alignment, nothrow)

// MARK: operator delete

#define ALLOCS_DELETE(name, which, ...)                                        \
  ALLOCS_ONE_DELETE(ALLOCS_EXPORT, name, operator_below(which), __VA_ARGS__)   \
  ALLOCS_ONE_DELETE(ALLOCS_HIDDEN, allocs_own_##name, own_operator(which), __VA_ARGS__)
#define ALLOCS_ONE_DELETE(visibility, name, next, parameters, types, ...)   \
  ALLOCS_OPERATOR(visibility, void, name, parameters) {                      \
    void (*below) types = (void (*) types)next;                              \
    struct allocs_thread_block *thread = allocs_operator_deleting(block, ALLOCS_CALLER); \
    below(block __VA_ARGS__);                                            \
    if (thread) allocs_leave(thread);                                    \
  }

ALLOCS_DELETE(_ZdlPv, ALLOCS_OPERATOR_DELETE, (void *block), (void *), )
ALLOCS_DELETE(_ZdaPv, ALLOCS_OPERATOR_DELETE_ARRAY, (void *block), (void *), )
ALLOCS_DELETE(_ZdlPvRKSt9nothrow_t, ALLOCS_OPERATOR_DELETE_NOTHROW, (void *block, const void *nothrow), (void *, const void *), , nothrow)
ALLOCS_DELETE(_ZdaPvRKSt9nothrow_t, ALLOCS_OPERATOR_DELETE_ARRAY_NOTHROW, (void *block, const void *nothrow), (void *, const void *), , nothrow)
ALLOCS_DELETE(_ZdlPvm, ALLOCS_OPERATOR_DELETE_SIZED, (void *block, size_t size), (void *, size_t), , size)
ALLOCS_DELETE(_ZdaPvm, ALLOCS_OPERATOR_DELETE_ARRAY_SIZED, (void *block, size_t size), (void *, size_t), , size)
ALLOCS_DELETE(_ZdlPvSt11align_val_t, ALLOCS_OPERATOR_DELETE_ALIGNED, (void *block, size_t alignment), (void *, size_t), , alignment)
ALLOCS_DELETE(_ZdaPvSt11align_val_t, ALLOCS_OPERATOR_DELETE_ARRAY_ALIGNED, (void *block, size_t alignment), (void *, size_t), , alignment)
ALLOCS_DELETE(_ZdlPvSt11align_val_tRKSt9nothrow_t, ALLOCS_OPERATOR_DELETE_ALIGNED_NOTHROW, (void *block, size_t alignment, const void *nothrow), (void *, size_t, const void *), , alignment, nothrow)
ALLOCS_DELETE(_ZdaPvSt11align_val_tRKSt9nothrow_t, ALLOCS_OPERATOR_DELETE_ARRAY_ALIGNED_NOTHROW, (void *block, size_t alignment, const void *nothrow), (void *, size_t, const void *), , alignment, nothrow)
ALLOCS_DELETE(_ZdlPvmSt11align_val_t, ALLOCS_OPERATOR_DELETE_SIZED_ALIGNED, (void *block, size_t size, size_t alignment), (void *, size_t, size_t), , size, alignment)
ALLOCS_DELETE(_ZdaPvmSt11align_val_t, ALLOCS_OPERATOR_DELETE_ARRAY_SIZED_ALIGNED, (void *block, size_t size, size_t alignment), (void *, size_t, size_t), , size, alignment)

// MARK: in front of an executable's own

#define ALLOCS_POINT(name, which, is_essential) {#name, (void *)allocs_own_##name, &allocs_process_state.own_operators[which], is_essential, true}
static const struct allocs_entry_point operator_points[ALLOCS_OPERATOR_COUNT] = {
    ALLOCS_POINT(_Znwm, ALLOCS_OPERATOR_NEW, false),
    ALLOCS_POINT(_Znam, ALLOCS_OPERATOR_NEW_ARRAY, false),
    ALLOCS_POINT(_ZnwmRKSt9nothrow_t, ALLOCS_OPERATOR_NEW_NOTHROW, false),
    ALLOCS_POINT(_ZnamRKSt9nothrow_t, ALLOCS_OPERATOR_NEW_ARRAY_NOTHROW, false),
    ALLOCS_POINT(_ZnwmSt11align_val_t, ALLOCS_OPERATOR_NEW_ALIGNED, false),
    ALLOCS_POINT(_ZnamSt11align_val_t, ALLOCS_OPERATOR_NEW_ARRAY_ALIGNED, false),
    ALLOCS_POINT(_ZnwmSt11align_val_tRKSt9nothrow_t, ALLOCS_OPERATOR_NEW_ALIGNED_NOTHROW, false),
    ALLOCS_POINT(_ZnamSt11align_val_tRKSt9nothrow_t, ALLOCS_OPERATOR_NEW_ARRAY_ALIGNED_NOTHROW, false),
    ALLOCS_POINT(_ZdlPv, ALLOCS_OPERATOR_DELETE, true),
    ALLOCS_POINT(_ZdaPv, ALLOCS_OPERATOR_DELETE_ARRAY, true),
    ALLOCS_POINT(_ZdlPvRKSt9nothrow_t, ALLOCS_OPERATOR_DELETE_NOTHROW, true),
    ALLOCS_POINT(_ZdaPvRKSt9nothrow_t, ALLOCS_OPERATOR_DELETE_ARRAY_NOTHROW, true),
    ALLOCS_POINT(_ZdlPvm, ALLOCS_OPERATOR_DELETE_SIZED, true),
    ALLOCS_POINT(_ZdaPvm, ALLOCS_OPERATOR_DELETE_ARRAY_SIZED, true),
    ALLOCS_POINT(_ZdlPvSt11align_val_t, ALLOCS_OPERATOR_DELETE_ALIGNED, true),
    ALLOCS_POINT(_ZdaPvSt11align_val_t, ALLOCS_OPERATOR_DELETE_ARRAY_ALIGNED, true),
    ALLOCS_POINT(_ZdlPvSt11align_val_tRKSt9nothrow_t, ALLOCS_OPERATOR_DELETE_ALIGNED_NOTHROW, true),
    ALLOCS_POINT(_ZdaPvSt11align_val_tRKSt9nothrow_t, ALLOCS_OPERATOR_DELETE_ARRAY_ALIGNED_NOTHROW, true),
    ALLOCS_POINT(_ZdlPvmSt11align_val_t, ALLOCS_OPERATOR_DELETE_SIZED_ALIGNED, true),
    ALLOCS_POINT(_ZdaPvmSt11align_val_t, ALLOCS_OPERATOR_DELETE_ARRAY_SIZED_ALIGNED, true),
};
const struct allocs_entry_point *allocs_operator_point(uint32_t index) {
  return index < ALLOCS_OPERATOR_COUNT ? &operator_points[index] : NULL;
}
