// A program that tells where its variables, stacks and mappings are: "NAME ADDRESS", a line each, NAME being what an answer
// should call it; then "ready". It waits for the end of its standard input.

#include <elf.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KEEP(p) __asm__ volatile("" : : "r"(p) : "memory")

struct client { int fd; struct client *next; char name[12]; };
union value { long integer; double real; struct { short low, high; } halves; };
struct server {
  int port;
  struct { unsigned long len, size; struct client table[3]; } clients;
  union value value;
  unsigned flag_a : 3, flag_b : 7;
  char tail;
  union { int anonymous_one; float anonymous_two; };
};
struct server server = {.port = 1};
static struct client *table[4];
int matrix[3][5];
__thread int local_number = 7;
static __thread struct client local_client;
extern char **environ;

static void say(const char *name, const void *address) { printf("%s %llu\n", name, (unsigned long long)(uintptr_t)address); }
#define SAY(expression) say(#expression, &(expression))

static sem_t ready, leave;
static pid_t worker_id;

__attribute__((noinline)) static void inner(long *outer_local) {
  volatile struct client on_stack = {.fd = 3};
  say("worker/on_stack.name", (const void *)on_stack.name);
  say("worker/outer_local", outer_local);
  KEEP(&on_stack);
  sem_post(&ready);
  sem_wait(&leave);
  KEEP(&on_stack);
}

static void *worker(void *argument) {
  (void)argument;
  worker_id = (pid_t)syscall(SYS_gettid);
  free(malloc(10));
  long outer_local = 5;
  say("worker/local_number", &local_number);
  pthread_attr_t attributes;
  void *low;
  size_t size;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &low, &size);
  pthread_attr_destroy(&attributes);
  say("worker/guard", (char *)low - 100);
  say("worker/stack", (char *)low + size / 2);
  say("worker/descriptor", (char *)pthread_self() + 16);
  inner(&outer_local);
  KEEP(&outer_local);
  return NULL;
}

// Never allocates, so that the index does not know it.
static pid_t silent_id;
static void *silent(void *argument) {
  (void)argument;
  silent_id = (pid_t)syscall(SYS_gettid);
  volatile int on_stack = 1;
  say("silent/local_number", &local_number);
  say("silent/descriptor", (char *)pthread_self() + 16);
  say("silent/on_stack", (const void *)&on_stack);
  sem_post(&ready);
  sem_wait(&leave);
  KEEP(&on_stack);
  return NULL;
}

__attribute__((noinline)) static void *map_for_test(size_t size) {
  void *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  KEEP(mapped);
  return mapped;
}
__attribute__((noinline)) static void *grow_for_test(intptr_t size) {
  void *old = sbrk(size);
  KEEP(old);
  return old;
}

static pid_t idle_id;
static void *idle(void *argument) {
  idle_id = (pid_t)syscall(SYS_gettid);
  sem_post(&ready);
  sem_wait(&leave);
  return argument;
}

// Three mappings side by side, which the kernel joins to one; in the middle one is the stack of a thread that never allocates.
enum { PAGE = 4096, STACK = 32 * PAGE };
__attribute__((noinline)) static void map_beside_stack(char *room, pthread_t *thread) {
  struct { size_t start, size; } parts[] = {{PAGE, PAGE}, {2 * PAGE, STACK}, {2 * PAGE + STACK, PAGE}};
  for (int i = 0; i < 3; i++)
    mmap(room + parts[i].start, parts[i].size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstack(&attributes, room + 2 * PAGE, STACK);
  pthread_create(thread, &attributes, idle, NULL);
  pthread_attr_destroy(&attributes);
  sem_wait(&ready);
  say("beside-below", room + PAGE + 7);
  say("beside-stack", room + 2 * PAGE + 7);
  say("beside-above", room + 2 * PAGE + STACK + 7);
}

int main(int argc, char **argv) {
  setvbuf(stdout, NULL, _IONBF, 0);
  free(malloc(1));
  static int inside_function[2];
  SAY(server);
  SAY(server.clients.len);
  SAY(server.clients.table[2].next);
  SAY(server.clients.table[1].name[5]);
  SAY(server.value);
  SAY(server.tail);
  SAY(server.anonymous_one);
  say("server.flag_a", (char *)&server.value + sizeof(union value));
  SAY(table[3]);
  SAY(matrix[2][4]);
  say("main::inside_function[1]", &inside_function[1]);
  say("code", (const void *)(uintptr_t)map_for_test);
  SAY(local_number);
  SAY(local_client.next);
  KEEP(inside_function);

  say("argv[1]", argv[1] + 2);
  say("pointer argv[1]", &argv[1]);
  say("PATH", getenv("PATH") + 1);
  say("AT_RANDOM", (const void *)getauxval(AT_RANDOM));
  char **end = environ;
  while (*end) end++;
  say("auxiliary", end + 1);
  say("vdso", (const char *)getauxval(AT_SYSINFO_EHDR) + 64);

  // Before anything is given back: this must not come to lie there.
  char *room_beside = mmap(NULL, STACK + 4 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  // Eight pages, with what later calls leave of them.
  char *hole = map_for_test(8 * 4096);
  munmap(hole + 2 * 4096, 4096);
  say("hole-below", hole + 4096);
  say("hole", hole + 2 * 4096);
  say("hole-above", hole + 3 * 4096 + 5);
  // One page, as nothing that is mapped later must come to lie where it was.
  char *moved = map_for_test(4096);
  void *room = mmap(NULL, 64 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  char *there = mremap(moved, 4096, 6 * 4096, MREMAP_MAYMOVE | MREMAP_FIXED, (char *)room + 8 * 4096);
  say("moved", there + 100);
  say("moved-from", moved);
  int file = open(argv[1], O_RDONLY);
  char *content = mmap(NULL, 3 * 4096, PROT_READ, MAP_PRIVATE, file, 4096);
  munmap(content, 4096);
  say("file", content + 4096 + 7);
  say("break", (char *)grow_for_test(16384) + 9);
  void *again = mmap(hole, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  say("fixed", again);

  pthread_t thread;
  sem_init(&ready, 0, 0);
  sem_init(&leave, 0, 0);
  pthread_create(&thread, NULL, worker, NULL);
  sem_wait(&ready);
  printf("worker %d\n", worker_id);
  pthread_t other;
  pthread_create(&other, NULL, silent, NULL);
  sem_wait(&ready);
  printf("silent %d\n", silent_id);
  pthread_t beside;
  map_beside_stack(room_beside, &beside);
  printf("beside %d\n", idle_id);
  long in_main = argc;
  say("main/in_main", &in_main);
  printf("ready\n");
  char byte;
  while (read(0, &byte, 1) > 0) {}
  KEEP(&in_main);
  for (int i = 0; i < 3; i++) sem_post(&leave);
  pthread_join(thread, NULL);
  pthread_join(other, NULL);
  pthread_join(beside, NULL);
  return 0;
}
