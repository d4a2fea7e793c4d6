// Linked with asking.c: allocates by the library's own functions and by malloc, gives back by both, and says what must be
// known, as direct.c does.
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void *asking_allocate(size_t size);
void asking_free(void *block);

int main(void) {
  setvbuf(stdout, NULL, _IONBF, 0);
  printf("live own %p 2001\n", asking_allocate(2001));
  printf("live malloc %p 2002\n", malloc(2002));
  void *one = asking_allocate(2003);
  printf("live fence %p 2004\n", malloc(2004));
  void *other = malloc(2005);
  printf("live fence %p 2006\n", malloc(2006));
  free(one);
  asking_free(other);
  printf("freed own %p 2003\nfreed malloc %p 2005\n", one, other);
  printf("ready\n");
  // Not by getchar, which would allocate, and use memory that is free.
  char byte;
  while (read(0, &byte, 1) > 0) {
  }
  return 0;
}
