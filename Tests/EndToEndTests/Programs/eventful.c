// Allocates on command, one a line on standard input, and says "done" after each:
//
//   pairs N SIZE     N times malloc(SIZE) and free
//   thread N SIZE    the same on a new thread named "helper", which ends
//   keep SIZE        one malloc, kept; says its address first
//   map SIZE         maps so many bytes and unmaps them; says their address first
//   end              exits
//   exec             runs this program anew in its place, which says "ready" again
//   die              kills itself in the middle of pairs

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct work {
  long count;
  size_t size;
};

static void *volatile last;

__attribute__((noinline)) static void pairs(struct work work) {
  for (long i = 0; i < work.count; i++) {
    last = malloc(work.size);
    free(last);
  }
}

static void *help(void *argument) {
  pthread_setname_np(pthread_self(), "helper");
  pairs(*(struct work *)argument);
  return NULL;
}

int main(int argc, char **argv) {
  (void)argc;
  // Without buffers: the program allocates nothing but what it is told to.
  setvbuf(stdin, NULL, _IONBF, 0);
  setvbuf(stdout, NULL, _IONBF, 0);
  printf("ready\n");
  char command[16];
  while (scanf("%15s", command) == 1) {
    struct work work = {0, 0};
    if (!strcmp(command, "end")) break;
    if (!strcmp(command, "exec")) {
      execv("/proc/self/exe", argv);
      return 4;
    }
    if (!strcmp(command, "die")) {
      work = (struct work){1000, 48};
      pairs(work);
      kill(getpid(), SIGKILL);
    }
    if (!strcmp(command, "keep")) {
      if (scanf("%zu", &work.size) != 1) return 2;
      printf("%p\n", malloc(work.size));
    } else if (!strcmp(command, "map")) {
      if (scanf("%zu", &work.size) != 1) return 2;
      void *mapped = mmap(NULL, work.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (mapped == MAP_FAILED || munmap(mapped, work.size)) return 5;
      printf("%p\n", mapped);
    } else {
      if (scanf("%ld %zu", &work.count, &work.size) != 2) return 2;
      if (!strcmp(command, "thread")) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, help, &work)) return 3;
        pthread_join(thread, NULL);
      } else {
        pairs(work);
      }
    }
    printf("done\n");
  }
  return 0;
}
