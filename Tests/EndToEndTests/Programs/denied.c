// denied mprotect|pwrite|both|mdwe PROGRAM [ARGUMENTS]: a program that may not make memory executable, or write to memory as a file.
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

// Calls with `bit` in the third argument fail; all calls, if it is 0.
static int deny(unsigned call, unsigned bit) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
      BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bit ? bit : 0xFFFFFFFFu, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {sizeof code / sizeof code[0], code};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0;
}

int main(int argc, char **argv) {
  if (argc < 3) return 64;
  int failed = 0;
  enum { EXECUTE = 4, SET_MDWE = 65, REFUSE_EXEC_GAIN = 1 };
  if (strcmp(argv[1], "mprotect") == 0 || strcmp(argv[1], "both") == 0) failed |= deny(SYS_mprotect, EXECUTE);
  if (strcmp(argv[1], "pwrite") == 0 || strcmp(argv[1], "both") == 0) failed |= deny(SYS_pwrite64, 0);
  if (strcmp(argv[1], "mdwe") == 0 && prctl(SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0) != 0) return 77;
  if (failed) return 65;
  execv(argv[2], argv + 2);
  perror(argv[2]);
  return 66;
}
