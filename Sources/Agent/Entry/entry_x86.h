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
// The function below: a pointer of Terminal's, or a name.
#ifdef ALLOCS_TERMINAL_MALLOC
#define ALLOCS_CALL_TERMINAL "callq " ALLOCS_TERMINAL_MALLOC "\n"
#else
#define ALLOCS_CALL_TERMINAL "callq *allocs_process_state(%rip)\n"
#endif
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
  ALLOCS_CALL_TERMINAL                                                                                          \
  "popq %rsi\n"                                                                                                 \
  ".cfi_adjust_cfa_offset -8\n"                                                                                 \
  "movq %rax, %rdi\n"                                                                                           \
  "movq %rsp, %rdx\n"                                                                                           \
  "movq %rbp, %rcx\n"                                                                                           \
  "cmpl $0, allocs_control_page(%rip)\n" /* events */                                                           \
  "jne 2f\n"                                                                                                    \
  "jmp allocs_hook_malloced\n"                                                                                  \
  "2:\n"                                                                                                        \
  "jmp allocs_hook_malloced_recorded\n"                                                                         \
  "1:\n" ALLOCS_ENTRY_1(allocs_hook_malloc)

// Functions hooked by a signature: r11 has their struct allocs_hooked. The last puts all arguments into an array.
#define ALLOCS_ENTRY_HOOKED_MALLOC "movq %r11, %rsi\n movq %rsp, %rdx\n movq %rbp, %rcx\n jmp allocs_hook_hooked_malloc"
#define ALLOCS_ENTRY_HOOKED_FREE "movq %r11, %rdx\n jmp allocs_hook_hooked_free"
#define ALLOCS_ENTRY_HOOKED(hook)                           \
  "pushq %r9\n pushq %r8\n pushq %rcx\n pushq %rdx\n pushq %rsi\n pushq %rdi\n" \
  ".cfi_adjust_cfa_offset 48\n"                             \
  "movq %rsp, %rsi\n"                                       \
  "leaq 48(%rsp), %rdx\n"                                   \
  "movq %rbp, %rcx\n"                                       \
  "movq %r11, %rdi\n"                                       \
  "subq $8, %rsp\n"                                         \
  ".cfi_adjust_cfa_offset 8\n"                              \
  "callq " #hook "\n"                                       \
  "addq $56, %rsp\n"                                        \
  ".cfi_adjust_cfa_offset -56\n"                            \
  "retq"

// free: who frees is asked for only while events are on.
#define ALLOCS_ENTRY_FREE                            \
  "cmpl $0, allocs_control_page(%rip)\n"             \
  "jne 1f\n"                                         \
  "jmp allocs_hook_free\n"                           \
  "1:\n" ALLOCS_ENTRY_1(allocs_hook_free_recorded)

// The head of an operator new or delete, and in its body the same two: above the saved frame pointer lies the return address.
#define ALLOCS_OPERATOR(result, name, parameters) ALLOCS_EXPORT result name parameters
// Any other exported function written in C.
#define ALLOCS_FRAMED(type, name, parameters) ALLOCS_OPERATOR(type, name, parameters)
#define ALLOCS_CALLER (uintptr_t)__builtin_frame_address(0) + 8, *(uint64_t *)__builtin_frame_address(0)

#endif
#endif
