// SPDX-License-Identifier: Apache-2.0
// The entries of suballocators: the stubs that take the place of functions that ALLOCS_SUBALLOC
// declares, and the functions that allocs_pool.h calls.
#include "allocs_suballocator.h"

#include "allocs_hooks.h"
#include "entry_arm.h"
#include "entry_x86.h"

struct allocs_declared *allocs_declared_functions(void) {
  static struct allocs_declared functions[ALLOCS_DECLARED_CAPACITY];
  return functions;
}

#if defined(__x86_64__)
// Around the agent's function, all registers that a call may change are saved and put back.
#define SAVE                                                                    \
  ALLOCS_PUSH_REGISTERS                                                         \
  "subq $264, %rsp\n"                                                           \
  ".cfi_adjust_cfa_offset 264\n"                                                \
  ALLOCS_SAVE_VECTORS(0)                                                        \
  "leaq 336(%rsp), %rdi\n"
#define RESTORE                                                                 \
  ALLOCS_RESTORE_VECTORS(0)                                                     \
  "addq $264, %rsp\n"                                                           \
  ".cfi_adjust_cfa_offset -264\n"                                               \
  ALLOCS_POP_REGISTERS
// Or only the registers that have a meaning are put back: the arguments before the function, and
// its result behind it.
#define SAVE_NOTHING "movq %rsp, %rdi\n"
#define RESTORE_ARGUMENTS                                                       \
  "movq (%rsp), %rdi\n movq 8(%rsp), %rsi\n movq 16(%rsp), %rdx\n"             \
  "movq 24(%rsp), %rcx\n movq 32(%rsp), %r8\n movq 40(%rsp), %r9\n"
#define RESTORE_RESULT "movq 80(%rsp), %rax\n movq 88(%rsp), %rdx\n"

// Builds a struct allocs_declared_call below the return address and the pointer that the gate has
// pushed. The letters of a declaration have none for floating-point arguments. The function below
// finds its arguments, and everything else, where they were.
#define DECLARED(save, restore_before, restore_after)                           \
  __asm__(                                                                      \
      ".cfi_adjust_cfa_offset 8\n"                                             \
      "subq $112, %rsp\n"                                                      \
      ".cfi_adjust_cfa_offset 112\n"                                           \
      "movq %rdi, (%rsp)\n movq %rsi, 8(%rsp)\n movq %rdx, 16(%rsp)\n"         \
      "movq %rcx, 24(%rsp)\n movq %r8, 32(%rsp)\n movq %r9, 40(%rsp)\n"        \
      "movq %rbp, 96(%rsp)\n"                                                  \
      save "callq allocs_declared_entered\n" restore_before                    \
      "callq *48(%rsp)\n"                                                      \
      "movq %rax, 80(%rsp)\n movq %rdx, 88(%rsp)\n"                            \
      save "callq allocs_declared_returned\n" restore_after                    \
      "leaq 120(%rsp), %rsp\n"                                                 \
      ".cfi_adjust_cfa_offset -120\n"                                          \
      "retq")
__attribute__((naked)) static void declared_stub(void) { DECLARED(SAVE_NOTHING, RESTORE_ARGUMENTS, RESTORE_RESULT); }
__attribute__((naked)) static void preserving_stub(void) { DECLARED(SAVE, RESTORE, RESTORE); }
#else
// On other machines no function is hooked at its entry yet.
static void declared_stub(void) {}
static void preserving_stub(void) {}
#endif
void *allocs_declared_stub(bool preserves) { return (void *)(preserves ? preserving_stub : declared_stub); }

// MARK: allocs_pool.h

ALLOCS_EXPORT __attribute__((naked)) void allocs_pool_agent_allocated(
    struct allocs_pool_kind *kind, const void *pool, const void *block, size_t size) {
  __asm__(ALLOCS_ENTRY_4(allocs_announced_allocation));
}
ALLOCS_EXPORT void allocs_pool_agent_freed(struct allocs_pool_kind *kind, const void *block) {
  allocs_announced_free(kind, block);
}
ALLOCS_EXPORT void allocs_pool_agent_reset(struct allocs_pool_kind *kind, const void *pool, const void *since) {
  allocs_announced_reset(kind, pool, since);
}
