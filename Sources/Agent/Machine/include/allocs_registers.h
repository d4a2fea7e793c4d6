// SPDX-License-Identifier: Apache-2.0
// All registers of x86-64 that a call may change, saved around a call in the machine's own
// language: for hooks at places whose callers count on every register that the function they call
// leaves alone.

#ifndef ALLOCS_REGISTERS_H
#define ALLOCS_REGISTERS_H
#if defined(__x86_64__)

#define ALLOCS_PUSH_REGISTERS                                        \
  "pushq %rax\n pushq %rcx\n pushq %rdx\n pushq %rsi\n pushq %rdi\n" \
  "pushq %r8\n pushq %r9\n pushq %r10\n pushq %r11\n"                \
  ".cfi_adjust_cfa_offset 72\n"
#define ALLOCS_POP_REGISTERS                                         \
  "popq %r11\n popq %r10\n popq %r9\n popq %r8\n"                    \
  "popq %rdi\n popq %rsi\n popq %rdx\n popq %rcx\n popq %rax\n"      \
  ".cfi_adjust_cfa_offset -72\n"

// The vector registers take 256 bytes from `offset` above the stack pointer. The stack need not be
// aligned there.
#define ALLOCS_VECTOR_REGISTERS ".irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
#define ALLOCS_SAVE_VECTORS(offset) \
  ALLOCS_VECTOR_REGISTERS "movups %xmm\\number, " #offset "+16*\\number(%rsp)\n .endr\n"
#define ALLOCS_RESTORE_VECTORS(offset) \
  ALLOCS_VECTOR_REGISTERS "movups " #offset "+16*\\number(%rsp), %xmm\\number\n .endr\n"

#endif
#endif
