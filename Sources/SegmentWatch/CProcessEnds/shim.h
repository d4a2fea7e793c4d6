// SPDX-License-Identifier: Apache-2.0
// Descriptors of processes and their ends: pidfd_open(2), and PIDFD_GET_INFO of Linux 6.15 or later, which the headers
// of older systems lack. The numbers are those of the kernel's include/uapi/linux/pidfd.h. And epoll(7), inotify(7),
// setfsuid(2), and children for work
// that takes long.
#include <errno.h>
#include <fcntl.h>
#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/netlink.h>
#include <stddef.h>
#include <stdint.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

// The 72 bytes of the structure's third version. An older kernel fills the fields that it knows, and says in `mask`
// which these are.
struct allocs_pidfd_info {
  uint64_t mask;
  uint64_t cgroup;
  uint32_t ids[11];
  int32_t exit_code;
  uint32_t coredump[2];
};

// The wait status of a process that is gone and was waited for. Returns 0, or the number of an error; ENODATA: the
// kernel doesn't tell it.
static inline int allocs_pidfd_wait_status(int descriptor, int *status) {
  const uint64_t has_exited = 1 << 3;
  struct allocs_pidfd_info info = {.mask = has_exited};
  if (ioctl(descriptor, _IOWR(0xFF, 11, struct allocs_pidfd_info), &info) != 0) return errno;
  if (!(info.mask & has_exited)) return ENODATA;
  *status = info.exit_code;
  return 0;
}

// The priority of the calling process's session among all sessions, where the kernel shares processors by session
// (sched(7), autogroup): there no thread's own priority counts beyond its session.
static inline void allocs_set_priority_of_session(const char *nice) {
  int file = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);
  if (file < 0) return;
  ssize_t ignored = write(file, nice, strlen(nice));
  (void)ignored;
  close(file);
}

// Lets the calling thread run soon after it wakes, for a tenth of a millisecond at a time (sched_setattr(2); Linux 6.12
// or later), and before others where it may: it runs few instructions for each process that starts, and that process
// may not live long. Its children have the usual priority.
static inline void allocs_prefer_latency(void) {
  struct {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
  } wanted = {.size = sizeof wanted, .flags = 1 /* SCHED_FLAG_RESET_ON_FORK */, .runtime = 100000};
  int nice = getpriority(PRIO_PROCESS, 0);
  wanted.nice = nice - 10;
  // Not where the session is a login's, with other programs in it.
  if (getsid(0) == getpid()) allocs_set_priority_of_session("-10");
  if (syscall(SYS_sched_setattr, 0, &wanted, 0) == 0) return;
  wanted.nice = nice;
  syscall(SYS_sched_setattr, 0, &wanted, 0);
}

// The ends of all threads of the machine, by the kernel's process connector (linux/cn_proc.h): for root in the first
// namespaces.
struct allocs_thread_end {
  int32_t thread;
  int32_t process;
  int32_t wait_status;
  uint64_t nanoseconds;  // of the machine's CLOCK_MONOTONIC
};

// Returns a non-blocking descriptor at which such ends arrive, or the negated number of an error. Ends that nobody
// takes in time are dropped.
static inline int allocs_open_thread_ends(void) {
  enum { GROUP = 1, MULTICAST_LISTEN = 1, ROOM = 4 << 20 };
  const uint32_t only_exits = 0x80000000;  // Linux 6.6 or later; before, other events come too
  int descriptor = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_CONNECTOR);
  if (descriptor < 0) return -errno;
  struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = GROUP};
  int room = ROOM;
  setsockopt(descriptor, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
  struct {
    struct nlmsghdr head;
    struct cn_msg message;
    uint32_t words[2];
  } request = {.head = {.nlmsg_len = sizeof request, .nlmsg_type = NLMSG_DONE},
               .message = {.id = {CN_IDX_PROC, CN_VAL_PROC}, .len = sizeof request.words},
               .words = {MULTICAST_LISTEN, only_exits}};
  if (bind(descriptor, (struct sockaddr *)&address, sizeof address) != 0 ||
      send(descriptor, &request, sizeof request, 0) != sizeof request) {
    int code = errno;
    close(descriptor);
    return -code;
  }
  return descriptor;
}

// Takes the next end. Returns 1; 0 if there is none now; else the negated number of an error (ENOBUFS: some ends were
// dropped, ask again).
static inline int allocs_next_thread_end(int descriptor, struct allocs_thread_end *end) {
  for (;;) {
    struct {
      struct nlmsghdr head;
      struct cn_msg message;
      struct {
        uint32_t what, processor;
        uint64_t nanoseconds;
        uint32_t thread, process, status, signal, more[8];
      } __attribute__((packed)) event;
    } received;
    struct sockaddr_nl sender = {0};
    socklen_t size = sizeof sender;
    ssize_t count = recvfrom(descriptor, &received, sizeof received, 0, (struct sockaddr *)&sender, &size);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno == EAGAIN ? 0 : -errno;
    // Only messages from the kernel count.
    if (sender.nl_pid != 0 || (size_t)count < offsetof(typeof(received), event.signal)) continue;
    if (received.message.id.idx != CN_IDX_PROC || received.event.what != 0x80000000) continue;
    end->thread = (int32_t)received.event.thread;
    end->process = (int32_t)received.event.process;
    end->wait_status = (int32_t)received.event.status;
    end->nanoseconds = received.event.nanoseconds;
    return 1;
  }
}

// A child of a process that has one thread. Returns its id; or the negated number of an error. In the child it returns
// 0: the child holds no descriptor but its log (2) and the pipe's end (3), and the kernel ends it after so many
// seconds. *result: the pipe's end; the parent's never waits.
static inline int allocs_fork_for_work(int *result, unsigned seconds) {
  int ends[2];
  if (syscall(SYS_pipe2, ends, O_CLOEXEC) != 0) return -errno;
  pid_t child = fork();
  if (child < 0) {
    int code = errno;
    close(ends[0]);
    close(ends[1]);
    return -code;
  }
  if (child > 0) {
    close(ends[1]);
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    *result = ends[0];
    return child;
  }
  if (ends[1] != 3 && dup2(ends[1], 3) < 0) _exit(1);
  syscall(SYS_close_range, 4U, ~0U, 0U);
  signal(SIGALRM, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, 0);
  alarm(seconds);
  setpriority(PRIO_PROCESS, 0, 10);
  setsid();
  allocs_set_priority_of_session("10");
  *result = 3;
  return 0;
}
