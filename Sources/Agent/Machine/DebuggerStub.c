// DebuggerStub: the code to which the agent puts a jump, at the function that the dynamic linker
// calls when modules come and go (LaterModules.swift).
#include "allocs_agent.h"

#if defined(__x86_64__) && !defined(ALLOCS_INEXE)
// The function that is replaced has no arguments and no result, and its callers were compiled to
// expect that it may change whatever any function may change. The stub changes no register all the
// same, because it is not known who else calls the function.
__attribute__((naked)) void allocs_debugger_stub(void) {
  __asm__(
      "pushq %rax\n pushq %rcx\n pushq %rdx\n pushq %rsi\n pushq %rdi\n"
      "pushq %r8\n pushq %r9\n pushq %r10\n pushq %r11\n"
      ".cfi_adjust_cfa_offset 72\n"
      "subq $256, %rsp\n"
      ".cfi_adjust_cfa_offset 256\n"
      "movups %xmm0, (%rsp)\n movups %xmm1, 16(%rsp)\n movups %xmm2, 32(%rsp)\n movups %xmm3, 48(%rsp)\n"
      "movups %xmm4, 64(%rsp)\n movups %xmm5, 80(%rsp)\n movups %xmm6, 96(%rsp)\n movups %xmm7, 112(%rsp)\n"
      "movups %xmm8, 128(%rsp)\n movups %xmm9, 144(%rsp)\n movups %xmm10, 160(%rsp)\n movups %xmm11, 176(%rsp)\n"
      "movups %xmm12, 192(%rsp)\n movups %xmm13, 208(%rsp)\n movups %xmm14, 224(%rsp)\n movups %xmm15, 240(%rsp)\n"
      "callq allocs_modules_changed\n"
      "movups (%rsp), %xmm0\n movups 16(%rsp), %xmm1\n movups 32(%rsp), %xmm2\n movups 48(%rsp), %xmm3\n"
      "movups 64(%rsp), %xmm4\n movups 80(%rsp), %xmm5\n movups 96(%rsp), %xmm6\n movups 112(%rsp), %xmm7\n"
      "movups 128(%rsp), %xmm8\n movups 144(%rsp), %xmm9\n movups 160(%rsp), %xmm10\n movups 176(%rsp), %xmm11\n"
      "movups 192(%rsp), %xmm12\n movups 208(%rsp), %xmm13\n movups 224(%rsp), %xmm14\n movups 240(%rsp), %xmm15\n"
      "addq $256, %rsp\n"
      ".cfi_adjust_cfa_offset -256\n"
      "popq %r11\n popq %r10\n popq %r9\n popq %r8\n"
      "popq %rdi\n popq %rsi\n popq %rdx\n popq %rcx\n popq %rax\n"
      ".cfi_adjust_cfa_offset -72\n"
      "retq\n");
}
#else
void allocs_debugger_stub(void) {}
#endif
