// Blocks of operator new inside which the program's own code runs, which allocates and frees as well.
//
//   handled_new WHEN ACTION
//
// WHEN: "stepped", by a signal handler behind every instruction of the call; "handler", by the new-handler, as the first
// call of malloc inside the operator fails; or, built with -DOWN, "own", by the operator itself, which is the program's.
// The first two need an allocator that bears it (signal_safe.c). ACTION: what that code does (`act`).
//
// Check point 0: behind all calls. The record has all blocks that live, and the program has said "made N", how many of
// them operator new has returned.

#include <csetjmp>
#include <csignal>
#include <new>

#include "record.h"

enum { rounds = 8 };
enum site { site_made, site_handled, site_grown, site_lost };
SITE_BOUNDS(made) SITE_BOUNDS(handled) SITE_BOUNDS(grown)
SITE(made) static void *made(size_t size) { void *p = ::operator new(size); KEEP(p); return p; }
SITE(made) static void *made_array(size_t size) { void *p = ::operator new[](size, std::nothrow); KEEP(p); return p; }
SITE(handled) static void *handled(size_t size) { void *p = malloc(size); KEEP(p); return p; }
SITE(handled) static void *handled_new(size_t size) { void *p = ::operator new(size); KEEP(p); return p; }
SITE(grown) static void *grown(void *old, size_t size) { void *p = realloc(old, size); KEEP(p); return p; }

enum { block_limit = 1 << 19 };
static struct record_block *blocks;
static size_t count, first_kept;

static void keep(void *p, size_t size, site where) {
  if (count < block_limit) blocks[count++] = (struct record_block){(uint64_t)p, size, 0, (uint32_t)where, 0};
}

static const char *action;
static volatile bool is_full, is_acting, escapes;
static sigjmp_buf outside;

// The allocator (signal_safe.c) asks, below the agent.
extern "C" int allocator_is_full(void) { return is_full; }

static void act(void) {
  if (count == block_limit || !is_acting) return;
  is_acting = false;
  void *p[3];
  switch (action[0]) {
    case 'f':  // frees as many as the digit says
      for (int i = 0; i < action[1] - '0'; i++) p[i] = handled(71);
      for (int i = 0; i < action[1] - '0'; i++) free(p[i]);
      break;
    case 'k':  // keeps one of two
      p[0] = handled(71);
      keep(handled(71), 71, site_handled);
      free(p[0]);
      break;
    case 'l':  // keeps the last, and frees what lies between
      keep(handled(71), 71, site_handled);
      free(handled(71));
      break;
    case 'r':  // resizes one and keeps it
      keep(grown(handled(71), 203), 203, site_grown);
      break;
    case 'R':  // resizes one and frees it
      free(grown(handled(71), 203));
      break;
    case 'x':  // fails to resize one
      p[0] = handled(71);
      if (realloc(p[0], (size_t)1 << 46) != nullptr) record_fail("there was memory");
      keep(p[0], 71, site_handled);
      break;
    case 'o':  // frees one of an earlier time
      while (first_kept < count && blocks[first_kept].site != site_handled) first_kept++;
      if (first_kept < count) {
        free((void *)blocks[first_kept].address);
        blocks[first_kept++].address = 0;
      }
      keep(handled(71), 71, site_handled);
      break;
    case 'n':  // by operators
      p[0] = handled_new(71);
      keep(handled_new(71), 71, site_handled);
      ::operator delete(p[0]);
      break;
    default:  // leaves by an exception, or a jump
      free(handled(71));
      if (escapes) {
        escapes = false;
        if (action[0] == 'u') throw std::bad_alloc();
        siglongjmp(outside, 1);
      }
  }
  is_acting = true;
}

#ifdef OWN
// What the operator has got and not returned is the program's, too.
void *operator new(size_t size) {
  bool leaves = escapes;
  escapes = false;
  act();
  void *p = malloc(size);
  if (p == nullptr) throw std::bad_alloc();
  if (leaves) keep(p, size, site_lost);
  escapes = leaves;
  act();
  return p;
}
void operator delete(void *p) noexcept { free(p); }
void operator delete(void *p, size_t) noexcept { free(p); }
#endif

static void on_trap(int) { act(); }

static void make_room(void) {
  is_full = false;
  is_acting = true;
  act();
  is_acting = false;
}

// The trap comes behind the instruction that follows the popfq.
#define STEPPED(statement)                                                               \
  do {                                                                                   \
    __asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq" ::: "memory", "cc");          \
    statement;                                                                           \
    __asm__ volatile("pushfq; andq $~0x100, (%%rsp); popfq" ::: "memory", "cc");        \
  } while (0)

// A block of operator new; null if the call was left.
__attribute__((noinline)) static void *attempt(char when, int round, size_t size) {
  void *volatile p = nullptr;
  is_full = when == 'h';
  is_acting = when != 'h';
  if (sigsetjmp(outside, 1) == 0) {
    try {
      if (when == 's') STEPPED(p = round < 4 ? made(size) : made_array(size));
      else p = round < 4 ? made(size) : made_array(size);
    } catch (std::bad_alloc &) {
    }
  }
  is_acting = false;
  return p;
}

int main(int, char **arguments) {
  char when = arguments[1][0];
  action = arguments[2];
  blocks = (struct record_block *)record_memory(block_limit * sizeof *blocks);
  int sites = record_open("sites");
  record_site(sites, site_made, __start_site_made, __stop_site_made, "made");
  record_site(sites, site_handled, __start_site_handled, __stop_site_handled, "handled");
  record_site(sites, site_grown, __start_site_grown, __stop_site_grown, "grown");
  close(sites);
  struct sigaction trap = {};
  trap.sa_handler = on_trap;
  sigaction(SIGTRAP, &trap, nullptr);
  std::set_new_handler(make_room);
  unsigned long returned = 0;
  for (int round = 0; round < rounds; round++) {
    size_t size = round % 2 == 0 ? 24 : 104;
    // The first call of an action that leaves does so.
    if (action[0] == 'u' || action[0] == 'j') {
      escapes = true;
      if (attempt(when, round, size) != nullptr) record_fail("operator new returned against its orders");
      escapes = false;
    }
    void *p = attempt(when, round, size);
    if (p == nullptr) record_fail("operator new failed");
    keep(p, size, site_made);
    returned++;
  }
  if (count == block_limit) record_fail("more steps than the record has room for");
  record_say("made %lu\n", returned);
  record_checkpoint(0, blocks, count);
  return 0;
}
