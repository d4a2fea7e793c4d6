// What a program may ask of its C library's allocator and its neighbours, in a few lines: compiled
// for another C library than glibc.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static void *thread(void *number) {
  unsigned long sum = 0;
  for (unsigned i = 0; i < 5000; i++) {
    unsigned char *block = malloc(i % 300 + 1);
    block[0] = (unsigned char)i;
    block = realloc(block, 500);
    sum += block[0];
    free(block);
  }
  return (void *)(sum + (unsigned long)number);
}

int main(int count, char **arguments) {
  char *text = malloc(10);
  strcpy(text, "hello");
  text = realloc(text, 100000);
  char *zeros = calloc(10, 10);
  void *aligned = NULL;
  int result = posix_memalign(&aligned, 64, 100);
  void *others[] = {aligned_alloc(64, 128), memalign(32, 10), valloc(100)};
  void *volatile large = malloc((size_t)-100);
  int error = errno;
  printf("%s %d %d %d %d %d\n", text, zeros[99], result, !large, error == ENOMEM, malloc_usable_size(text) >= 100000);
  for (int i = 0; i < 3; i++) free(others[i]);
  free(aligned);
  free(zeros);
  void *mapped = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  mapped = mremap(mapped, 8192, 65536, MREMAP_MAYMOVE);
  printf("%d %d\n", mapped != MAP_FAILED, munmap(mapped, 65536));
  fflush(stdout);
  int status = 0;
  pid_t child = fork();
  if (child == 0) _exit(malloc(1000) ? 7 : 1);
  waitpid(child, &status, 0);
  pthread_t threads[4];
  unsigned long sum = 0;
  for (unsigned long i = 0; i < 4; i++) pthread_create(&threads[i], NULL, thread, (void *)i);
  for (int i = 0; i < 4; i++) {
    void *part = NULL;
    pthread_join(threads[i], &part);
    sum += (unsigned long)part;
  }
  printf("%d %lu\n", WEXITSTATUS(status), sum);
  void *self = dlopen(NULL, RTLD_NOW);
  printf("%d %d %s\n", self != NULL, dlclose(self), count > 1 ? arguments[1] : "");
  return 5;
}
