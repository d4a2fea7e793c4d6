// SPDX-License-Identifier: Apache-2.0
// How a call of AArch64 gets to its hook. The return address is in register x30. An entry stores it
// where a call of x86-64 would have, right below the caller's frame, as the upper word of a frame
// record, and takes the record away when the hook returns.
#ifndef ALLOCS_ENTRY_ARM_H
#define ALLOCS_ENTRY_ARM_H
#if defined(__aarch64__)

#define ALLOCS_RECORD \
  "stp x29, x30, [sp, #-16]!\n .cfi_def_cfa_offset 16\n .cfi_offset 29, -16\n .cfi_offset 30, -8\n"
#define ALLOCS_CALL(hook)                                                              \
  "mov x29, sp\n bl " hook "\n ldp x29, x30, [sp], #16\n"                              \
  " .cfi_def_cfa_offset 0\n .cfi_restore 29\n .cfi_restore 30\n ret\n"

// To `hook`, with the address of the return address and the frame pointer as the arguments behind
// the first 1, 2, 3 or 4.
#define ALLOCS_ENTRY_1(hook) ALLOCS_RECORD "add x1, sp, #8\n mov x2, x29\n" ALLOCS_CALL(#hook)
#define ALLOCS_ENTRY_2(hook) ALLOCS_RECORD "add x2, sp, #8\n mov x3, x29\n" ALLOCS_CALL(#hook)
#define ALLOCS_ENTRY_3(hook) ALLOCS_RECORD "add x3, sp, #8\n mov x4, x29\n" ALLOCS_CALL(#hook)
#define ALLOCS_ENTRY_4(hook) ALLOCS_RECORD "add x4, sp, #8\n mov x5, x29\n" ALLOCS_CALL(#hook)

// malloc has its own path, as on x86-64 (entry_x86.h): it takes the thread's block and calls the
// function below. Then it goes on to a hook with the block, the size, the address of the return
// address and the frame pointer: to the hook of fine slots, if an allocator other than glibc's has
// made a small block. It goes to `hook` instead if the thread has no block to take.
#define ALLOCS_ENTRY_MALLOC(hook)                                                                   \
  "adrp x8, :gottprel:allocs_thread_local\n"                                                        \
  "ldr x8, [x8, :gottprel_lo12:allocs_thread_local]\n"                                              \
  "mrs x9, tpidr_el0\n"                                                                             \
  "ldr x10, [x9, x8]\n"                                                                             \
  "cbz x10, 1f\n"                                                                                   \
  "str xzr, [x9, x8]\n" /* allocs_enter */                                                          \
  "stp x29, x30, [sp, #-32]!\n"                                                                     \
  ".cfi_remember_state\n .cfi_def_cfa_offset 32\n .cfi_offset 29, -32\n .cfi_offset 30, -24\n"       \
  "str x0, [sp, #16]\n"                                                                             \
  "mov x29, sp\n"                                                                                   \
  "adrp x8, allocs_process_state\n"                                                                 \
  "ldr x8, [x8, :lo12:allocs_process_state]\n"                                                      \
  "blr x8\n"                                                                                        \
  "ldr x1, [sp, #16]\n"                                                                             \
  "ldp x29, x30, [sp], #32\n"                                                                       \
  ".cfi_restore_state\n"                                                                            \
  "adrp x8, allocs_fine_size\n"                                                                     \
  "ldr x8, [x8, :lo12:allocs_fine_size]\n"                                                          \
  "cmp x1, x8\n"                                                                                    \
  "b.lo 3f\n"                                                                                       \
  "adrp x8, allocs_control_page\n" /* events */                                                     \
  "ldr w8, [x8, :lo12:allocs_control_page]\n"                                                       \
  "cbnz w8, 2f\n"                                                                                   \
  ".cfi_remember_state\n"                                                                           \
  ALLOCS_ENTRY_2(allocs_hook_malloced)                                                              \
  "2:\n .cfi_restore_state\n"                                                                       \
  ".cfi_remember_state\n"                                                                           \
  ALLOCS_ENTRY_2(allocs_hook_malloced_recorded)                                                     \
  "3:\n .cfi_restore_state\n"                                                                       \
  ".cfi_remember_state\n"                                                                           \
  ALLOCS_ENTRY_2(allocs_hook_malloced_fine)                                                         \
  ".cfi_restore_state\n"                                                                            \
  "1:\n" ALLOCS_ENTRY_1(hook)

// free: who frees is asked for only while events are on.
#define ALLOCS_ENTRY_FREE(hook)                            \
  "adrp x8, allocs_control_page\n"                         \
  "ldr w8, [x8, :lo12:allocs_control_page]\n"              \
  "cbnz w8, 1f\n"                                          \
  "b " #hook "\n"                                          \
  "1:\n" ALLOCS_ENTRY_1(hook##_recorded)

// The head of an operator new or delete. Its body has a frame record of its own somewhere in its
// frame, which leads to the record of the entry: there ALLOCS_CALLER finds the address of the
// return address, and the caller's frame pointer.
#define ALLOCS_OPERATOR(visibility, result, name, parameters)                              \
  __attribute__((used)) ALLOCS_HIDDEN result allocs##name parameters;                      \
  visibility __attribute__((naked)) result name parameters {                               \
    __asm__(ALLOCS_RECORD ALLOCS_CALL("allocs" #name));                                    \
  }                                                                                        \
  result allocs##name parameters
// The head of any other exported function written in C.
#define ALLOCS_FRAMED(type, name, parameters) ALLOCS_OPERATOR(ALLOCS_EXPORT, type, name, parameters)
#define ALLOCS_CALLER \
  *(uintptr_t *)__builtin_frame_address(0) + 8, **(uint64_t **)__builtin_frame_address(0)

#endif
#endif
