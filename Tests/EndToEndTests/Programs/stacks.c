// Difficult frames, all on the thread's own stack. The first argument says which.

#include <alloca.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/time.h>

#include "stacks.h"

#define FRAME __attribute__((noinline, noclone))
static unsigned long random_state = 88172645463325252UL;
static unsigned random_number(unsigned below) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return (unsigned)(random_state >> 20) % below;
}
static volatile char sink;
static void use(void *memory, size_t size) {
  memset(memory, 1, size);
  sink = ((volatile char *)memory)[size / 2];
}

// MARK: frames of many kinds, in any order

FRAME static void leaf(void) {
  STACKS_HERE(24);
  if (random_number(3) == 0) STACKS_HERE(72);
}
FRAME static void tree(int depth);

FRAME static void plain(int depth) {
  tree(depth);
  STACKS_BARRIER;
}
FRAME static void wide(int depth) {
  char buffer[4000];
  use(buffer, sizeof buffer);
  tree(depth);
  STACKS_BARRIER;
}
FRAME static void dynamic(int depth) {
  size_t size = 16 + random_number(3000);
  use(alloca(size), size);
  tree(depth);
  STACKS_BARRIER;
}
FRAME static void variable(int depth) {
  size_t size = 16 + random_number(3000);
  char array[size];
  use(array, size);
  for (int i = 0; i < 2; i++) {
    char inner[1 + random_number(200)];
    use(inner, sizeof inner);
    if (i == 1) tree(depth);
  }
  STACKS_BARRIER;
}
FRAME static void aligned(int depth) {
  _Alignas(64) char buffer[256];
  use(buffer, sizeof buffer);
  tree(depth);
  STACKS_BARRIER;
}
FRAME static void aligned_dynamic(int depth) {
  _Alignas(64) char buffer[256];
  size_t size = 16 + random_number(500);
  use(buffer, sizeof buffer);
  use(alloca(size), size);
  tree(depth);
  STACKS_BARRIER;
}
__attribute__((force_align_arg_pointer)) FRAME static void forced(int depth) {
  tree(depth);
  STACKS_BARRIER;
}
__attribute__((optimize("no-omit-frame-pointer"))) FRAME static void pointered(int depth) {
  tree(depth);
  STACKS_BARRIER;
}
__attribute__((optimize("O0"))) FRAME static void unoptimized(int depth) {
  char buffer[40];
  use(buffer, sizeof buffer);
  tree(depth);
  STACKS_BARRIER;
}
// Nine arguments: some are pushed, so the stack pointer moves within the function.
FRAME static int pushed(int a, int b, int c, int d, int e, int f, int g, int h, int depth) {
  tree(depth);
  STACKS_BARRIER;
  return a + b + c + d + e + f + g + h;
}
FRAME static void pushing(int depth) {
  sink = (char)pushed(1, 2, 3, 4, 5, 6, 7, 8, depth);
  STACKS_BARRIER;
}
// Leaves no frame: it ends in a jump.
FRAME static void passing(int depth) { tree(depth + (int)random_number(1)); }

FRAME static void tree(int depth) {
  static void (*const kinds[])(int) = {plain,  wide,      dynamic,     variable, aligned, aligned_dynamic,
                                       forced, pointered, unoptimized, pushing,  passing};
  int calls = random_number(8) == 0 ? 2 : 1;
  for (int i = 0; i < calls; i++) {
    if (depth == 0 || random_number(12) == 0) leaf();
    else kinds[random_number(sizeof kinds / sizeof *kinds)](depth - 1);
  }
  STACKS_BARRIER;
}

// MARK: frames as large as a stack allows

FRAME static void huge(int depth) {
  char buffer[300000];
  use(buffer, sizeof buffer);
  STACKS_HERE(40);
  if (depth > 0) huge(depth - 1);
  STACKS_BARRIER;
}
FRAME static void enormous(void) {
  char buffer[4 << 20];
  use(buffer, sizeof buffer);
  STACKS_HERE(40);
  tree(8);
  STACKS_BARRIER;
}

// MARK: leaving many frames at once

static jmp_buf away;
FRAME static void deeper(int depth) {
  if (depth > 0) deeper(depth - 1);
  else {
    STACKS_HERE(56);
    if (random_number(2)) longjmp(away, 1);
  }
  STACKS_BARRIER;
}
FRAME static void jumping(int depth) {
  char pad[16 + depth];
  use(pad, sizeof pad);
  if (setjmp(away) == 0) deeper(depth);
  STACKS_HERE(88);
}

// MARK: recursion

FRAME static void recurse(int depth) {
  if (depth > 0) recurse(depth - 1);
  else STACKS_HERE(24);
  if (depth % 10000 == 0) STACKS_HERE(104);
  else if (depth % 7 == 0) {
    void *volatile block = malloc(136);
    free(block);
  }
  STACKS_BARRIER;
}

// A block's size is the depth at which it was allocated.
FRAME static void descend(int depth, int end, int every) {
  if (depth % every == 0) STACKS_ALLOCATE(stacks_mark, STACKS_ANY, (size_t)depth);
  if (depth < end) descend(depth + 1, end, every);
  if (depth % every == 0) STACKS_ALLOCATE(stacks_mark, STACKS_ANY, (size_t)depth);
  STACKS_BARRIER;
}

// MARK: signals

static volatile int may_allocate;
static volatile long interruptions;
static int rearmed;
// Each signal asks for the next one: where a handler takes longer than that time, a timer that went on by itself would
// interrupt the same instruction again and again.
static void start_timer(int microseconds) {
  struct itimerval once = {{0, 0}, {0, microseconds}};
  if (setitimer(ITIMER_REAL, &once, NULL) != 0) stacks_fail("setitimer");
}
static void on_timer(int signal) {
  (void)signal;
  interruptions++;
  if (may_allocate && stacks_used < 3000) STACKS_ALLOCATE(stacks_walk, STACKS_PREFIX, 48);
  start_timer(rearmed);
}
FRAME static void handled(int signal) {
  (void)signal;
  STACKS_HERE(48);
  tree(4);
  STACKS_BARRIER;
}
FRAME static void work(int depth) {
  char buffer[200];
  use(buffer, sizeof buffer);
  if (depth > 0) work(depth - 1);
  for (int i = 0; i < 50; i++) random_number(7);
  STACKS_BARRIER;
}
static void catch_signal(int signal, void (*handler)(int), int flags) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = handler;
  action.sa_flags = flags | SA_RESTART;
  if (sigaction(signal, &action, NULL) != 0) stacks_fail("sigaction");
}
// `high` puts the alternate stack above or below by who maps it; a small one lies in the heap.
static void use_alternate_stack(size_t size) {
  stack_t stack;
  memset(&stack, 0, sizeof stack);
  stack.ss_size = size;
  stack.ss_sp = size > 100000 ? mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) : malloc(size);
  if (sigaltstack(&stack, NULL) != 0) stacks_fail("sigaltstack");
}
FRAME static void raise_within(int depth) {
  if (depth > 0) raise_within(depth - 1);
  else raise(SIGUSR1);
  STACKS_BARRIER;
}
static void timed(int flags) {
  catch_signal(SIGALRM, on_timer, flags);
  rearmed = 1000;
  start_timer(rearmed);
  may_allocate = 1;
  // The handler allocates, so nothing here may.
  while (interruptions < 300) work((int)random_number(40));
  may_allocate = 0;
  // Now the agent's own code is what is interrupted.
  for (long end = interruptions + 300; interruptions < end;) {
    void *blocks[64];
    for (int i = 0; i < 64; i++) blocks[i] = malloc(random_number(2000));
    for (int i = 0; i < 64; i++) free(blocks[i]);
  }
  rearmed = 0;
  start_timer(0);
}

int main(int count, char **arguments) {
  const char *what = count > 1 ? arguments[1] : "";
  if (strcmp(what, "frames") == 0) {
    while (stacks_used < 6000) tree((int)random_number(60));
  } else if (strcmp(what, "huge") == 0) {
    huge(8);
    enormous();
    tree(5);
  } else if (strcmp(what, "longjmp") == 0) {
    for (int i = 0; i < 1000; i++) jumping((int)random_number(80));
  } else if (strcmp(what, "recursion") == 0) {
    recurse(100000);
    tree(5);
  } else if (strcmp(what, "depths") == 0) {
    // By steps that leave frames of the last capture in place, and by steps that leave none.
    descend(1, 600, 1);
    descend(1, 20000, 1997);
    descend(1, 100000, 19997);
  } else if (strcmp(what, "signals") == 0) {
    catch_signal(SIGUSR1, handled, 0);
    for (int i = 0; i < 50; i++) raise_within((int)random_number(30));
  } else if (strcmp(what, "alternate") == 0) {
    catch_signal(SIGUSR1, handled, SA_ONSTACK);
    size_t sizes[] = {64 << 10, 1 << 20, 80 << 10};
    for (int i = 0; i < 60; i++) {
      if (i % 20 == 0) use_alternate_stack(sizes[i / 20]);
      raise_within((int)random_number(30));
      tree(3);
    }
  } else if (strcmp(what, "timer") == 0) {
    timed(0);
  } else if (strcmp(what, "timer-alternate") == 0) {
    use_alternate_stack(1 << 20);
    timed(SA_ONSTACK);
  } else {
    return 98;
  }
  return stacks_finish(what);
}
