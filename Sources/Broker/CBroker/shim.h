// SPDX-License-Identifier: Apache-2.0
// What the broker calls that Swift lacks, or can't call. None of it waits unasked.
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

// The messages between broker and workers (Channel.swift). Both calls return a number of bytes, or an error's, negated.
// `passed`: a descriptor that goes with the message, or -1.
static inline ssize_t allocs_send_message(int channel, const void *bytes, size_t size, int passed, int waits) {
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
    count = sendmsg(channel, &message, (waits ? 0 : MSG_DONTWAIT) | MSG_NOSIGNAL);
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
