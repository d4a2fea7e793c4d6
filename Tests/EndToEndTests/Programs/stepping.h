// Steps through calls: while the processor's trap flag is set, SIGTRAP comes behind each instruction, from the one on that
// follows the first.

#ifndef STEPPING_H
#define STEPPING_H

static inline void set_trap_flag(void) {
  __asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq" ::: "memory", "cc");
}

static inline void clear_trap_flag(void) {
  __asm__ volatile("pushfq; andq $~0x100, (%%rsp); popfq" ::: "memory", "cc");
}

#endif
