// SPDX-License-Identifier: Apache-2.0
// mallopt(3), which Swift's own module of the C library leaves out.
#include <malloc.h>
