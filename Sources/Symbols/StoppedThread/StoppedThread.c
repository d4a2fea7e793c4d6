// SPDX-License-Identifier: Apache-2.0
// See StoppedThread.h. Between PTRACE_INTERRUPT and PTRACE_DETACH there is nothing but the copying.
#define _GNU_SOURCE
#include "StoppedThread.h"

#include <elf.h>
#include <elfutils/libdwfl.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

#if defined(__x86_64__)

// The kernel lets functions use so many bytes below the stack pointer (System V ABI, the red zone).
enum { MARGIN = 128 };
static const uint64_t PATIENCE = 1000000000u;  // nanoseconds

// The wait status of the stop; 0 if it did not come in time, -1 if the thread is gone.
static int await_stop(pid_t thread) {
  uint64_t start = now();
  for (;;) {
    int status = 0;
    pid_t got = waitpid(thread, &status, __WALL | WNOHANG);
    if (got == thread) return WIFSTOPPED(status) ? status : -1;
    if (got < 0 && errno != EINTR) return -1;
    if (now() - start > PATIENCE) return 0;
    // A running thread stops within microseconds.
    struct timespec pause = {0, now() - start < 1000000 ? 10000 : 500000};
    nanosleep(&pause, NULL);
  }
}

static void read_registers(pid_t thread, struct stopped_thread *copy) {
  struct user_regs_struct user;
  struct iovec all = {&user, sizeof user};
  if (ptrace(PTRACE_GETREGSET, thread, (void *)NT_PRSTATUS, &all) != 0 || all.iov_len < sizeof user) {
    copy->failure = STOPPED_THREAD_READ;
    copy->number = errno;
    return;
  }
  const uint64_t values[17] = {user.rax, user.rdx, user.rcx, user.rbx, user.rsi, user.rdi, user.rbp, user.rsp, user.r8,
                               user.r9,  user.r10, user.r11, user.r12, user.r13, user.r14, user.r15, user.rip};
  memcpy(copy->registers, values, sizeof values);
}

static void read_stack(pid_t process, uint64_t stack_end, uint64_t limit, struct stopped_thread *copy) {
  uint64_t start = copy->registers[7] - MARGIN;
  if (stack_end <= start) return;
  uint64_t size = stack_end - start < limit ? stack_end - start : limit;
  copy->stack = malloc(size);
  if (!copy->stack) {
    copy->failure = STOPPED_THREAD_READ;
    copy->number = ENOMEM;
    return;
  }
  struct iovec local = {copy->stack, size}, remote = {(void *)(uintptr_t)start, size};
  ssize_t got = process_vm_readv(process, &local, 1, &remote, 1, 0);
  if (got < 0) {
    copy->failure = STOPPED_THREAD_READ;
    copy->number = errno;
    return;
  }
  copy->stack_start = start;
  copy->stack_size = (uint64_t)got;
}

void stopped_thread_copy(pid_t process, pid_t thread, uint64_t stack_end, uint64_t limit, struct stopped_thread *copy) {
  memset(copy, 0, sizeof *copy);
  if (ptrace(PTRACE_SEIZE, thread, NULL, NULL) != 0) {
    copy->failure = STOPPED_THREAD_SEIZE;
    copy->number = errno;
    return;
  }
  uint64_t start = now();
  int status = ptrace(PTRACE_INTERRUPT, thread, NULL, NULL) == 0 ? await_stop(thread) : -1;
  if (status <= 0) {
    // Not stopped, so it cannot be let go of: it will be when this process ends. An interrupt that is pending then
    // lapses.
    copy->failure = status == 0 ? STOPPED_THREAD_WAIT : STOPPED_THREAD_GONE;
    return;
  }
  read_registers(thread, copy);
  if (copy->failure == STOPPED_THREAD_OK) read_stack(process, stack_end, limit, copy);
  // A signal that stopped it before the interrupt did is to reach it. A stop by job control goes on by itself.
  int event = status >> 16;
  long signal = event == 0 ? WSTOPSIG(status) : 0;
  ptrace(PTRACE_DETACH, thread, NULL, (void *)signal);
  copy->nanoseconds = now() - start;
}

#else

void stopped_thread_copy(pid_t process, pid_t thread, uint64_t stack_end, uint64_t limit, struct stopped_thread *copy) {
  (void)process, (void)thread, (void)stack_end, (void)limit;
  memset(copy, 0, sizeof *copy);
  copy->failure = STOPPED_THREAD_NOT_SUPPORTED;
}

#endif

void stopped_thread_free(struct stopped_thread *copy) {
  free(copy->stack);
  copy->stack = NULL;
}

// MARK: unwinding

struct walk {
  const struct stopped_thread *copy;
  pid_t thread;
  uint64_t address;
  struct stopped_frame *frames;
  int count, limit;
};

// Separate debug files are not looked for: what unwinding needs is in the modules themselves.
static int find_no_debug_file(Dwfl_Module *module, void **data, const char *name, Dwarf_Addr base, const char *file,
                              const char *link, GElf_Word checksum, char **found) {
  (void)module, (void)data, (void)name, (void)base, (void)file, (void)link, (void)checksum, (void)found;
  return -1;
}

// A module's file by the name that the process's mappings give, opened as RegularFile does: nothing but a regular file.
// What has no path, as the vdso, is read from the process's memory.
static int find_file(Dwfl_Module *module, void **data, const char *name, Dwarf_Addr base, char **file, Elf **elf) {
  if (name[0] != '/')
    return dwfl_linux_proc_find_elf(module, data, name, base, file, elf);
  int place = open(name, O_PATH | O_CLOEXEC);
  if (place < 0) return -1;
  struct stat status;
  int opened = -1;
  if (fstat(place, &status) == 0 && S_ISREG(status.st_mode)) {
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", place);
    opened = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  }
  close(place);
  if (opened >= 0) *file = strdup(name);
  return opened;
}

static pid_t next_thread(Dwfl *dwfl, void *argument, void **thread) {
  (void)dwfl;
  struct walk *walk = argument;
  if (*thread) return 0;
  *thread = walk;
  return walk->thread;
}

static bool get_thread(Dwfl *dwfl, pid_t id, void *argument, void **thread) {
  (void)dwfl;
  struct walk *walk = argument;
  if (id != walk->thread) return false;
  *thread = walk;
  return true;
}

static bool read_memory(Dwfl *dwfl, Dwarf_Addr address, Dwarf_Word *result, void *argument) {
  (void)dwfl;
  const struct stopped_thread *copy = ((struct walk *)argument)->copy;
  if (address < copy->stack_start || copy->stack_size < 8) return false;
  if (address - copy->stack_start > copy->stack_size - 8) return false;
  memcpy(result, copy->stack + (address - copy->stack_start), 8);
  return true;
}

static bool set_registers(Dwfl_Thread *thread, void *argument) {
  const struct stopped_thread *copy = ((struct walk *)argument)->copy;
  return dwfl_thread_state_registers(thread, 0, 17, (const Dwarf_Word *)copy->registers);
}

static int note_frame(Dwfl_Frame *state, void *argument) {
  struct walk *walk = argument;
  Dwarf_Addr pc;
  bool is_activation = false;
  Dwarf_Word sp = 0, fp = 0;
  if (!dwfl_frame_pc(state, &pc, &is_activation) || dwfl_frame_reg(state, 7, &sp) != 0) return DWARF_CB_ABORT;
  if (walk->count > 0) {
    struct stopped_frame *inner = &walk->frames[walk->count - 1];
    // The caller's stack pointer, behind the return address, is what the inner frame's CFA is.
    inner->cfa = sp;
    if (sp <= inner->sp) {
      inner->cfa = 0;
      return DWARF_CB_ABORT;
    }
    if (walk->address < sp) return DWARF_CB_ABORT;
  }
  if (walk->count == walk->limit) return DWARF_CB_ABORT;
  if (dwfl_frame_reg(state, 6, &fp) != 0) fp = 0;
  walk->frames[walk->count++] = (struct stopped_frame){.pc = pc, .sp = sp, .fp = fp, .is_activation = is_activation};
  return DWARF_CB_OK;
}

int stopped_thread_unwind(const struct stopped_thread *copy, pid_t process, pid_t thread, uint64_t address,
                          struct stopped_frame *frames, int count) {
  static const Dwfl_Callbacks files = {.find_elf = find_file, .find_debuginfo = find_no_debug_file};
  static const Dwfl_Thread_Callbacks state = {
      .next_thread = next_thread,
      .get_thread = get_thread,
      .memory_read = read_memory,
      .set_initial_registers = set_registers};
  struct walk walk = {.copy = copy, .thread = thread, .address = address, .frames = frames, .limit = count};
  Dwfl *dwfl = dwfl_begin(&files);
  if (!dwfl) return -1;
  int result = -1;
  if (dwfl_linux_proc_report(dwfl, process) == 0 && dwfl_report_end(dwfl, NULL, NULL) == 0 &&
      dwfl_attach_state(dwfl, NULL, process, &state, &walk)) {
    dwfl_getthread_frames(dwfl, thread, note_frame, &walk);
    result = walk.count;
  }
  dwfl_end(dwfl);
  return result;
}
