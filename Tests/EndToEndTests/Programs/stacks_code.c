// Code of which nothing, or nothing good, is known: built without call frame information and with values of rbp that are no
// frame pointers. Built with STACKS_POINTERS if it keeps frame pointers.

#include "stacks.h"

#define FRAME __attribute__((noinline, noclone))

#if STACKS_POINTERS
// The truth from the chain of frame pointers, up to main, whose caller keeps none.
extern int main(int, char **);
static uint64_t *last_frame;
#define HERE(size) STACKS_ALLOCATE(chain, STACKS_BEGINS, size)
FRAME static struct stacks_entry *chain(enum stacks_expectation expectation) {
  struct stacks_entry *entry = stacks_new(expectation);
  for (uint64_t *frame = __builtin_frame_address(0); entry->count < 100; frame = (uint64_t *)frame[0]) {
    entry->pcs[entry->count++] = frame[1];
    if (frame == last_frame) break;
  }
  return entry;
}
#else
#define HERE(size) STACKS_ALLOCATE(stacks_mark, STACKS_ANY, size)
#endif

FRAME static void leaf(void) { HERE(24); }
FRAME static void nested(int depth) {
  if (depth > 0) nested(depth - 1);
  else leaf();
  HERE(56);
}

// Calls `function` with `value` in rbp: with_value says so in its call frame information, unknown_value has none.
void with_value(uint64_t value, void (*function)(void));
void unknown_value(uint64_t value, void (*function)(void));
__asm__(
    ".text\n"
    ".globl with_value, unknown_value\n"
    "with_value:\n.cfi_startproc\n"
    "  push %rbp\n.cfi_def_cfa_offset 16\n.cfi_offset 6,-16\n"
    "  mov %rdi,%rbp\n  call *%rsi\n"
    "  pop %rbp\n.cfi_def_cfa_offset 8\n  ret\n.cfi_endproc\n"
    "unknown_value:\n"
    "  push %rbp\n  mov %rdi,%rbp\n  call *%rsi\n  pop %rbp\n  ret\n"
    ".text\n");

static void within(void) {
  STACKS_ALLOCATE(stacks_mark, STACKS_ANY, 40);
  STACKS_BARRIER;
}

FRAME static void wild(void) {
  uint64_t here = (uint64_t)__builtin_frame_address(0);
  uint64_t heap = (uint64_t)malloc(4096);
  uint8_t *unmapped = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  munmap(unmapped + 4096, 4096);
  const uint64_t fixed[] = {
      0,    1,    7,     8,     4096, 0x10000, UINT64_MAX, UINT64_MAX - 7, 1UL << 63, 0xFFFFFFFF81000000, 0x7FFFFFFFFFFF,
      0x7FFFFFFFFFF8, 0x800000000000, heap, heap + 1, (uint64_t)&within, (uint64_t)unmapped + 4096, (uint64_t)unmapped + 4088,
      here, here + 1, here + 4, here - 8, here - 4096, here - (1 << 20), here + 64, here + 4096,
  };
  for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) {
    with_value(fixed[i], within);
    unknown_value(fixed[i], within);
  }
  // Every word up to the end of the stack and beyond: environment, auxiliary vector, the end itself.
  extern char **environ;
  uint64_t end = (uint64_t)environ[0] + 16384;
  for (uint64_t value = here; value < end; value += value < here + 2048 ? 1 : 104) {
    with_value(value, within);
    unknown_value(value, within);
    if (stacks_used > STACKS_COUNT - 500) break;
  }
}

// Machine code made at run time, as by a compiler in the program: call *rdi, without and with a frame pointer.
FRAME static void generated(void) {
  static const uint8_t bare[] = {0x48, 0x83, 0xEC, 0x08, 0xFF, 0xD7, 0x48, 0x83, 0xC4, 0x08, 0xC3};
  static const uint8_t pointered[] = {0x55, 0x48, 0x89, 0xE5, 0xFF, 0xD7, 0x5D, 0xC3};
  uint8_t *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (code == MAP_FAILED) stacks_fail("mmap");
  memcpy(code, bare, sizeof bare);
  memcpy(code + 64, pointered, sizeof pointered);
  for (int i = 0; i < 10; i++) {
    ((void (*)(void (*)(void)))(uintptr_t)code)(within);
    ((void (*)(void (*)(void)))(uintptr_t)(code + 64))(leaf);
  }
}

int main(int count, char **arguments) {
  (void)arguments;
  if (count != 2) return 98;
#if STACKS_POINTERS
  last_frame = __builtin_frame_address(0);
#endif
  for (int i = 0; i < 40; i++) nested(i);
  generated();
  wild();
  nested(3);
  return stacks_finish("code");
}
