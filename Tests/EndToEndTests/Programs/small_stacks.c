// Allocates in a signal handler on an alternate stack: small_stacks FLAGS SIZE WHAT. FLAGS are
// sigaltstack's; below the stack nothing can be touched. The block is named on standard output,
// with the functions that its stack must have.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void *volatile block;
static const char *what;
__attribute__((noinline)) static void handler_allocates(size_t size) {
  if (!strcmp(what, "malloc")) block = malloc(size);
  else if (!strcmp(what, "calloc")) block = calloc(1, size);
  else if (!strcmp(what, "realloc")) block = realloc(block, size);
  else if (!strcmp(what, "memalign") && posix_memalign((void **)&block, 64, size)) abort();
  else if (!strcmp(what, "mmap")) block = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  __asm__ volatile("" ::: "memory");
}
static void handler(int signal) {
  (void)signal;
  handler_allocates(321);
}
__attribute__((noinline)) static void interrupted_function(void) {
  raise(SIGUSR1);
  __asm__ volatile("" ::: "memory");
}

int main(int count, char **arguments) {
  if (count < 4) return 64;
  what = arguments[3];
  size_t size = strtoul(arguments[2], NULL, 0), page = 4096;
  char *memory = mmap(NULL, size + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  mprotect(memory, page, PROT_NONE);
  stack_t stack = {.ss_sp = memory + page, .ss_size = size, .ss_flags = (int)strtoul(arguments[1], NULL, 0)};
  if (sigaltstack(&stack, NULL) != 0) return 3;
  struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
  sigaction(SIGUSR1, &action, NULL);
  // The heap is there before.
  block = malloc(100);
  interrupted_function();
  interrupted_function();
  printf("%p\n", block);
  return 0;
}
