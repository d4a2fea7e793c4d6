// A thread whose first allocation is the one that libc makes while it holds the thread's own lock,
// as in every thread of a JVM: pthread_getattr_np. Sets what it was told against what it knows.
// With -DFIRST_CALL_WRAPPER the library that counts calls of malloc and leads on, between libc and
// the agent.
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef FIRST_CALL_WRAPPER
// A counter under a lock that must not be taken twice.
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned long calls;
#define NEXT(name)                    \
  static __typeof__(&name) next;      \
  if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
void *malloc(size_t size) {
  NEXT(malloc);
  pthread_mutex_lock(&lock);
  calls++;
  void *block = next(size);
  pthread_mutex_unlock(&lock);
  return block;
}
void *calloc(size_t count, size_t size) {
  static char early[4096];
  static size_t used;
  static __typeof__(&calloc) next;
  static int isLooking;
  if (!next && isLooking) return early + (used += (count * size + 15) / 16 * 16) - (count * size + 15) / 16 * 16;
  isLooking = 1;
  if (!next) next = (__typeof__(&calloc))dlsym(RTLD_NEXT, "calloc");
  pthread_mutex_lock(&lock);
  calls++;
  void *block = next(count, size);
  pthread_mutex_unlock(&lock);
  return block;
}
void *realloc(void *old, size_t size) {
  NEXT(realloc);
  pthread_mutex_lock(&lock);
  calls++;
  void *block = next(old, size);
  pthread_mutex_unlock(&lock);
  return block;
}
void free(void *block) {
  NEXT(free);
  next(block);
  __asm__ volatile("" ::: "memory");
}
#else
static void *thread(void *unused) {
  pthread_attr_t attributes;
  void *start;
  size_t size;
  if (pthread_getattr_np(pthread_self(), &attributes) != 0) return unused;
  pthread_attr_getstack(&attributes, &start, &size);
  pthread_attr_destroy(&attributes);
  char here;
  return &here > (char *)start && &here < (char *)start + size ? (void *)1 : NULL;
}

int main(int count, char **arguments) {
  // Keys of the program's own, so that the agent's may be one for whose value libc would allocate.
  for (int i = 0; i < (count > 1 ? atoi(arguments[1]) : 0); i++) {
    pthread_key_t key;
    if (pthread_key_create(&key, NULL) != 0) return 2;
  }
  for (int i = 0; i < 300; i++) {
    pthread_t one;
    void *result = NULL;
    pthread_create(&one, NULL, thread, NULL);
    pthread_join(one, &result);
    if (!result) return 1;
  }
  puts("done");
  return 0;
}
#endif
