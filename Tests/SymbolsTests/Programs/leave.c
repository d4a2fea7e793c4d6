#include <stdlib.h>
extern void probe(const char *name);
__attribute__((noreturn)) void leave(void) {
  probe("leave");
  exit(0);
}
