// seccomp deny|kill|old THREAD PROGRAM [ARGUMENTS]: a program that stops a thread, where that goes wrong.
//
//   deny  ptrace fails with EPERM, as in a container
//   old   for any program: openat2 and statx fail with EPERM, as in a container of a time that knew neither
//   kill  gets SIGKILL where it reads the memory of another process; the state of THREAD just before goes to standard error

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int fail(const char *what) {
  fprintf(stderr, "seccomp: %s: %s\n", what, strerror(errno));
  return 1;
}

static int filter(unsigned call, unsigned action) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, action),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {sizeof code / sizeof code[0], code};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0;
}

static void print_state(const char *thread) {
  char path[64], line[128];
  snprintf(path, sizeof path, "/proc/%s/status", thread);
  FILE *file = fopen(path, "r");
  while (file && fgets(line, sizeof line, file))
    if (strncmp(line, "State:", 6) == 0) fputs(line, stderr);
  if (file) fclose(file);
}

int main(int argc, char **argv) {
  if (argc < 4) return 2;
  if (strcmp(argv[1], "deny") == 0) {
    if (filter(SYS_ptrace, SECCOMP_RET_ERRNO | EPERM)) return fail("filter");
    execv(argv[3], argv + 3);
    return fail(argv[3]);
  }
  if (strcmp(argv[1], "old") == 0) {
    const unsigned openat2 = 437;
    if (filter(openat2, SECCOMP_RET_ERRNO | EPERM) || filter(SYS_statx, SECCOMP_RET_ERRNO | EPERM)) return fail("filter");
    execv(argv[3], argv + 3);
    return fail(argv[3]);
  }
  pid_t child = fork();
  if (child == 0) {
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    raise(SIGSTOP);
    if (filter(SYS_process_vm_readv, SECCOMP_RET_TRACE)) _exit(fail("filter"));
    execv(argv[3], argv + 3);
    _exit(fail(argv[3]));
  }
  int status;
  if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) return fail("start");
  if (ptrace(PTRACE_SETOPTIONS, child, NULL, (void *)(PTRACE_O_TRACESECCOMP | PTRACE_O_EXITKILL)) != 0) return fail("options");
  long pass = 0;
  for (;;) {
    if (ptrace(PTRACE_CONT, child, NULL, (void *)pass) != 0 || waitpid(child, &status, 0) != child) return fail("go on");
    if (!WIFSTOPPED(status)) {
      fprintf(stderr, "seccomp: it ended before it read memory\n");
      return 1;
    }
    if (status >> 8 == (SIGTRAP | PTRACE_EVENT_SECCOMP << 8)) break;
    pass = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
  }
  print_state(argv[2]);
  kill(child, SIGKILL);
  while (waitpid(child, &status, 0) == child && !WIFSIGNALED(status)) {}
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? 0 : 1;
}
