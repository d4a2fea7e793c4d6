// Many call stacks, all different: of two functions that call each other in an order of a number's bits.

#ifndef CALL_STACKS_H
#define CALL_STACKS_H

// What the program does at the innermost call of each.
static void innermost(int what);

// From the lowest bit on, `depth` bits of `path` say which function is called at each level, 1 for `left`.
static void left(unsigned path, int depth, int what);
static void right(unsigned path, int depth, int what);

// What comes behind the calls keeps the frame; and the compiler would make one function of two that are alike, and one
// call stack of all.
#define CALL_STACKS_STEP(name)                                                           \
  __attribute__((noinline, no_icf)) static void name(unsigned path, int depth, int what) { \
    if (depth == 0) innermost(what);                                                     \
    else if (path & 1) left(path >> 1, depth - 1, what);                                 \
    else right(path >> 1, depth - 1, what);                                              \
    __asm__ volatile("" ::: "memory");                                                   \
  }
CALL_STACKS_STEP(left)
CALL_STACKS_STEP(right)

// On each of 2^`depth` stacks.
static inline void on_each_stack(int depth, int what) {
  for (unsigned path = 0; path < 1u << depth; path++) left(path, depth, what);
}

#endif
