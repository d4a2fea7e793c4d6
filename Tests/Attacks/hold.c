// SPDX-License-Identifier: Apache-2.0
// A process that holds segments as one with the agent does: for each path on its standard input it maps the start of
// the file, takes the lock of its first byte, and says so. A path with an address behind it, and a tab between them, is
// mapped there, as a module is. It ends with its input. Where it has gained another user's rights, it lets itself be
// looked into, as a program may that means harm to whoever has started it.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(void) {
  char path[8192];
  if (geteuid() != 0 && getuid() != geteuid()) prctl(PR_SET_DUMPABLE, 1);
  while (fgets(path, sizeof path, stdin) != NULL) {
    path[strcspn(path, "\n")] = 0;
    char *address = strchr(path, '\t');
    if (address != NULL) *address++ = 0;
    int descriptor = open(path, address != NULL ? O_RDONLY | O_CLOEXEC : O_RDWR | O_CLOEXEC), held = 0;
    if (descriptor >= 0 && address != NULL) {
      void *place = (void *)strtoull(address, NULL, 0);
      held = mmap(place, 0x8000, PROT_READ, MAP_PRIVATE | MAP_FIXED_NOREPLACE, descriptor, 0) == place;
    } else if (descriptor >= 0) {
      struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
      void *start = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
      held = start != MAP_FAILED && fcntl(descriptor, F_OFD_SETLK, &lock) == 0;
    }
    if (descriptor >= 0) close(descriptor);
    puts(held ? "held" : "failed");
    fflush(stdout);
  }
  return 0;
}
