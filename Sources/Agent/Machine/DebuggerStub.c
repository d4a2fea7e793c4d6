// SPDX-License-Identifier: Apache-2.0
// DebuggerStub: the code to which the agent puts a jump, at the function that the dynamic linker
// calls when modules come and go (LaterModules.swift).
#include "allocs_agent.h"
#include "allocs_registers.h"

#if defined(__x86_64__) && !defined(ALLOCS_INEXE)
// The function that is replaced has no arguments and no result, and its callers were compiled to
// expect that it may change whatever any function may change. The stub changes no register all the
// same, because it is not known who else calls the function.
__attribute__((naked)) void allocs_debugger_stub(void) {
  __asm__(
      ALLOCS_PUSH_REGISTERS
      "subq $256, %rsp\n"
      ".cfi_adjust_cfa_offset 256\n"
      ALLOCS_SAVE_VECTORS(0)
      "callq allocs_modules_changed\n"
      ALLOCS_RESTORE_VECTORS(0)
      "addq $256, %rsp\n"
      ".cfi_adjust_cfa_offset -256\n"
      ALLOCS_POP_REGISTERS
      "retq\n");
}
#else
void allocs_debugger_stub(void) {}
#endif
