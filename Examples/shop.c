// SPDX-License-Identifier: Apache-2.0
// A small server with the faults that docs/walkthroughs/ look for: it takes commands as lines, from standard input or,
// with a port as its argument, from one client after another.
//
//   login NAME      a session, which is lost if another login comes before the logout: a leak
//   logout          ends the session, and leaves a pointer to it: the next `greet` uses freed memory
//   greet           calls the session's function
//   order TEXT      into a cache of the last 1,000 orders, which fills and then grows no more
//   report COUNT    makes so many lines, and keeps every 64th: pages that a few bytes hold
//   sleep           waits for a second
//
//   cc -g -O1 -o shop Examples/shop.c

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct session {
  void (*greet)(struct session *);
  char name[32];
  char basket[4000];
};

enum { ORDERS = 1000, KEPT = 1 << 16 };
static struct session *current;
static char *orders[ORDERS];
static int next_order;
static char *kept[KEPT];
static int kept_count;

static void say_hello(struct session *session) { printf("hello %s\n", session->name); }

static __attribute__((noinline)) struct session *open_session(const char *name) {
  struct session *session = calloc(1, sizeof *session);
  session->greet = say_hello;
  strncpy(session->name, name, sizeof session->name - 1);
  return session;
}

static __attribute__((noinline)) void close_session(void) { free(current); }

static __attribute__((noinline)) void put_order(const char *text) {
  free(orders[next_order]);
  orders[next_order] = strdup(text);
  next_order = (next_order + 1) % ORDERS;
}

static __attribute__((noinline)) char *make_line(int number) {
  char *line = malloc(200);
  snprintf(line, 200, "line %d of the report", number);
  return line;
}

static __attribute__((noinline)) void report(int count) {
  char **lines = malloc(count * sizeof *lines);
  for (int number = 0; number < count; number++) lines[number] = make_line(number);
  for (int number = 0; number < count; number++) {
    if (number % 64 == 0 && kept_count < KEPT)
      kept[kept_count++] = lines[number];
    else
      free(lines[number]);
  }
  free(lines);
}

static void serve(FILE *client) {
  char line[8192];
  while (fgets(line, sizeof line, client)) {
    line[strcspn(line, "\n")] = 0;
    if (!strncmp(line, "login ", 6)) current = open_session(line + 6);
    if (!strcmp(line, "logout")) close_session();
    if (!strcmp(line, "greet")) current->greet(current);
    if (!strncmp(line, "order ", 6)) put_order(line + 6);
    if (!strncmp(line, "report ", 7)) report(atoi(line + 7));
    if (!strcmp(line, "sleep")) sleep(1);
    fflush(stdout);
  }
}

int main(int argc, char **argv) {
  if (argc < 2) {
    serve(stdin);
    return 0;
  }
  int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
  place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(listener, (struct sockaddr *)&place, sizeof place) || listen(listener, 8)) {
    perror("shop");
    return 1;
  }
  for (;;) {
    FILE *client = fdopen(accept(listener, NULL, NULL), "r");
    if (!client) continue;
    serve(client);
    fclose(client);
  }
}
