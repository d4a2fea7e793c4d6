// SPDX-License-Identifier: Apache-2.0
// How a call of x86-64 gets to its hook. The return address is on the stack, right below the
// caller's frame.
#ifndef ALLOCS_ENTRY_X86_H
#define ALLOCS_ENTRY_X86_H
#if defined(__x86_64__)

#include "allocs_registers.h"

#define ALLOCS_STRING(number) #number
#define ALLOCS_DIGITS(number) ALLOCS_STRING(number)

// To `hook`, with the address of the return address and the frame pointer as the arguments behind
// the first 1, 2, 3 or 4.
#define ALLOCS_ENTRY_1(hook) "movq %rsp, %rsi\n movq %rbp, %rdx\n jmp " #hook
#define ALLOCS_ENTRY_2(hook) "movq %rsp, %rdx\n movq %rbp, %rcx\n jmp " #hook
#define ALLOCS_ENTRY_3(hook) "movq %rsp, %rcx\n movq %rbp, %r8\n jmp " #hook
#define ALLOCS_ENTRY_4(hook) "movq %rsp, %r8\n movq %rbp, %r9\n jmp " #hook

// To the hook OFF while events are off, else by the instructions ON.
#ifdef ALLOCS_WITHOUT_EVENTS
#define ALLOCS_BY_EVENTS(off, on) "jmp " #off "\n"
#else
#define ALLOCS_BY_EVENTS(off, on) "cmpl $0, allocs_control_page(%rip)\n je " #off "\n" on "\n"
#endif

// Calls the function below malloc: through the pointer that Terminal keeps, or by a name.
#ifdef ALLOCS_TERMINAL_MALLOC
#define ALLOCS_CALL_TERMINAL "callq " ALLOCS_TERMINAL_MALLOC "\n"
#else
#define ALLOCS_CALL_TERMINAL "callq *allocs_process_state(%rip)\n"
#endif

// malloc has its own path, for it is the function that programs call most. A hook around the call
// would have to keep what it knows in registers that are saved first; and stores that wait behind a
// missed cache line are what an allocation costs. Here the size is all that is kept.
//
// The path takes the thread's block and calls the function below. Then it goes on to a hook with
// the block, the size, the address of the return address and the frame pointer: to the hook of fine
// slots, if an allocator other than glibc's has made a small block. It goes to `hook` instead if
// the thread has no block to take.
#define ALLOCS_ENTRY_MALLOC(hook)                                                     \
  "movq allocs_thread_local@GOTTPOFF(%rip), %rax\n"                                   \
  "cmpq $0, %fs:(%rax)\n"                                                             \
  "je 1f\n"                                                                           \
  "movq $0, %fs:(%rax)\n" /* allocs_enter */                                          \
  "pushq %rdi\n"                                                                      \
  ".cfi_adjust_cfa_offset 8\n"                                                        \
  ALLOCS_CALL_TERMINAL                                                                \
  "popq %rsi\n"                                                                       \
  ".cfi_adjust_cfa_offset -8\n"                                                       \
  "movq %rax, %rdi\n"                                                                 \
  "movq %rsp, %rdx\n"                                                                 \
  "movq %rbp, %rcx\n"                                                                 \
  "cmpq allocs_fine_size(%rip), %rsi\n"                                               \
  "jb allocs_hook_malloced_fine\n"                                                    \
  ALLOCS_BY_EVENTS(allocs_hook_malloced, "jmp allocs_hook_malloced_recorded")         \
  "1:\n" ALLOCS_ENTRY_1(hook)

// free: who frees is asked for only while events are on.
#define ALLOCS_ENTRY_FREE(hook) ALLOCS_BY_EVENTS(hook, ALLOCS_ENTRY_1(hook##_recorded))

// Functions hooked by a signature: r11 has their struct allocs_hooked. The third of these macros
// puts all arguments into an array.
#define ALLOCS_ENTRY_HOOKED_MALLOC \
  "movq %r11, %rsi\n movq %rsp, %rdx\n movq %rbp, %rcx\n jmp allocs_hook_malloc_at_entry"
#define ALLOCS_ENTRY_HOOKED_FREE \
  "movq %r11, %rdx\n movq %rsp, %rcx\n movq %rbp, %r8\n jmp allocs_hook_free_at_entry"
#define ALLOCS_ENTRY_HOOKED(hook)                                                     \
  "pushq %r9\n pushq %r8\n pushq %rcx\n pushq %rdx\n pushq %rsi\n pushq %rdi\n"       \
  ".cfi_adjust_cfa_offset 48\n"                                                       \
  "movq %rsp, %rsi\n"                                                                 \
  "leaq 48(%rsp), %rdx\n"                                                             \
  "movq %rbp, %rcx\n"                                                                 \
  "movq %r11, %rdi\n"                                                                 \
  "subq $8, %rsp\n"                                                                   \
  ".cfi_adjust_cfa_offset 8\n"                                                        \
  "callq " #hook "\n"                                                                 \
  "addq $56, %rsp\n"                                                                  \
  ".cfi_adjust_cfa_offset -56\n"                                                      \
  "retq"

// For callers that count on any register. The struct allocs_hooked is on the stack, below the
// return address. All registers that a call may change are put back, but for rax where the function
// returns something. The stack then has, from the top: the struct, the nine registers that are
// pushed, 8 bytes for alignment, the vector registers, the array of the arguments.
#define ALLOCS_ENTRY_PRESERVING(hook)                                                 \
  ".cfi_adjust_cfa_offset 8\n"                                                        \
  ALLOCS_PUSH_REGISTERS                                                               \
  "subq $312, %rsp\n"                                                                 \
  ".cfi_adjust_cfa_offset 312\n"                                                      \
  ALLOCS_SAVE_VECTORS(48)                                                             \
  "movq %rdi, (%rsp)\n movq %rsi, 8(%rsp)\n movq %rdx, 16(%rsp)\n"                    \
  "movq %rcx, 24(%rsp)\n movq %r8, 32(%rsp)\n movq %r9, 40(%rsp)\n"                   \
  "movq 384(%rsp), %rdi\n"                                                            \
  "movq %rsp, %rsi\n"                                                                 \
  "leaq 392(%rsp), %rdx\n"                                                            \
  "movq %rbp, %rcx\n"                                                                 \
  "callq " #hook "\n"                                                                 \
  "movq 384(%rsp), %rcx\n"                                                            \
  "movq " ALLOCS_DIGITS(ALLOCS_HOOKED_SIGNATURE_OFFSET) "(%rcx), %rcx\n"              \
  "cmpb $" ALLOCS_DIGITS(ALLOCS_FREE_NUMBER) ", "                                     \
      ALLOCS_DIGITS(ALLOCS_SIGNATURE_OPERATION_OFFSET) "(%rcx)\n"                     \
  "je 1f\n"                                                                           \
  "movq %rax, 376(%rsp)\n"                                                            \
  "1:\n"                                                                              \
  ALLOCS_RESTORE_VECTORS(48)                                                          \
  "addq $312, %rsp\n"                                                                 \
  ".cfi_adjust_cfa_offset -312\n"                                                     \
  ALLOCS_POP_REGISTERS                                                                \
  "leaq 8(%rsp), %rsp\n"                                                              \
  ".cfi_adjust_cfa_offset -8\n"                                                       \
  "retq"

// The head of an operator new or delete. In its body, ALLOCS_CALLER is the address of the return
// address, which lies above the saved frame pointer, and that frame pointer.
#define ALLOCS_OPERATOR(visibility, result, name, parameters) visibility result name parameters
// The head of any other exported function written in C.
#define ALLOCS_FRAMED(type, name, parameters) ALLOCS_OPERATOR(ALLOCS_EXPORT, type, name, parameters)
#define ALLOCS_CALLER (uintptr_t)__builtin_frame_address(0) + 8, *(uint64_t *)__builtin_frame_address(0)

#endif
#endif
