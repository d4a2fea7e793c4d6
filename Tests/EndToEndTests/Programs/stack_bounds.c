// Threads whose first allocation is libc's, in the middle of pthread_getattr_np, which holds the thread's lock meanwhile: as
// runtimes with collectors (java, ruby) start theirs. The agent must not ask libc for the same then.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static void *block;

static void *start(void *argument) {
  (void)argument;
  pthread_attr_t attributes;
  void *low;
  size_t size;
  if (pthread_getattr_np(pthread_self(), &attributes) != 0) return "no attributes";
  if (pthread_attr_getstack(&attributes, &low, &size) != 0) return "no stack";
  pthread_attr_destroy(&attributes);
  free(block);
  block = malloc(100);
  return block ? NULL : "no memory";
}

int main(void) {
  for (int i = 0; i < 20; i++) {
    pthread_t thread;
    void *failure;
    if (pthread_create(&thread, NULL, start, NULL) != 0 || pthread_join(thread, &failure) != 0) return 1;
    if (failure) {
      puts(failure);
      return 1;
    }
  }
  puts("20 threads know their stacks");
  return 0;
}
