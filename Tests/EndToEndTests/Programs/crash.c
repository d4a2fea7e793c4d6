// Crashes as soon as it can, with one block.

#include "record.h"
#include <signal.h>

int main(void) {
  int *volatile block = malloc(sizeof *block);
  if (!block) return 1;
  raise(SIGSEGV);
  return 2;
}
