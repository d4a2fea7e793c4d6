// How a call of x86-64 comes in. The return address is on the stack, right below the caller's frame.
#ifndef ALLOCS_ENTRY_X86_H
#define ALLOCS_ENTRY_X86_H
#if defined(__x86_64__)

// To `hook`, with where the return address lies, and the frame pointer, as the arguments after the first COUNT.
#define ALLOCS_ENTRY_1(hook) "movq %rsp, %rsi\n movq %rbp, %rdx\n jmp " #hook
#define ALLOCS_ENTRY_2(hook) "movq %rsp, %rdx\n movq %rbp, %rcx\n jmp " #hook
#define ALLOCS_ENTRY_3(hook) "movq %rsp, %rcx\n movq %rbp, %r8\n jmp " #hook

// To the hook OFF, or by the instructions ON if events are on.
#ifdef ALLOCS_WITHOUT_EVENTS
#define ALLOCS_BY_EVENTS(off, on) "jmp " #off "\n"
#else
#define ALLOCS_BY_EVENTS(off, on) \
  "cmpl $0, allocs_control_page(%rip)\n jne 2f\n jmp " #off "\n 2:\n" on "\n"
#endif

// The function below malloc: a pointer of Terminal's, or a name.
#ifdef ALLOCS_TERMINAL_MALLOC
#define ALLOCS_CALL_TERMINAL "callq " ALLOCS_TERMINAL_MALLOC "\n"
#else
#define ALLOCS_CALL_TERMINAL "callq *allocs_process_state(%rip)\n"
#endif
#define ALLOCS_STRING(number) #number
#define ALLOCS_OFFSET(number) ALLOCS_STRING(number)
// malloc: takes the thread's block, calls the function below, goes on to a hook with the block, the
// size and the same two: that of fine slots, if an allocator other than glibc's has made a small
// block.
#define ALLOCS_ENTRY_MALLOC                                                                                     \
  "movq allocs_thread_local@GOTTPOFF(%rip), %rax\n"                                                             \
  "cmpq $0, %fs:(%rax)\n"                                                                                       \
  "je 1f\n"                                                                                                     \
  "movq $0, %fs:(%rax)\n" /* allocs_enter */                                                                    \
  "pushq %rdi\n"                                                                                                \
  ".cfi_adjust_cfa_offset 8\n"                                                                                  \
  ALLOCS_CALL_TERMINAL                                                                                          \
  "popq %rsi\n"                                                                                                 \
  ".cfi_adjust_cfa_offset -8\n"                                                                                 \
  "movq %rax, %rdi\n"                                                                                           \
  "movq %rsp, %rdx\n"                                                                                           \
  "movq %rbp, %rcx\n"                                                                                           \
  "cmpq allocs_process_state+" ALLOCS_OFFSET(ALLOCS_TERMINAL_FINE_SIZE_OFFSET) "(%rip), %rsi\n"                 \
  "jb 3f\n"                                                                                                     \
  ALLOCS_BY_EVENTS(allocs_hook_malloced, "jmp allocs_hook_malloced_recorded")                                    \
  "3:\n jmp allocs_hook_malloced_fine\n"                                                                        \
  "1:\n" ALLOCS_ENTRY_1(allocs_hook_malloc)

// Functions hooked by a signature: r11 has their struct allocs_hooked. The last puts all arguments into an array.
#define ALLOCS_ENTRY_HOOKED_MALLOC "movq %r11, %rsi\n movq %rsp, %rdx\n movq %rbp, %rcx\n jmp allocs_hook_hooked_malloc"
#define ALLOCS_ENTRY_HOOKED_FREE "movq %r11, %rdx\n movq %rsp, %rcx\n movq %rbp, %r8\n jmp allocs_hook_hooked_free"
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

// The same with the struct allocs_hooked on the stack, for callers that count on any register: all that a call may
// change are put back, but for rax where the function returns something. Saved are rax to r11, below them xmm0 to
// xmm15, below them lie the arguments.
#define ALLOCS_ENTRY_PRESERVING(hook)                                          \
  ".cfi_adjust_cfa_offset 8\n"                                                 \
  "pushq %rax\n pushq %rcx\n pushq %rdx\n pushq %rsi\n pushq %rdi\n"            \
  "pushq %r8\n pushq %r9\n pushq %r10\n pushq %r11\n"                           \
  "subq $312, %rsp\n"                                                          \
  ".cfi_adjust_cfa_offset 384\n"                                               \
  "movaps %xmm0, 48(%rsp)\n" \
  "movaps %xmm1, 64(%rsp)\n" \
  "movaps %xmm2, 80(%rsp)\n" \
  "movaps %xmm3, 96(%rsp)\n" \
  "movaps %xmm4, 112(%rsp)\n" \
  "movaps %xmm5, 128(%rsp)\n" \
  "movaps %xmm6, 144(%rsp)\n" \
  "movaps %xmm7, 160(%rsp)\n" \
  "movaps %xmm8, 176(%rsp)\n" \
  "movaps %xmm9, 192(%rsp)\n" \
  "movaps %xmm10, 208(%rsp)\n" \
  "movaps %xmm11, 224(%rsp)\n" \
  "movaps %xmm12, 240(%rsp)\n" \
  "movaps %xmm13, 256(%rsp)\n" \
  "movaps %xmm14, 272(%rsp)\n" \
  "movaps %xmm15, 288(%rsp)\n" \
  "movq %rdi, (%rsp)\n movq %rsi, 8(%rsp)\n movq %rdx, 16(%rsp)\n"             \
  "movq %rcx, 24(%rsp)\n movq %r8, 32(%rsp)\n movq %r9, 40(%rsp)\n"            \
  "movq 384(%rsp), %rdi\n"                                                     \
  "movq %rsp, %rsi\n"                                                          \
  "leaq 392(%rsp), %rdx\n"                                                     \
  "movq %rbp, %rcx\n"                                                          \
  "callq " #hook "\n"                                                          \
  "movq 384(%rsp), %rcx\n"                                                     \
  "movq " ALLOCS_OFFSET(ALLOCS_HOOKED_SIGNATURE_OFFSET) "(%rcx), %rcx\n"       \
  "cmpb $" ALLOCS_OFFSET(ALLOCS_FREE_NUMBER) ", " ALLOCS_OFFSET(ALLOCS_SIGNATURE_OPERATION_OFFSET) "(%rcx)\n" \
  "je 1f\n"                                                                    \
  "movq %rax, 376(%rsp)\n"                                                     \
  "1:\n"                                                                       \
  "movaps 48(%rsp), %xmm0\n" \
  "movaps 64(%rsp), %xmm1\n" \
  "movaps 80(%rsp), %xmm2\n" \
  "movaps 96(%rsp), %xmm3\n" \
  "movaps 112(%rsp), %xmm4\n" \
  "movaps 128(%rsp), %xmm5\n" \
  "movaps 144(%rsp), %xmm6\n" \
  "movaps 160(%rsp), %xmm7\n" \
  "movaps 176(%rsp), %xmm8\n" \
  "movaps 192(%rsp), %xmm9\n" \
  "movaps 208(%rsp), %xmm10\n" \
  "movaps 224(%rsp), %xmm11\n" \
  "movaps 240(%rsp), %xmm12\n" \
  "movaps 256(%rsp), %xmm13\n" \
  "movaps 272(%rsp), %xmm14\n" \
  "movaps 288(%rsp), %xmm15\n" \
  "addq $312, %rsp\n"                                                          \
  "popq %r11\n popq %r10\n popq %r9\n popq %r8\n"                              \
  "popq %rdi\n popq %rsi\n popq %rdx\n popq %rcx\n popq %rax\n"                \
  ".cfi_adjust_cfa_offset -384\n"                                              \
  "leaq 8(%rsp), %rsp\n"                                                       \
  ".cfi_adjust_cfa_offset -8\n"                                                \
  "retq"

// free: who frees is asked for only while events are on.
#define ALLOCS_ENTRY_FREE ALLOCS_BY_EVENTS(allocs_hook_free, ALLOCS_ENTRY_1(allocs_hook_free_recorded))

// The head of an operator new or delete, and in its body the same two: above the saved frame pointer lies the return
// address.
#define ALLOCS_OPERATOR(visibility, result, name, parameters) visibility result name parameters
// Any other exported function written in C.
#define ALLOCS_FRAMED(type, name, parameters) ALLOCS_OPERATOR(ALLOCS_EXPORT, type, name, parameters)
#define ALLOCS_CALLER (uintptr_t)__builtin_frame_address(0) + 8, *(uint64_t *)__builtin_frame_address(0)

#endif
#endif
