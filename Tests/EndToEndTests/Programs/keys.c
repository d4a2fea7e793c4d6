// A library that takes forty of libc's keys before anybody else, when it is preloaded.
#include <pthread.h>
__attribute__((constructor(101))) static void take(void) {
  for (int i = 0; i < 40; i++) {
    pthread_key_t key;
    pthread_key_create(&key, NULL);
  }
}
