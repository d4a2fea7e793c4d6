// Lines that end in a mark ("@" and a name) are where a test expects a frame.
#include <stdint.h>

extern void probe(const char *name);

int counters[16] = {1, 2, 3};
char zeroed[4096];
static const char *const words[] = {"a", "b"};
static _Thread_local int thread_value = 3;

static inline __attribute__((always_inline)) void innermost(int value) {
  counters[value & 15]++;
  probe("inlined");  // @innermost
}

static inline __attribute__((always_inline)) void middle(int value) {
  if (value > 1)
    innermost(value + 1);  // @middle
}

__attribute__((noinline)) int outer(int value) {
  middle(value * 2);  // @outer
  return value + thread_value;
}

static __attribute__((noinline)) int hidden(int value) {
  probe("hidden");  // @hidden
  return value + zeroed[value] + words[value & 1][0];
}

// Its call is its last instruction: the return address lies in the next function.
__attribute__((noinline, noreturn)) void last(void) {
  extern void leave(void) __attribute__((noreturn));
  probe("before-last");  // @before-last
  leave();
}

int main(int argc, char **argv) {
  (void)argv;
  counters[5] = outer(argc + 3);
  counters[4] = hidden(argc);
  last();
}
