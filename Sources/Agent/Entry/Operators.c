// SPDX-License-Identifier: Apache-2.0
// The entries of C++: every replaceable operator new and delete, under its mangled name (Itanium
// C++ ABI; allocs_operators.h lists them).
//
// Each calls the next definition of its operator, which the dynamic linker would have found without
// the agent. That definition may call malloc, run the new-handler, throw. An
// exception that leaves operator new crosses the frame of the function here. The personality
// routine of that frame puts the thread back as it was. The routine is named in the frame's call
// frame information, so a call without an exception pays nothing, and the agent needs no unwinder
// of its own.
#include "allocs_agent.h"
#include "allocs_hooks.h"
#include "entry_arm.h"
#include "entry_x86.h"

#include <stdlib.h>

// MARK: exceptions

// _Unwind_Reason_Code and _Unwind_Action of the Itanium C++ ABI, level I.
enum { UNWIND_CONTINUE = 8, UNWIND_CLEANUP_PHASE = 2 };

ALLOCS_HIDDEN int allocs_personality(
    int version, int actions, uint64_t exception_class, void *exception, void *context) {
  (void)version, (void)exception_class, (void)exception, (void)context;
  if (actions & UNWIND_CLEANUP_PHASE) allocs_operator_unwound();
  return UNWIND_CONTINUE;
}

// The word through which call frame information names the personality routine; the assembler does
// not make it.
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

#define NAME(enumerator, symbol, ...) [ALLOCS_OPERATOR_##enumerator] = #symbol,
static const char *const operator_names[ALLOCS_OPERATOR_COUNT] = {ALLOCS_OPERATORS(NAME)};

__attribute__((noinline, cold)) static void *find_operator(enum allocs_operator which) {
  void *function = allocs_next_definition(operator_names[which]);
  if (!function) {
    // A module was linked against an operator that nothing in the process defines; without the
    // agent the program would not have started.
    abort();
  }
  // When a module is unloaded this is forgotten again: the operator may have been in it.
  allocs_store_release_pointer(&allocs_process()->operators[which], function);
  return function;
}

static inline void *operator_below(enum allocs_operator which) {
  void *function = allocs_load_acquire_pointer(&allocs_process()->operators[which]);
  return __builtin_expect(function != NULL, 1) ? function : find_operator(which);
}

// An executable's own operator is hooked at its entry; below that hook is the trampoline to the
// operator itself. The operator may forward, by dlsym(RTLD_NEXT), to the agent's exported operator
// of that name, which must not call it back: so each operator is here twice, with another one
// below.
static inline void *own_operator(enum allocs_operator which) { return allocs_process()->own_operators[which]; }

// The exported operator, and the operator that takes the place of an executable's own.
#define TWICE(ONE, enumerator, symbol, ...)                                                                     \
  ONE(ALLOCS_EXPORT, symbol, operator_below(ALLOCS_OPERATOR_##enumerator), __VA_ARGS__)                         \
  ONE(ALLOCS_HIDDEN, allocs_own_##symbol, own_operator(ALLOCS_OPERATOR_##enumerator), __VA_ARGS__)

// MARK: operator new

#define NEW(enumerator, symbol, function, form) TWICE(ONE_NEW, enumerator, symbol, function, ALLOCS_NEW_##form)
#define ONE_NEW(visibility, name, next, function, ...) DEFINE_NEW(visibility, name, next, function, __VA_ARGS__)
#define DEFINE_NEW(visibility, name, next, function, parameters, arguments, alignment, ...)                     \
  ALLOCS_OPERATOR(visibility, void *, name, parameters) {                                                       \
    ALLOCS_UNWINDS;                                                                                             \
    __typeof__(name) *below = next;                                                                             \
    struct allocs_thread_block *thread = allocs_operator_enter(ALLOCS_CALLER);                                  \
    void *block = below arguments;                                                                              \
    if (thread)                                                                                                 \
      allocs_operator_leave(thread, block, size, alignment, ALLOCS_CALLER, ALLOCS_FUNCTION_##function);         \
    else                                                                                                        \
      allocs_operator_inner(block, size, ALLOCS_CALLER, ALLOCS_FUNCTION_##function);                            \
    return block;                                                                                               \
  }
ALLOCS_NEW_OPERATORS(NEW)

// MARK: operator delete

#define DELETE(enumerator, symbol, function, form) TWICE(ONE_DELETE, enumerator, symbol, ALLOCS_DELETE_##form)
#define ONE_DELETE(visibility, name, next, ...) DEFINE_DELETE(visibility, name, next, __VA_ARGS__)
#define DEFINE_DELETE(visibility, name, next, parameters, arguments, ...)                                       \
  ALLOCS_OPERATOR(visibility, void, name, parameters) {                                                         \
    __typeof__(name) *below = next;                                                                             \
    struct allocs_thread_block *thread = allocs_operator_deleting(block, ALLOCS_CALLER);                        \
    below arguments;                                                                                            \
    if (thread) allocs_leave(thread);                                                                           \
  }
ALLOCS_DELETE_OPERATORS(DELETE)

// MARK: entry points, in front of an executable's own operators

#define POINT(enumerator, symbol, is_essential) \
  {#symbol, (void *)allocs_own_##symbol,        \
   &allocs_process_state.own_operators[ALLOCS_OPERATOR_##enumerator], is_essential, true},
#define NEW_POINT(enumerator, symbol, ...) POINT(enumerator, symbol, false)
#define DELETE_POINT(enumerator, symbol, ...) POINT(enumerator, symbol, true)
static const struct allocs_entry_point operator_points[ALLOCS_OPERATOR_COUNT] = {
    ALLOCS_NEW_OPERATORS(NEW_POINT) ALLOCS_DELETE_OPERATORS(DELETE_POINT)};

const struct allocs_entry_point *allocs_operator_point(uint32_t index) {
  return index < ALLOCS_OPERATOR_COUNT ? &operator_points[index] : NULL;
}
