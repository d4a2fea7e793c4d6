// Traces the process that is named, without stopping it, until it is killed.

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <unistd.h>

int main(int argc, char **argv) {
  if (argc != 2 || ptrace(PTRACE_SEIZE, atoi(argv[1]), NULL, NULL) != 0) {
    fprintf(stderr, "tracer: %s\n", strerror(errno));
    return 1;
  }
  puts("ready");
  fflush(stdout);
  for (;;) pause();
}
