// How a call of x86-64 comes in. The return address is on the stack, right below the caller's frame.
#ifndef ALLOCS_ENTRY_X86_H
#define ALLOCS_ENTRY_X86_H
#if defined(__x86_64__)

// To `hook`, with where the return address lies, and the frame pointer, as the arguments after the first COUNT.
#define ALLOCS_ENTRY_1(hook) "movq %rsp, %rsi\n movq %rbp, %rdx\n jmp " #hook
#define ALLOCS_ENTRY_2(hook) "movq %rsp, %rdx\n movq %rbp, %rcx\n jmp " #hook
#define ALLOCS_ENTRY_3(hook) "movq %rsp, %rcx\n movq %rbp, %r8\n jmp " #hook

// malloc: takes the thread's block, calls the function below for the padded size, goes on to the hook with the block, the
// size and the same two.
#define ALLOCS_STRING(number) #number
#define ALLOCS_OFFSET(number) ALLOCS_STRING(number)
#define ALLOCS_ENTRY_MALLOC                                                                                     \
  "movq allocs_thread_local@GOTTPOFF(%rip), %rax\n"                                                             \
  "cmpq $0, %fs:(%rax)\n"                                                                                       \
  "je 1f\n"                                                                                                     \
  "movq $0, %fs:(%rax)\n" /* allocs_enter */                                                                    \
  "pushq %rdi\n"                                                                                                \
  ".cfi_adjust_cfa_offset 8\n"                                                                                  \
  "movq allocs_process_state+" ALLOCS_OFFSET(ALLOCS_TERMINAL_MINIMUM_OFFSET) "(%rip), %rax\n" /* allocs_padded */ \
  "cmpq %rax, %rdi\n"                                                                                           \
  "cmovbq %rax, %rdi\n"                                                                                         \
  "callq *allocs_process_state(%rip)\n"                                                                         \
  "popq %rsi\n"                                                                                                 \
  ".cfi_adjust_cfa_offset -8\n"                                                                                 \
  "movq %rax, %rdi\n"                                                                                           \
  "movq %rsp, %rdx\n"                                                                                           \
  "movq %rbp, %rcx\n"                                                                                           \
  "jmp allocs_hook_malloced\n"                                                                                  \
  "1:\n" ALLOCS_ENTRY_1(allocs_hook_malloc)

// The head of an operator new, and in its body the same two: above the saved frame pointer lies the return address.
#define ALLOCS_OPERATOR_NEW(name, parameters) ALLOCS_EXPORT void *name parameters
#define ALLOCS_CALLER (uintptr_t)__builtin_frame_address(0) + 8, *(uint64_t *)__builtin_frame_address(0)

#endif
#endif
