// SPDX-License-Identifier: Apache-2.0
// Swift's module of the C library leaves out these parts of it: extended attributes of files, the
// names of signals, locks of openings, and controls of devices.
#include <sys/ioctl.h>
#include <sys/xattr.h>

// F_OFD_GETLK and F_OFD_SETLK (fcntl(2)), the same on all machines: <fcntl.h> has them for GNU's
// sources only.
static const int allocs_get_lock_of_opening = 36;
static const int allocs_set_lock_of_opening = 37;

// Only GNU's: <string.h> hides it from modules.
const char *sigabbrev_np(int signal);

// Only GNU's, too.
void *memmem(const void *text, unsigned long size, const void *wanted, unsigned long wanted_size);

// PROCMAP_QUERY of <linux/fs.h> (Linux 6.11 or later), which the headers of an older system lack:
// the mapping of a process at an address, by a descriptor of its /proc/PID/maps.
struct allocs_mapping_query {
  unsigned long size;         // of this structure
  unsigned long query_flags;  // 0: the mapping that holds query_addr
  unsigned long query_addr;
  unsigned long vma_start, vma_end;
  unsigned long vma_flags;  // readable 1, writable 2, executable 4, shared 8
  unsigned long vma_page_size;
  unsigned long vma_offset;
  unsigned long inode;
  unsigned dev_major, dev_minor;
  unsigned vma_name_size;  // bytes of room for the name; then of the name, its zero included, or 0
  unsigned build_id_size;  // 0: not asked for
  unsigned long vma_name_addr;
  unsigned long build_id_addr;
};
_Static_assert(sizeof(struct allocs_mapping_query) == 104, "the kernel's layout");

static inline int allocs_query_mapping(int maps, struct allocs_mapping_query *query) {
  return ioctl(maps, _IOWR('f', 17, struct allocs_mapping_query), query);
}
