// SPDX-License-Identifier: Apache-2.0
// Keeps all rings of a segment full: pump FILE OFFSET RINGS BYTES_OF_A_RING. Every 20 ms each ring gains as many
// records as it has room for.
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int count, char **words) {
  if (count != 5) return 1;
  int descriptor = open(words[1], O_RDWR);
  uint64_t rings = strtoull(words[3], NULL, 0), size = strtoull(words[4], NULL, 0), records = (size - 4096) / 32;
  char *first = mmap(NULL, rings * size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor,
                     (off_t)strtoull(words[2], NULL, 0));
  if (first == MAP_FAILED) return 1;
  for (uint64_t written = 0;; usleep(20000)) {
    written += records - 64;
    for (uint64_t ring = 0; ring < rings; ++ring) {
      volatile uint64_t *words_of_ring = (uint64_t *)(first + ring * size);
      words_of_ring[1] = written + 64;
      words_of_ring[0] = written;
    }
  }
}
