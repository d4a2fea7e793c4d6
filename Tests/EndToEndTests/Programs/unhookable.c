// Defines malloc and free, and a free whose first instructions cannot be moved, in one of several ways. Hands out memory
// from one end. Prints how many blocks it gave to a loop. With -DHIDDEN, to be compiled with -fvisibility=hidden, the C
// library has its own.
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char memory[1 << 20] __attribute__((aligned(16)));
static size_t used, count;

__attribute__((noinline)) void *malloc(size_t size) {
  char *block = memory + used;
  used += (size + 15) & ~(size_t)15;
  count++;
  return used <= sizeof memory ? block : NULL;
}

void *calloc(size_t number, size_t size) {
  void *block = malloc(number * size);
  return block ? memset(block, 0, number * size) : NULL;
}

void *realloc(void *block, size_t size) {
  void *moved = malloc(size);
  if (moved && block) memcpy(moved, block, size);
  return moved;
}

#ifdef HIDDEN
#define VISIBILITY ".hidden free\n"
#else
#define VISIBILITY ""
#endif
#if defined(SHORT)
// Something else follows at once.
__asm__(".globl free\n" VISIBILITY ".type free, @function\nfree: ret\n.size free, . - free\nincl %eax\nret\n");
#elif defined(LOOP)
// Goes round between its second and third instruction.
__asm__(".globl free\n" VISIBILITY ".type free, @function\nfree: xorl %eax, %eax\n1: incl %eax\ncmpl $3, %eax\njl 1b\nret\n.size free, . - free\n");
#elif defined(GARBAGE)
// Behind its return lie bytes that are no instruction.
__asm__(".globl free\n" VISIBILITY ".type free, @function\nfree: xorl %eax, %eax\nnop\nnop\nnop\nret\n.byte 0x06, 0x06, 0x06\n.size free, . - free\n");
#elif defined(IFUNC)
static void free_nothing(void *block) { __asm__ volatile("" : : "r"(block)); }
static void (*resolve_free(void))(void *) { return free_nothing; }
void free(void *) __attribute__((ifunc("resolve_free")));
#elif defined(ORDINARY)
__attribute__((noinline)) void free(void *block) { __asm__ volatile("nop; nop; nop; nop; nop" : : "r"(block)); }
#else
#error "which way?"
#endif
extern void free(void *);

int main(void) {
  size_t before = count;
  for (int i = 0; i < 100; i++) free(malloc(100));
#ifdef HIDDEN
  // What the C library allocates for itself, and keeps.
  setvbuf(stdin, NULL, _IOFBF, 4096);
  if (getchar() != EOF) return 1;
#endif
  char line[64];
  int length = snprintf(line, sizeof line, "%zu\n", count - before);
  return write(1, line, (size_t)length) == length ? 0 : 1;
}
