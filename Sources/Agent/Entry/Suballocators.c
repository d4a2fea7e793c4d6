// User, for suballocators: what takes the place of a function that ALLOCS_SUBALLOC declares, and what allocs_pool.h calls.
#include "allocs_suballocator.h"

#include "allocs_hooks.h"

struct allocs_declared *allocs_declared_functions(void) {
  static struct allocs_declared functions[ALLOCS_DECLARED_CAPACITY];
  return functions;
}

#if defined(__x86_64__)
// Puts the arguments into a struct allocs_declared_call, which ends with the return address. None is a floating-point number, by
// the letters; so the vector registers are left to themselves. The function below finds its arguments where they were.
__attribute__((naked)) static void declared_stub(void) {
  __asm__(
      "subq $104, %rsp\n"
      ".cfi_adjust_cfa_offset 104\n"
      "movq %rdi, (%rsp)\n movq %rsi, 8(%rsp)\n movq %rdx, 16(%rsp)\n"
      "movq %rcx, 24(%rsp)\n movq %r8, 32(%rsp)\n movq %r9, 40(%rsp)\n"
      "movq %r11, 48(%rsp)\n movq %rbp, 96(%rsp)\n"
      "movq %rsp, %rdi\n"
      "callq allocs_declared_entered\n"
      "movq (%rsp), %rdi\n movq 8(%rsp), %rsi\n movq 16(%rsp), %rdx\n"
      "movq 24(%rsp), %rcx\n movq 32(%rsp), %r8\n movq 40(%rsp), %r9\n"
      "movq 48(%rsp), %r11\n"
      "callq *(%r11)\n"
      "movq %rax, 80(%rsp)\n movq %rdx, 88(%rsp)\n"
      "movq %rsp, %rdi\n"
      "callq allocs_declared_returned\n"
      "movq 80(%rsp), %rax\n movq 88(%rsp), %rdx\n"
      "addq $104, %rsp\n"
      ".cfi_adjust_cfa_offset -104\n"
      "retq");
}
#else
// Functions are hooked at their entries on x86-64 alone.
static void declared_stub(void) {}
#endif
void *allocs_declared_stub(void) { return (void *)declared_stub; }

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
