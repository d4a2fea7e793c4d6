// SPDX-License-Identifier: Apache-2.0
// Opens names in directories that others may write to, and looks at them: openat2(2), which the C library has no
// function for, and statx(2). And mounts, whose functions Swift's Glibc lacks.
#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <stdint.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

// Only GNU's: <unistd.h> hides it from modules.
extern long syscall(long number, ...);

// Whether a system call failed because it is not known: by an older kernel, or by the filter of a container, of which
// old ones refuse what they don't know as not permitted.
static inline int allocs_is_unknown_call(void) { return errno == ENOSYS || errno == EPERM; }

// Opens `name` in an open directory, on the directory's own file system and through no link. `name` has no slash;
// `mode` is of a file that is made. A negated error number if that can't be done.
static inline int allocs_make_in(int directory, const char *name, int flags, unsigned mode) {
  // struct open_how of <linux/openat2.h>, which old systems lack.
  const struct {
    uint64_t flags, mode, resolve;
  } how = {(uint64_t)(flags | O_NOFOLLOW | O_CLOEXEC), mode,
           0x01 | 0x02 | 0x04 | 0x08};  // NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH
  const long openat2 = 437;
  if (name[0] == '.' && (name[1] == 0 || (name[1] == '.' && name[2] == 0))) return -EINVAL;
  for (const char *next = name; *next; next++)
    if (*next == '/') return -EINVAL;
  long descriptor = syscall(openat2, directory, name, &how, sizeof how);
  if (descriptor < 0 && allocs_is_unknown_call())
    descriptor = openat(directory, name, flags | O_NOFOLLOW | O_CLOEXEC, mode);
  return descriptor < 0 ? -errno : (int)descriptor;
}

// The same, of what is there already.
static inline int allocs_open_in(int directory, const char *name, int flags) {
  return allocs_make_in(directory, name, flags, 0);
}

// lstat(2) of `name` in an open directory, or of a path (AT_FDCWD), which waits for nobody: a user may have mounted a
// file system of their own making (FUSE) over a file of theirs, which answers when it likes. It is not asked, and such
// a name in a directory is refused: EXDEV. Returns 0, or an error number.
static inline int allocs_look_at(int directory, const char *name, struct stat *status) {
  struct statx found;
  const int flags = AT_SYMLINK_NOFOLLOW | 0x800 | 0x4000;  // AT_NO_AUTOMOUNT, AT_STATX_DONT_SYNC
  if (syscall(SYS_statx, directory, name, flags, STATX_BASIC_STATS, &found) != 0) {
    if (!allocs_is_unknown_call()) return errno;
    return fstatat(directory, name, status, AT_SYMLINK_NOFOLLOW) == 0 ? 0 : errno;
  }
  const uint64_t root_of_mount = 0x2000;  // STATX_ATTR_MOUNT_ROOT (Linux 5.8)
  if (directory != AT_FDCWD && (found.stx_attributes & root_of_mount)) return EXDEV;
  memset(status, 0, sizeof *status);
  const uint64_t major = found.stx_dev_major, minor = found.stx_dev_minor;
  // makedev(3)
  status->st_dev = (major & 0xfffff000) << 32 | (major & 0xfff) << 8 | (minor & 0xffffff00) << 12 | (minor & 0xff);
  status->st_ino = found.stx_ino;
  status->st_mode = found.stx_mode;
  status->st_nlink = found.stx_nlink;
  status->st_uid = found.stx_uid;
  status->st_gid = found.stx_gid;
  status->st_size = (off_t)found.stx_size;
  status->st_blocks = (long)found.stx_blocks;
  status->st_atim.tv_sec = found.stx_atime.tv_sec, status->st_atim.tv_nsec = found.stx_atime.tv_nsec;
  status->st_mtim.tv_sec = found.stx_mtime.tv_sec, status->st_mtim.tv_nsec = found.stx_mtime.tv_nsec;
  status->st_ctim.tv_sec = found.stx_ctime.tv_sec, status->st_ctim.tv_nsec = found.stx_ctime.tv_nsec;
  return 0;
}

// Mounts an empty file system in memory over the directory at `place`. 0, or an error number.
static inline int allocs_mount_memory(const char *place, const char *options) {
  return mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options) == 0 ? 0 : errno;
}

// Takes away what was mounted last over the directory at `place`, for all who have not opened anything of it.
static inline int allocs_unmount(const char *place) { return umount2(place, MNT_DETACH | UMOUNT_NOFOLLOW); }
