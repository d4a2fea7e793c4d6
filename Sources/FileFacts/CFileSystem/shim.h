// SPDX-License-Identifier: Apache-2.0
// Of which file system a file is: what Swift's Glibc module leaves out.

#ifndef ALLOCS_FILE_SYSTEM_SHIM_H
#define ALLOCS_FILE_SYSTEM_SHIM_H

#include <sys/vfs.h>

#endif
