// Threads that allocate, a library that is opened and closed; with an argument, a read of a block that was freed.

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *work(void *argument) {
  for (size_t size = 1; size < 1000; size++) {
    char *block = malloc(size);
    memset(block, 1, size);
    block = realloc(block, 2 * size);
    free(block);
  }
  return argument;
}

int main(int count, char **arguments) {
  (void)arguments;
  pthread_t threads[4];
  for (int index = 0; index < 4; index++) pthread_create(&threads[index], NULL, work, NULL);
  for (int index = 0; index < 4; index++) pthread_join(threads[index], NULL);
  void *library = dlopen("libz.so.1", RTLD_NOW);
  if (library) dlclose(library);
  puts("done");
  fflush(stdout);
  if (count > 1) {
    char *volatile block = malloc(100);
    free(block);
    fprintf(stderr, "%d\n", ((volatile char *)block)[7]);
  }
  return 0;
}
