// SPDX-License-Identifier: Apache-2.0
// Compiles the static asserts of the layout once for the target, and what of it is more than a few instructions.
#define _GNU_SOURCE
#include "SharedLayout.h"

#include <sys/syscall.h>
#include <unistd.h>

void allocs_wake_writer(uint64_t *position) {
  const int wake = 1;  // FUTEX_WAKE: not the private one, for the waiter is another process
  syscall(SYS_futex, (uint32_t *)position, wake, 1, NULL, NULL, 0);
}
