// Starts programs with arguments and an environment that are no text, and says what it was itself started with.
//
//   bytes show …               says its arguments and its environment, a line of hexadecimal digits each
//   bytes start PROGRAM …      becomes PROGRAM with the given arguments, then `show` and hostile ones, and with a hostile
//                              environment: entries without =, without a name, of a name twice, of all bytes
//   bytes start-many PROGRAM … the same with as many arguments as the system takes for PROGRAM, and no more
//   bytes make DIRECTORY       makes DIRECTORY/d\xE9/p\xFF, a link to this program, and says nothing
//
// HOSTILE_PRELOAD in the environment of `start` is passed on as LD_PRELOAD.

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

extern char **environ;

static void say(const char *kind, const char *text) {
  printf("%s ", kind);
  for (const unsigned char *c = (const unsigned char *)text; *c; c++) printf("%02x", *c);
  printf("\n");
}

static int show(int count, char **arguments) {
  for (int i = 1; i < count; i++) say("argument", arguments[i]);
  for (char **e = environ; *e; e++) say("variable", *e);
  return 0;
}

static char *joined(const char *name, const char *value) {
  char *text = malloc(strlen(name) + strlen(value) + 2);
  sprintf(text, "%s=%s", name, value);
  return text;
}

static int start(char **command, int many) {
  static char every[256], name[280];
  for (int i = 1; i < 256; i++) every[i - 1] = (char)i;
  sprintf(name, "NAME\xe9\xff=%s", every);
  const char *preload = getenv("HOSTILE_PRELOAD"), *directory = getenv("ALLOCS_DIR"), *path = getenv("PATH");
  char *environment[16], **e = environment;
  *e++ = "no equals sign \xe9";
  *e++ = "=no name";
  *e++ = "";
  if (preload) *e++ = joined("LD_PRELOAD", "/nonexistent/is-not-the-last.so");
  *e++ = name;
  *e++ = "TWICE=1";
  if (preload) *e++ = joined("LD_PRELOAD", preload);
  *e++ = "TWICE=\xc3\xa9\n\xf4\x8f\xba\x80";
  *e++ = "EMPTY=";
  if (directory) *e++ = joined("ALLOCS_DIR", directory);
  if (path) *e++ = joined("PATH", path);
  *e = NULL;

  size_t given = 0;
  while (command[given]) given++;
  // With a pointer and 11 bytes each, in a quarter of the stack's limit.
  struct rlimit stack;
  getrlimit(RLIMIT_STACK, &stack);
  size_t room = stack.rlim_cur / 4 < 6 << 20 ? stack.rlim_cur / 4 : 6 << 20;
  size_t limit = many ? room / (11 + sizeof(char *)) : 400;
  char **arguments = calloc(given + limit + 2, sizeof *arguments), **a = arguments;
  for (size_t i = 0; i < given; i++) *a++ = command[i];
  *a++ = "show";
  if (many) {
    // One fewer until the system takes them: then there is no room for another variable.
    for (size_t i = 0; i < limit; i++) a[i] = "0123456789";
    for (size_t count = limit; count > 0; count--) {
      a[count] = NULL;
      execve(command[0], arguments, environment);
      if (errno != E2BIG) break;
    }
  } else {
    static char bytes[256][2];
    for (int i = 1; i < 256; i++) *a++ = (bytes[i][0] = (char)i, bytes[i]);
    char *others[] = {"", "a\nb", "\r\n", "--", "-x", "--record", every, "\xf4\x8f\xba\x80", "\xed\xa0\x80",
                      "\xc0\xaf", "e\xcc\x81", "\xe2\x80\xae", "", NULL};
    for (char **o = others; *o; o++) *a++ = *o;
    execve(command[0], arguments, environment);
  }
  perror("execve");
  return 1;
}

static int make(const char *directory) {
  char path[PATH_MAX], own[PATH_MAX];
  ssize_t size = readlink("/proc/self/exe", own, sizeof own - 1);
  if (size < 0) return 1;
  own[size] = 0;
  snprintf(path, sizeof path, "%s/d\xe9", directory);
  if (mkdir(path, 0755) != 0) return 1;
  snprintf(path, sizeof path, "%s/d\xe9/p\xff", directory);
  return symlink(own, path) == 0 ? 0 : 1;
}

int main(int count, char **arguments) {
  if (count > 1 && strcmp(arguments[1], "show") == 0) return show(count - 1, arguments + 1);
  if (count > 2 && strcmp(arguments[1], "start") == 0) return start(arguments + 2, 0);
  if (count > 2 && strcmp(arguments[1], "start-many") == 0) return start(arguments + 2, 1);
  if (count > 2 && strcmp(arguments[1], "make") == 0) return make(arguments[2]);
  return 2;
}
