// Children that call exec, each in its own way, and so get an index of their own.
//
//   offspring fork|vfork|spawn|grandchild|clone     starts itself as "offspring image", which records one block and waits
//
// The image inherits standard input and output, so the test speaks with it. The parent's own check point comes after.

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include "record.h"

extern char **environ;
SITE_BOUNDS(allocate_site)
SITE(allocate_site) static void *allocate_site(size_t size) { void *p = malloc(size); KEEP(p); return p; }

static struct record_block blocks[2];

static void record_one(size_t size, int checkpoint) {
  int sites = record_open("sites");
  record_site(sites, 0, __start_site_allocate_site, __stop_site_allocate_site, "malloc");
  close(sites);
  blocks[0] = (struct record_block){(uint64_t)allocate_site(size), size, 0, 0, record_thread()};
  record_say("process %d\n", (int)getpid());
  record_checkpoint(checkpoint, blocks, 2);
}

int main(int argc, char **argv) {
  if (argc != 2) record_fail("usage: offspring fork|vfork|spawn|grandchild|clone|image");
  if (strcmp(argv[1], "image") == 0) {
    record_one(777, 1);
    return 0;
  }
  char *const arguments[] = {argv[0], (char *)"image", NULL};
  free(allocate_site(5000));
  pid_t child = -1;
  if (strcmp(argv[1], "fork") == 0) {
    if ((child = fork()) == 0) {
      free(allocate_site(100));
      execv(argv[0], arguments);
      _exit(127);
    }
  } else if (strcmp(argv[1], "vfork") == 0) {
    if ((child = vfork()) == 0) {
      execv(argv[0], arguments);
      _exit(127);
    }
  } else if (strcmp(argv[1], "spawn") == 0) {
    if (posix_spawn(&child, argv[0], NULL, NULL, arguments, environ) != 0) record_fail("posix_spawn failed");
  } else if (strcmp(argv[1], "clone") == 0) {
    if ((child = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL)) == 0) {
      execv(argv[0], arguments);
      _exit(127);
    }
  } else if (strcmp(argv[1], "grandchild") == 0) {
    if ((child = fork()) == 0) {
      free(allocate_site(100));
      pid_t grandchild = fork();
      if (grandchild == 0) {
        free(allocate_site(100));
        execv(argv[0], arguments);
        _exit(127);
      }
      int status;
      _exit(waitpid(grandchild, &status, 0) == grandchild && status == 0 ? 0 : 1);
    }
  }
  int status;
  if (child < 0 || waitpid(child, &status, 0) != child || status != 0) record_fail("the child failed");
  record_one(888, 2);
  return 0;
}
