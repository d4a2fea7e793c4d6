// SPDX-License-Identifier: Apache-2.0
// Exchanges two names of a directory without end: exchange DIRECTORY NAME NAME, and a third name at will, which takes
// turns with the second.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int main(int count, char **words) {
  if (count < 4 || chdir(words[1]) != 0) return 1;
  for (unsigned long turn = 0;; ++turn) {
    renameat2(AT_FDCWD, words[2], AT_FDCWD, words[3 + (count > 4 ? turn / 2 % 2 : 0)], RENAME_EXCHANGE);
    // Seldom: the moment between two system calls is short.
    if (turn % 4096 == 0) usleep(50);
  }
}
