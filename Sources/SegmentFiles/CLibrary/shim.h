// SPDX-License-Identifier: Apache-2.0
// Swift's module of the C library leaves out these parts of it: extended attributes of files, the
// names of signals, and locks of openings.
#include <sys/xattr.h>

// F_OFD_GETLK and F_OFD_SETLK (fcntl(2)), the same on all machines: <fcntl.h> has them for GNU's
// sources only.
static const int allocs_get_lock_of_opening = 36;
static const int allocs_set_lock_of_opening = 37;

// Only GNU's: <string.h> hides it from modules.
const char *sigabbrev_np(int signal);

// Only GNU's, too.
void *memmem(const void *text, unsigned long size, const void *wanted, unsigned long wanted_size);
