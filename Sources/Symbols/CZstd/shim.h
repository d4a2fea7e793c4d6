// SPDX-License-Identifier: Apache-2.0
// libzstd for Swift (RFC 8878). Only the functions of its stable interface are used.

#ifndef ALLOCS_ZSTD_SHIM_H
#define ALLOCS_ZSTD_SHIM_H

#include <zstd.h>

#endif
