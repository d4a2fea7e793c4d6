// Allocates as many blocks as its argument says, each of 48 bytes. Says the first address, the last, and one that is free again.
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int count, char **arguments) {
  if (count < 2) return 2;
  setvbuf(stdout, NULL, _IONBF, 0);
  long number = atol(arguments[1]);
  void *first = malloc(48), *last = first;
  void *gone = malloc(48);
  for (long index = 0; index < number; index++) last = malloc(48);
  free(gone);
  printf("%p %p %p\nready\n", first, last, gone);
  // Not by getchar, which would allocate, and use memory that is free.
  char byte;
  while (read(0, &byte, 1) > 0) {
  }
  return 0;
}
