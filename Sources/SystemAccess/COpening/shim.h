// SPDX-License-Identifier: Apache-2.0
// Opens names in directories that others may write to: openat2(2), which the C library has no function for. And mounts,
// whose functions Swift's Glibc lacks.
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/syscall.h>

// Only GNU's: <unistd.h> hides it from modules.
extern long syscall(long number, ...);

// Opens `name` in an open directory, on the directory's own file system and through no link. `name` has no slash. A
// negated error number if that can't be done.
static inline int allocs_open_in(int directory, const char *name, int flags) {
  // struct open_how of <linux/openat2.h>, which old systems lack.
  const struct {
    uint64_t flags, mode, resolve;
  } how = {(uint64_t)(flags | O_NOFOLLOW | O_CLOEXEC), 0,
           0x01 | 0x02 | 0x04 | 0x08};  // NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH
  const long openat2 = 437;
  if (name[0] == '.' && (name[1] == 0 || (name[1] == '.' && name[2] == 0))) return -EINVAL;
  for (const char *next = name; *next; next++)
    if (*next == '/') return -EINVAL;
  long descriptor = syscall(openat2, directory, name, &how, sizeof how);
  // Older kernels, and the filters of some containers, know no openat2.
  if (descriptor < 0 && errno == ENOSYS) descriptor = openat(directory, name, flags | O_NOFOLLOW | O_CLOEXEC);
  return descriptor < 0 ? -errno : (int)descriptor;
}

// Mounts an empty file system in memory over the directory at `place`. 0, or an error number.
static inline int allocs_mount_memory(const char *place, const char *options) {
  return mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options) == 0 ? 0 : errno;
}

// Takes away what was mounted last over the directory at `place`, for all who have not opened anything of it.
static inline int allocs_unmount(const char *place) { return umount2(place, MNT_DETACH | UMOUNT_NOFOLLOW); }
