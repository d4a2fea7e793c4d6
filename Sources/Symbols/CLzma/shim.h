// SPDX-License-Identifier: Apache-2.0
// liblzma for Swift (the .xz format). libdw needs the same library, so it is wherever libdw is.

#ifndef ALLOCS_LZMA_SHIM_H
#define ALLOCS_LZMA_SHIM_H

#include <lzma.h>

#endif
