// Allocates 100 blocks at one place, changes a node of that stack in its own index, and allocates 10 more: what stands there is
// then wrong, and an agent that checks its stacks must notice.

#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../../Sources/SharedLayout/include/SharedLayout.h"

// The one segment in ALLOCS_DIR.
static int open_segment(void) {
  char path[4096] = "";
  DIR *directory = opendir(getenv("ALLOCS_DIR"));
  for (struct dirent *entry; directory && (entry = readdir(directory));) {
    if (strstr(entry->d_name, ".seg")) snprintf(path, sizeof path, "%s/%s", getenv("ALLOCS_DIR"), entry->d_name);
  }
  if (directory) closedir(directory);
  return open(path, O_RDWR);
}

__attribute__((noinline)) static void allocate(void) {
  void *volatile block = malloc(40);
  free(block);
}

int main(void) {
  int segment = open_segment();
  struct allocs_header header;
  struct allocs_section nodes;
  // Volatile, so that the 100 and the 10 come from one call: another one would be another stack.
  for (volatile int i = 0; i < 110; i++) {
    if (i == 100) {
      if (pread(segment, &header, sizeof header, 0) != sizeof header) return 1;
      nodes = header.sections[ALLOCS_SECTION_NODES];
      // The newest node: the innermost frame of the newest stack. Entries behind it are not given out yet.
      struct allocs_node node = {0};
      off_t place = 0;
      for (uint64_t id = nodes.used; node.pc == 0 && id-- > 1;) {
        place = (off_t)(nodes.offset + id * nodes.entry_size);
        if (pread(segment, &node, sizeof node, place) != sizeof node) return 1;
      }
      node.pc ^= 1;
      if (pwrite(segment, &node, sizeof node, place) != sizeof node) return 1;
    }
    allocate();
  }
  return 0;
}
