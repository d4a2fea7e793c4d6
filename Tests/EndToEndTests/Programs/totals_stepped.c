// Known numbers of blocks at known sites, while a signal handler allocates behind every instruction of the calls. Needs
// an allocator that bears it (signal_safe.c).
//
// The processor traps after each instruction of a call, and the handler of that signal allocates a block of its own,
// which it keeps. The calls are such that each slow path of a hook is stepped through: call stacks that are new, blocks
// in regions of their own. Check point 0: behind all calls; the record has the handler's blocks, and the program has
// said "plain N zeroed N grown N aligned N handled N".

#include <signal.h>
#include <ucontext.h>

#include "call_stacks.h"
#include "record.h"
#include "stepping.h"

SITE_BOUNDS(plain) SITE_BOUNDS(zeroed) SITE_BOUNDS(grown) SITE_BOUNDS(aligned) SITE_BOUNDS(handled)
SITE(plain) static void *plain(size_t size) { void *p = malloc(size); KEEP(p); return p; }
SITE(zeroed) static void *zeroed(size_t size) { void *p = calloc(1, size); KEEP(p); return p; }
SITE(grown) static void *grown(void *old, size_t size) { void *p = realloc(old, size); KEEP(p); return p; }
SITE(aligned) static void *aligned(size_t size) { void *p = aligned_alloc(64, size); KEEP(p); return p; }
SITE(handled) static void *handled(size_t size) { void *p = malloc(size); KEEP(p); return p; }

enum { block_limit = 1 << 19 };
static struct record_block *blocks;
static volatile unsigned long handler_blocks, calls[4];

static void on_trap(int number) {
  (void)number;
  if (handler_blocks == block_limit) return;
  blocks[handler_blocks++] = (struct record_block){(uint64_t)handled(71), 71, 0, 4, 0};
}

#define STEPPED(statement)  \
  do {                      \
    set_trap_flag();        \
    statement;              \
    clear_trap_flag();      \
  } while (0)

__attribute__((noinline)) static void innermost(int kind) {
  void *block = NULL;
  switch (kind) {
    case 0: STEPPED(block = plain(40)); calls[0]++; break;
    case 1: STEPPED(block = plain(9 << 20)); calls[0]++; break;
    case 2: STEPPED(block = zeroed(80)); calls[1]++; break;
    case 3: STEPPED(block = grown(NULL, 50)); STEPPED(block = grown(block, 90)); calls[2] += 2; break;
    case 4: STEPPED(block = aligned(128)); calls[3]++; break;
    default: break;
  }
  STEPPED(free(block));
}

int main(void) {
  blocks = record_memory(block_limit * sizeof *blocks);
  int sites = record_open("sites");
  record_site(sites, 0, __start_site_plain, __stop_site_plain, "plain");
  record_site(sites, 1, __start_site_zeroed, __stop_site_zeroed, "zeroed");
  record_site(sites, 2, __start_site_grown, __stop_site_grown, "grown");
  record_site(sites, 3, __start_site_aligned, __stop_site_aligned, "aligned");
  record_site(sites, 4, __start_site_handled, __stop_site_handled, "handled");
  close(sites);
  struct sigaction action = {.sa_handler = on_trap};
  sigaction(SIGTRAP, &action, NULL);
  for (int kind = 0; kind <= 4; kind++) {
    // A path that nothing was allocated on before, and the path again.
    for (int again = 0; again < 3; again++) left(0x5A5u * (unsigned)(kind + 1), 12, kind);
  }
  if (handler_blocks == block_limit) record_fail("more steps than the record has room for");
  record_say("plain %lu zeroed %lu grown %lu aligned %lu handled %lu\n", calls[0], calls[1], calls[2], calls[3],
             handler_blocks);
  record_checkpoint(0, blocks, handler_blocks);
  return 0;
}
