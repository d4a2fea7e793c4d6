// SPDX-License-Identifier: Apache-2.0
// Descriptors of processes and their ends: pidfd_open(2), and PIDFD_GET_INFO of Linux 6.15 or later, which the headers
// of older systems lack. The numbers are those of the kernel's include/uapi/linux/pidfd.h. And what else the broker
// calls that Swift's own module of the C library leaves out.
#include <errno.h>
#include <fcntl.h>
#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/netlink.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
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

// Lets the calling thread run soon after it wakes, for a tenth of a millisecond at a time: it takes no more of the
// machine than its share, only sooner (sched_setattr(2); Linux 6.12 or later, else without effect).
static inline void allocs_prefer_latency(void) {
  struct {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
  } wanted = {.size = sizeof wanted, .nice = getpriority(PRIO_PROCESS, 0), .runtime = 100000};
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

// The messages between broker and workers (Channel.swift). Neither call waits, but for a receiver that says so. Both
// return the number of bytes, or the negated number of an error.
//
// `passed`: a descriptor that goes with the message, or -1.
static inline ssize_t allocs_send_message(int channel, const void *bytes, size_t size, int passed) {
  struct iovec part = {.iov_base = (void *)bytes, .iov_len = size};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  _Alignas(struct cmsghdr) char room[CMSG_SPACE(sizeof(int))] = {0};
  if (passed >= 0) {
    message.msg_control = room;
    message.msg_controllen = sizeof room;
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(head), &passed, sizeof passed);
  }
  ssize_t count;
  do {
    count = sendmsg(channel, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (count < 0 && errno == EINTR);
  return count < 0 ? -errno : count;
}

// `passed`: gets the descriptor that came with the message, or -1. Null for a receiver that takes none: the kernel then
// closes what came. A message that is longer than `capacity` is -EMSGSIZE.
static inline ssize_t allocs_receive_message(int channel, void *bytes, size_t capacity, int *passed, int waits) {
  struct iovec part = {.iov_base = bytes, .iov_len = capacity};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  _Alignas(struct cmsghdr) char room[CMSG_SPACE(sizeof(int))] = {0};
  if (passed) {
    *passed = -1;
    message.msg_control = room;
    message.msg_controllen = sizeof room;
  }
  ssize_t count;
  do {
    count = recvmsg(channel, &message, (waits ? 0 : MSG_DONTWAIT) | MSG_CMSG_CLOEXEC);
  } while (count < 0 && errno == EINTR);
  if (count < 0) return -errno;
  if (passed)
    for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head; head = CMSG_NXTHDR(&message, head))
      if (head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS && head->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(passed, CMSG_DATA(head), sizeof *passed);
  if (message.msg_flags & MSG_TRUNC) {
    if (passed && *passed >= 0) close(*passed);
    return -EMSGSIZE;
  }
  return count;
}

// The next connection, non-blocking and closed on exec; or the negated number of an error.
static inline int allocs_accept(int listener) {
  int connection = (int)syscall(SYS_accept4, listener, (void *)0, (void *)0, SOCK_CLOEXEC | SOCK_NONBLOCK);
  return connection < 0 ? -errno : connection;
}

// The niceness of all processes of a process group. Returns 0, or the number of an error.
static inline int allocs_set_group_priority(int group, int nice) {
  return setpriority(PRIO_PGRP, (id_t)group, nice) == 0 ? 0 : errno;
}

// A pipe, closed on exec, whose reading end never waits. Returns 0, or the number of an error.
static inline int allocs_pipe(int ends[2]) {
  if (syscall(SYS_pipe2, ends, O_CLOEXEC) != 0) return errno;
  fcntl(ends[0], F_SETFL, O_NONBLOCK);
  return 0;
}

// What has come on a connection, which stays where it is; and bytes that go out as far as there is room. Neither waits.
static inline ssize_t allocs_peek(int connection, void *bytes, size_t size) {
  return recv(connection, bytes, size, MSG_PEEK | MSG_DONTWAIT);
}

static inline ssize_t allocs_send_now(int connection, const void *bytes, size_t size) {
  return send(connection, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
}
