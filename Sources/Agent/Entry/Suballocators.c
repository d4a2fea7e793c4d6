// User, for suballocators: what takes the place of a function that ALLOCS_SUBALLOC declares, and what allocs_pool.h
// calls.
#include "allocs_suballocator.h"

#include "allocs_hooks.h"

struct allocs_declared *allocs_declared_functions(void) {
  static struct allocs_declared functions[ALLOCS_DECLARED_CAPACITY];
  return functions;
}

#if defined(__x86_64__)
// All registers that a call may change, around what keeps the books.
#define SAVE                                                                    \
  "pushq %rax\n pushq %rcx\n pushq %rdx\n pushq %rsi\n pushq %rdi\n"            \
  "pushq %r8\n pushq %r9\n pushq %r10\n pushq %r11\n"                           \
  "subq $264, %rsp\n"                                                          \
  ".cfi_adjust_cfa_offset 336\n"                                               \
  "movaps %xmm0, 0(%rsp)\n" \
  "movaps %xmm1, 16(%rsp)\n" \
  "movaps %xmm2, 32(%rsp)\n" \
  "movaps %xmm3, 48(%rsp)\n" \
  "movaps %xmm4, 64(%rsp)\n" \
  "movaps %xmm5, 80(%rsp)\n" \
  "movaps %xmm6, 96(%rsp)\n" \
  "movaps %xmm7, 112(%rsp)\n" \
  "movaps %xmm8, 128(%rsp)\n" \
  "movaps %xmm9, 144(%rsp)\n" \
  "movaps %xmm10, 160(%rsp)\n" \
  "movaps %xmm11, 176(%rsp)\n" \
  "movaps %xmm12, 192(%rsp)\n" \
  "movaps %xmm13, 208(%rsp)\n" \
  "movaps %xmm14, 224(%rsp)\n" \
  "movaps %xmm15, 240(%rsp)\n" \
  "leaq 336(%rsp), %rdi\n"
#define RESTORE                                                                 \
  "movaps 0(%rsp), %xmm0\n" \
  "movaps 16(%rsp), %xmm1\n" \
  "movaps 32(%rsp), %xmm2\n" \
  "movaps 48(%rsp), %xmm3\n" \
  "movaps 64(%rsp), %xmm4\n" \
  "movaps 80(%rsp), %xmm5\n" \
  "movaps 96(%rsp), %xmm6\n" \
  "movaps 112(%rsp), %xmm7\n" \
  "movaps 128(%rsp), %xmm8\n" \
  "movaps 144(%rsp), %xmm9\n" \
  "movaps 160(%rsp), %xmm10\n" \
  "movaps 176(%rsp), %xmm11\n" \
  "movaps 192(%rsp), %xmm12\n" \
  "movaps 208(%rsp), %xmm13\n" \
  "movaps 224(%rsp), %xmm14\n" \
  "movaps 240(%rsp), %xmm15\n" \
  "addq $264, %rsp\n"                                                          \
  "popq %r11\n popq %r10\n popq %r9\n popq %r8\n"                              \
  "popq %rdi\n popq %rsi\n popq %rdx\n popq %rcx\n popq %rax\n"                \
  ".cfi_adjust_cfa_offset -336\n"
// Only those that say something: the arguments, and then what the function returns.
#define SAVE_NOTHING "movq %rsp, %rdi\n"
#define RESTORE_ARGUMENTS                                                       \
  "movq (%rsp), %rdi\n movq 8(%rsp), %rsi\n movq 16(%rsp), %rdx\n"             \
  "movq 24(%rsp), %rcx\n movq 32(%rsp), %r8\n movq 40(%rsp), %r9\n"
#define RESTORE_RESULT "movq 80(%rsp), %rax\n movq 88(%rsp), %rdx\n"

// Builds a struct allocs_declared_call below the return address and the pointer that the gate has pushed. No argument
// is a floating-point number, by the letters. The function below finds its arguments, and all else, where they were.
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
// Functions are hooked at their entries on x86-64 alone.
static void declared_stub(void) {}
static void preserving_stub(void) {}
#endif
void *allocs_declared_stub(bool preserves) { return (void *)(preserves ? preserving_stub : declared_stub); }

// MARK: allocs_pool.h

#if defined(__x86_64__)
#define ALLOCS_ENTRY_4(hook) "movq %rsp, %r8\n movq %rbp, %r9\n jmp " #hook
#else
#include "entry_arm.h"
#define ALLOCS_ENTRY_4(hook) ALLOCS_RECORD "add x4, sp, #8\n mov x5, x29\n" ALLOCS_CALL(#hook)
#endif

ALLOCS_EXPORT __attribute__((naked)) void allocs_pool_agent_allocated(struct allocs_pool_kind *kind, const void *pool, const void *block, size_t size) {
  __asm__(ALLOCS_ENTRY_4(allocs_announced_allocation));
}
ALLOCS_EXPORT void allocs_pool_agent_freed(struct allocs_pool_kind *kind, const void *block) { allocs_announced_free(kind, block); }
ALLOCS_EXPORT void allocs_pool_agent_reset(struct allocs_pool_kind *kind, const void *pool, const void *since) {
  allocs_announced_reset(kind, pool, since);
}
