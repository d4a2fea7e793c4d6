// SPDX-License-Identifier: Apache-2.0
// Becomes another user, as a server does that root has started: dropped UID [fork]. With "fork" it has a child from then
// on. Prints its id, and its child's, then "ready", and ends with its standard input.
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int count, char **arguments) {
  uid_t user = (uid_t)atoi(arguments[1]);
  if (setresgid(user, user, user) != 0 || setresuid(user, user, user) != 0) return 1;
  void *block = malloc(100);
  printf("process %d %p\n", getpid(), block);
  fflush(stdout);
  pid_t child = 0;
  if (count > 2) {
    child = fork();
    if (child == 0) {
      free(malloc(200));
      for (;;) pause();
    }
    printf("child %d 0\n", child);
  }
  printf("ready\n");
  fflush(stdout);
  while (getchar() != EOF) {}
  if (child > 0) kill(child, SIGKILL);
  free(block);
  return 0;
}
