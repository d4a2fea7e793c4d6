// What a descriptor of a process tells once the process is gone: pidfd_open(2), and PIDFD_GET_INFO of Linux 6.15 or later,
// which the headers of older systems lack; and epoll(7). The numbers are those of the kernel's include/uapi/linux/pidfd.h.
#include <errno.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

// The 72 bytes of its third version; an older kernel fills what it knows, and says in `mask` what that is.
struct allocs_pidfd_info {
  uint64_t mask;
  uint64_t cgroup;
  uint32_t ids[11];
  int32_t exit_code;
  uint32_t coredump[2];
};

// The wait status of a process that is gone and was waited for: 0, or the number of an error. ENODATA: the kernel doesn't tell it.
static inline int allocs_pidfd_wait_status(int descriptor, int *status) {
  const uint64_t has_exited = 1 << 3;
  struct allocs_pidfd_info info = {.mask = has_exited};
  if (ioctl(descriptor, _IOWR(0xFF, 11, struct allocs_pidfd_info), &info) != 0) return errno;
  if (!(info.mask & has_exited)) return ENODATA;
  *status = info.exit_code;
  return 0;
}

// Lets the calling thread run soon after it wakes, for a tenth of a millisecond at a time: it takes no more of the machine than
// its share, only sooner (sched_setattr(2); Linux 6.12 or later, else without effect).
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
