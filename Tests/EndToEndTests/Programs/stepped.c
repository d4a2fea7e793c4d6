// A program that makes a child at every single instruction of some calls of the allocator.
//
//   stepped fork|_Fork STRIDE     a child at each STRIDE-th instruction
//
// The processor traps after each instruction of a call; the handler of that signal makes the child, which finishes the
// interrupted call, allocates and frees on, and leaves. A child that ends in another way is said with the address of the
// instruction behind which it came to be. The calls are such that each slow path of a hook is stepped through: call
// stacks that are new, blocks in regions of their own, the first event of a thread.

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>

#include "call_stacks.h"
#include "record.h"
#include "stepping.h"

enum { trap_flag = 0x100 };
static volatile sig_atomic_t is_child;
static volatile unsigned long steps, children, failed;
static unsigned long stride;
static char way;

static void on_trap(int number, siginfo_t *info, void *context) {
  (void)number;
  (void)info;
  ucontext_t *state = context;
  if (is_child) {
    state->uc_mcontext.gregs[REG_EFL] &= ~trap_flag;
    return;
  }
  if (steps++ % stride != 0) return;
  int before = errno;
  pid_t child = way == 'f' ? fork() : _Fork();
  if (child == 0) {
    is_child = 1;
    state->uc_mcontext.gregs[REG_EFL] &= ~trap_flag;
  } else if (child > 0) {
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
    children++;
    if (status != 0 && failed++ < 400)
      record_say("failed: status %x at %llx\n", status, (unsigned long long)state->uc_mcontext.gregs[REG_RIP]);
  }
  errno = before;
}

// What a child does once it is out of the interrupted call.
static void leave_child(void) {
  void *blocks[200];
  for (int i = 0; i < 200; i++) blocks[i] = malloc((size_t)(i * 37 % 5000));
  for (int i = 0; i < 200; i++) {
    blocks[i] = realloc(blocks[i], (size_t)(i * 91 % 9000 + 1));
    free(blocks[i]);
  }
  _exit(0);
}

// Runs a statement step by step.
#define STEPPED(statement)           \
  do {                               \
    set_trap_flag();                 \
    statement;                       \
    clear_trap_flag();               \
    if (is_child) leave_child();     \
  } while (0)

static void *kept[64];
static int kept_count;

__attribute__((noinline)) static void innermost(int kind) {
  void *block = NULL;
  switch (kind) {
    case 0: STEPPED(block = malloc(40)); break;
    case 1: STEPPED(block = malloc(9 << 20)); break;
    case 2: STEPPED(block = aligned_alloc(4096, 8192)); break;
    case 3:
      block = malloc(50);
      STEPPED(block = realloc(block, 300000));
      break;
    case 4:
      block = calloc(3, 100);
      STEPPED(free(block));
      return;
    case 5:
      block = malloc(8 << 20);
      STEPPED(free(block));
      return;
    case 6:
      STEPPED(block = mmap(NULL, 1 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
      STEPPED(munmap(block, 1 << 20));
      return;
    default: return;
  }
  kept[kept_count++ % 64] = block;
}

int main(int argc, char **argv) {
  if (argc != 3) record_fail("usage: stepped fork|_Fork STRIDE");
  way = argv[1][0];
  stride = strtoul(argv[2], NULL, 10);
  struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
  sigaction(SIGTRAP, &action, NULL);
  for (int kind = 0; kind <= 6; kind++) {
    // A path that nothing was allocated on before, and the path again.
    for (int again = 0; again < 2; again++) left(0x5A5u * (unsigned)(kind + 1), 12, kind);
  }
  record_say("steps %lu children %lu failed %lu\n", steps, children, failed);
  return failed == 0 ? 0 : 1;
}
